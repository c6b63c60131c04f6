"""Fetching from a server that breaks off, lies about lengths, changes its file, and worse."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from served import CONTENT, Site, announces, breaks_off, honest, says, send, serving

from fhrt import fetch as module
from fhrt.errors import ModelError
from fhrt.fetch import TRIES, fetch

DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = bytes(reversed(CONTENT))
CHILD = "import sys; from pathlib import Path; from fhrt.fetch import fetch; "
CHILD += "fetch(sys.argv[1], Path(sys.argv[2]))"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(module, "PAUSE", 0.001)
    monkeypatch.setattr("urllib.request._opener", None)  # it remembers the proxies
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as found:
        yield found


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "thing.pth"


def left_at(target: Path) -> list[str]:
    """The names in the target's folder, but for the lock, which stays."""
    return sorted(p.name for p in target.parent.iterdir() if not p.name.endswith(".lock"))


def refused(site: Site, target: Path, sha256: str = "", path: str = "/thing") -> str:
    """What is said where nothing is had: one line that names the address and the place."""
    with pytest.raises(ModelError) as raised:
        fetch(site.url + path, target, sha256)
    said = str(raised.value)
    assert "\n" not in said and site.url + path in said and target.name in said
    assert not target.exists()
    return said


def test_a_whole_file_is_named_and_its_progress_told(site: Site, target: Path) -> None:
    told: list[tuple[int, int | None]] = []
    fetch(site.url, target, DIGEST, progress=lambda here, there: told.append((here, there)))
    assert target.read_bytes() == CONTENT and left_at(target) == ["thing.pth"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    fetch(site.url, target, "0" * 64)  # it is there
    assert site.ranges == [""]


def test_what_broke_off_goes_on_from_there(site: Site, target: Path) -> None:
    # more often than a server may fail in a row: each time brings something
    site.answers = [breaks_off(1000)] * (2 * TRIES)
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT
    assert site.ranges == ["", *(f"bytes={1000 * i}-" for i in range(1, 2 * TRIES + 1))]


def test_a_server_that_always_stops_at_the_same_place_is_given_up(site: Site, target: Path) -> None:
    site.answers = [breaks_off(0)] * 100
    assert f"0 of {len(CONTENT)} bytes came" in refused(site, target)
    assert len(site.asked) == TRIES
    assert ".thing.pth.part" in left_at(target)


def test_a_length_that_is_too_long_is_found_out(site: Site, target: Path) -> None:
    site.answers = [announces(len(CONTENT) + 500)] * 100
    assert f"{len(CONTENT)} of {len(CONTENT) + 500} bytes came" in refused(site, target)


@pytest.mark.parametrize("sha256", ["", DIGEST])
def test_a_length_that_is_too_short_is_found_out(site: Site, target: Path, sha256: str) -> None:
    site.answers = [announces(4000)] * 100
    assert "more came than the 4000 bytes" in refused(site, target, sha256)
    assert left_at(target) == []
    site.answers = [announces(4000)]
    fetch(site.url, target, sha256)
    assert target.read_bytes() == CONTENT


def test_416_for_a_part_that_is_all_there(site: Site, target: Path) -> None:
    begun(site, target, CONTENT)
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT and left_at(target) == ["thing.pth"]
    assert site.ranges == [f"bytes={len(CONTENT)}-"]


def test_416_for_a_part_of_another_file(site: Site, target: Path) -> None:
    begun(site, target, CONTENT)
    site.content = CONTENT[:5000]
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT[:5000]
    assert site.ranges == [f"bytes={len(CONTENT)}-", ""]
    target.unlink()
    begun(site, target, CONTENT[:7000])
    site.content = CONTENT
    site.answers = [says(416)]  # and nothing about the length
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_sends_it_all_again(site: Site, target: Path) -> None:
    site.answers = [breaks_off(1000), announces(len(CONTENT))]
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT and site.ranges == ["", "bytes=1000-"]


def test_a_file_that_changes_meanwhile_is_fetched_anew(site: Site, target: Path) -> None:
    def change(handler: BaseHTTPRequestHandler, site: Site) -> None:
        site.content, site.tag = OTHER, '"two"'
        honest(handler, site)

    site.answers = [breaks_off(1000), change]
    fetch(site.url, target)
    assert target.read_bytes() == OTHER and site.ranges == ["", "bytes=1000-"]


def test_a_range_of_another_version_is_not_joined_on(site: Site, target: Path) -> None:
    def careless(handler: BaseHTTPRequestHandler, site: Site) -> None:
        site.content, site.tag = OTHER, '"two"'
        place = f"bytes 1000-{len(OTHER) - 1}/{len(OTHER)}"
        length = str(len(OTHER) - 1000)
        headers = {"Content-Length": length, "Content-Range": place, "ETag": site.tag}
        send(handler, 206, headers, OTHER[1000:])

    site.answers = [breaks_off(1000), careless]
    fetch(site.url, target)
    assert target.read_bytes() == OTHER and site.ranges == ["", "bytes=1000-", ""]


def test_a_range_from_another_place_is_not_joined_on(site: Site, target: Path) -> None:
    def shifted(handler: BaseHTTPRequestHandler, site: Site) -> None:
        place = f"bytes 900-{len(CONTENT) - 1}/{len(CONTENT)}"
        headers = {"Content-Length": str(len(CONTENT) - 900), "Content-Range": place}
        send(handler, 206, headers, CONTENT[900:])

    site.answers = [breaks_off(1000), shifted]
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT and site.ranges == ["", "bytes=1000-", ""]


def test_a_part_of_unknown_version_is_not_gone_on_with(site: Site, target: Path) -> None:
    site.tag = 'W/"weak"'
    site.answers = [breaks_off(1000)]
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT and site.ranges == ["", ""]


def test_a_part_of_another_address_or_without_a_note_is_not_gone_on_with(
    site: Site, target: Path
) -> None:
    begun(site, target, OTHER[:1000], url="http://elsewhere/")
    fetch(site.url, target)
    target.unlink()
    begun(site, target, OTHER[:1000])
    (target.parent / ".thing.pth.part.json").write_text("{")
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT and site.ranges == ["", ""]


def test_404_is_not_tried_again(site: Site, target: Path) -> None:
    said = refused(site, target, path="/missing")
    assert "404" in said and str(target) in said
    assert len(site.asked) == 1 and left_at(target) == []


def test_500_is_tried_again(site: Site, target: Path) -> None:
    site.answers = [says(500), says(503), says(429)]
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT
    target.unlink()
    site.answers = [says(500)] * 100
    assert "500" in refused(site, target)


def test_an_empty_answer_is_no_file(site: Site, target: Path) -> None:
    site.content = b""
    site.answers = [announces(0)] * 100
    assert "nothing came" in refused(site, target)


def test_nobody_answers(site: Site, target: Path) -> None:
    site.url = "http://127.0.0.1:9"
    assert "no answer" in refused(site, target)


def test_a_file_with_another_checksum_is_not_kept(site: Site, target: Path) -> None:
    said = refused(site, target, "0" * 64)
    assert DIGEST in said and "0" * 64 in said
    assert left_at(target) == [] and site.ranges == [""]


def test_a_part_that_spoils_the_checksum_is_thrown_away(site: Site, target: Path) -> None:
    begun(site, target, OTHER[:1000])
    fetch(site.url, target, DIGEST)
    assert target.read_bytes() == CONTENT and site.ranges == ["bytes=1000-", ""]


def test_without_length_and_checksum_nobody_knows_whether_it_is_whole(
    site: Site, target: Path
) -> None:
    def unsaid(handler: BaseHTTPRequestHandler, site: Site) -> None:
        send(handler, 200, {}, site.content)

    site.answers = [unsaid, unsaid]
    assert "does not say how long" in refused(site, target)
    fetch(site.url, target, DIGEST)
    assert target.read_bytes() == CONTENT


def test_a_chunked_answer_that_breaks_off_is_no_file(site: Site, target: Path) -> None:
    def chunks(handler: BaseHTTPRequestHandler, site: Site) -> None:
        handler.protocol_version = "HTTP/1.1"
        send(handler, 200, {"Transfer-Encoding": "chunked"}, b"400\r\n" + CONTENT[:1000])

    site.answers = [chunks]
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT and site.ranges == ["", ""]
    target.unlink()
    begun(site, target, CONTENT[:1000], total=None)  # a chunked answer of known version
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT and site.ranges[2:] == ["bytes=1000-"]


def test_a_killed_download_goes_on(site: Site, target: Path) -> None:
    release = threading.Event()

    def slow(handler: BaseHTTPRequestHandler, site: Site) -> None:
        honest(handler, site, 6000)
        handler.wfile.flush()
        release.wait(20)

    site.answers = [slow]
    child = subprocess.Popen([sys.executable, "-c", CHILD, site.url, str(target)])
    part = target.with_name(".thing.pth.part")
    limit = time.monotonic() + 20
    while not (part.is_file() and part.stat().st_size) and time.monotonic() < limit:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    release.set()
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT) and not target.exists()
    fetch(site.url, target)
    assert target.read_bytes() == CONTENT and site.ranges == ["", f"bytes={kept}-"]


