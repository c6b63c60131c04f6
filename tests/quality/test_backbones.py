"""Fetching what metrics need: from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fhrt.cli.main import run_app
from fhrt.errors import ModelError, UsageError
from fhrt.quality import backbones as module
from fhrt.quality.backbones import backbones, cache_folder, find, pull

CONTENT = b"weights " * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served() -> Iterator[tuple[str, list[str]]]:
    """The address of a server and the paths asked for: /file, /zip, /short; others are missing."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("other.onnx", b"other")
        archive.writestr("inner.onnx", CONTENT)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answers = {"/file": CONTENT, "/zip": packed.getvalue(), "/short": CONTENT[:100]}
            body = answers.get(self.path)
            self.send_response(200 if body else 404)
            length = len(CONTENT) if self.path == "/short" else len(body or b"")
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


Table = Callable[..., None]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Makes `thing` the only backbone, and an empty folder the cache."""
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "TABLE", tmp_path / "table.toml")

    def write(url: str, sha256: str = DIGEST, commercial: bool = True, member: str = "") -> None:
        module.TABLE.write_text(
            f'[thing]\nabout = "A thing."\nfile = "thing.onnx"\nurl = "{url}"\n'
            f'sha256 = "{sha256}"\nlicence = "Some-1.0"\ncommercial = {str(commercial).lower()}\n'
            f'member = "{member}"\n'
        )

    return write


def test_the_table_is_whole_and_says_what_it_does_not_know() -> None:
    known = backbones()
    assert list(known) == [
        *("alexnet", "lpips-lin", "inception", "niqe", "vgg19"),
        *("mobilefacenet", "arcface-buffalo_l", "sface"),
    ]
    for found in known.values():
        assert found.about and found.licence and Path(found.file).name == found.file
        assert found.url == "" or found.url.startswith("https://")
        assert len(found.sha256) == 64 or not found.url
    # torch's files carry the beginning of their checksum in their names
    for name in ("alexnet", "inception", "vgg19"):
        assert known[name].file.rpartition("-")[2] == known[name].sha256[:8] + ".pth"
    assert [found.name for found in known.values() if not found.commercial] == ["arcface-buffalo_l"]


def test_a_file_is_fetched_once_checked_and_found(
    served: tuple[str, list[str]], table: Table
) -> None:
    url, asked = served
    table(f"{url}/file")
    with pytest.raises(ModelError, match="fhrt models pull thing"):
        find("thing")
    path = pull("thing")
    assert path == find("thing") == cache_folder() / "thing.onnx"
    assert path.read_bytes() == CONTENT
    assert pull("thing") == path and asked == ["/file"]
    assert [p.name for p in cache_folder().iterdir()] == ["thing.onnx"]


def test_one_file_is_taken_out_of_an_archive(served: tuple[str, list[str]], table: Table) -> None:
    table(f"{served[0]}/zip", member="inner.onnx")
    assert pull("thing").read_bytes() == CONTENT
    assert [p.name for p in cache_folder().iterdir()] == ["thing.onnx"]


@pytest.mark.parametrize(
    ("where", "sha256", "member", "says"),
    [
        ("/file", "0" * 64, "", "is expected"),
        ("/file", "0" * 8, "", "is expected"),
        ("/missing", DIGEST, "", "404"),
        ("/short", "", "", "100 of 8000 bytes"),
        ("/file", DIGEST, "inner.onnx", "not a zip file"),
        ("/zip", DIGEST, "none.onnx", "none.onnx"),
    ],
)
def test_what_is_not_whole_is_not_kept(
    where: str,
    sha256: str,
    member: str,
    says: str,
    served: tuple[str, list[str]],
    table: Table,
) -> None:
    table(f"{served[0]}{where}", sha256, member=member)
    with pytest.raises(ModelError, match=says):
        pull("thing")
    assert list(cache_folder().iterdir()) == []


def test_nobody_answers(table: Table) -> None:
    table("http://127.0.0.1:9/file")
    with pytest.raises(ModelError, match="by hand, it belongs to"):
        pull("thing")


def test_an_unknown_checksum_is_recorded_and_holds_from_then_on(
    served: tuple[str, list[str]], table: Table
) -> None:
    table(f"{served[0]}/file", "")
    path = pull("thing")
    record = path.with_name("thing.onnx.sha256")
    assert record.read_text() == f"{DIGEST}  thing.onnx\n"
    path.write_bytes(b"other")
    with pytest.raises(ModelError, match=DIGEST):
        pull("thing")


def test_a_file_of_ones_own_is_taken_where_no_address_is_known(table: Table) -> None:
    table("", "")
    with pytest.raises(ModelError, match="put your file at"):
        pull("thing")
    cache_folder().mkdir(parents=True)
    (cache_folder() / "thing.onnx").write_bytes(CONTENT)
    assert pull("thing").read_bytes() == CONTENT


def test_a_non_commercial_licence_must_be_accepted(
    served: tuple[str, list[str]], table: Table
) -> None:
    table(f"{served[0]}/file", commercial=False)
    with pytest.raises(UsageError, match="--accept-licence"):
        pull("thing")
    assert served[1] == []
    assert pull("thing", accept_licence=True).is_file()


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == Path("/somewhere/fhrt/weights")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library/Caches/fhrt/weights"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_folder() == Path("/local/fhrt/weights")


def test_the_command_prints_the_facts_and_fetches(
    served: tuple[str, list[str]], table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    table(f"{served[0]}/file", commercial=False)
    assert run_app(["models", "pull", "thing"]) == 2
    said = capsys.readouterr()
    assert "Some-1.0" in said.out and DIGEST in said.out and "--accept-licence" in said.err
    assert run_app(["models", "pull", "thing", "--accept-licence"]) == 0
    assert find("thing").is_file()
    assert run_app(["models", "pull"]) == 0 and "thing" in capsys.readouterr().out
    assert run_app(["models", "pull", "thong"]) == 2
    assert "did you mean 'thing'" in capsys.readouterr().err