def test_many_at_once_fetch_it_once(site: Site, target: Path) -> None:
    def slow(handler: BaseHTTPRequestHandler, site: Site) -> None:
        time.sleep(0.5)
        honest(handler, site)

    site.answers = [slow]
    words = [sys.executable, "-c", CHILD, site.url, str(target)]
    children = [subprocess.Popen(words) for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: fetch(site.url, target), range(4)))
    assert [child.wait(20) for child in children] == [0, 0]
    assert target.read_bytes() == CONTENT and site.ranges == [""]


def test_the_proxy_of_the_environment_is_asked(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.setenv("no_proxy", "")
    fetch("http://weights.invalid/thing", target)
    assert site.asked == [("http://weights.invalid/thing", "")]


def test_a_place_that_cannot_be_written_is_one_line(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        fetch(site.url, tmp_path / "file" / "thing.pth")
    assert site.asked == []


def begun(
    site: Site, target: Path, part: bytes, url: str = "", total: int | None = len(CONTENT)
) -> None:
    """Leave behind what a process that was killed does."""
    target.parent.mkdir(exist_ok=True)
    target.with_name(".thing.pth.part").write_bytes(part)
    note = {"url": url or site.url, "version": site.tag, "total": total}
    target.with_name(".thing.pth.part.json").write_text(json.dumps(note))
