"""Weight files of other people: fetched, checked, pinned, licensed; and `fhrt models`."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import CONTENT, Site, announces, serving

from fhrt import fetch, weights
from fhrt.cli.main import run_app
from fhrt.errors import ModelError, UsageError
from fhrt.quality import backbones
from fhrt.weights import (
    Published,
    WeightFile,
    cache_folder,
    check_licence,
    locate,
    pull,
    verify,
)

DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server, and an empty folder as the cache."""
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as found:
        yield found


def thing(site: Site, sha256: str = DIGEST, commercial: bool = True, member: str = "") -> Published:
    file = WeightFile("thing.onnx", site.url + "/thing.onnx", sha256, member)
    return Published("thing", "A thing.", "Some-1.0", commercial, (file,))


def kept() -> list[str]:
    """What is to be seen in the cache."""
    return sorted(p.name for p in cache_folder().iterdir() if not p.name.startswith("."))


def test_a_file_is_fetched_once_checked_and_found(site: Site) -> None:
    path = cache_folder() / "thing.onnx"
    assert locate("thing.onnx") is None
    assert pull(thing(site)) == pull(thing(site)) == [path] == [locate("thing.onnx")]
    assert path.read_bytes() == CONTENT and kept() == ["thing.onnx"]
    assert site.ranges == [""]


def test_it_is_fetched_to_fhrt_weights_where_that_is_set(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (in_cache,) = pull(thing(site))
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path / "own"))
    assert pull(thing(site)) == [in_cache]  # found there as well
    in_cache.unlink()
    assert pull(thing(site)) == [tmp_path / "own" / "thing.onnx"]


def test_one_file_is_taken_out_of_an_archive(site: Site) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("other.onnx", b"other")
        archive.writestr("inner.onnx", CONTENT)
    for member, said in (("inner.onnx", "not a zip file"), ("none.onnx", "no none.onnx in it")):
        with pytest.raises(ModelError, match=said):
            pull(thing(site, member=member))
        assert kept() == []
        site.content = packed.getvalue()
    with pytest.raises(ModelError, match="is expected"):
        pull(thing(site, "0" * 64, member="inner.onnx"))
    assert kept() == []
    (path,) = pull(thing(site, member="inner.onnx"))
    assert path.read_bytes() == CONTENT and kept() == ["thing.onnx"]


@pytest.mark.parametrize("sha256", ["0" * 64, ""])
def test_what_is_not_whole_or_another_file_is_not_kept(site: Site, sha256: str) -> None:
    if not sha256:
        site.answers = [announces(len(CONTENT) + 1)] * 10
    with pytest.raises(ModelError, match=r"is expected|bytes came"):
        pull(thing(site, sha256))
    assert kept() == []


def test_an_unknown_checksum_is_recorded_and_holds_from_then_on(site: Site) -> None:
    (path,) = pull(thing(site, ""))
    assert path.with_name("thing.onnx.sha256").read_text() == f"{DIGEST}  thing.onnx\n"
    path.write_bytes(b"other")
    with pytest.raises(ModelError, match=f"{DIGEST} is expected: it is damaged"):
        pull(thing(site, ""))
    path.unlink()
    site.content = b"other"
    with pytest.raises(ModelError, match=f"{DIGEST} is expected"):
        pull(thing(site, ""))
    assert not path.exists()


def test_verify_tells_ok_from_changed_and_unknown(site: Site) -> None:
    file = WeightFile("thing.onnx")
    with pytest.raises(ModelError, match="in none of"):
        verify(file)
    path = cache_folder() / "thing.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert verify(file) == ("unknown", DIGEST, path)
    assert verify(WeightFile("thing.onnx", sha256=DIGEST)) == ("ok", DIGEST, path)
    assert verify(WeightFile("thing.onnx", sha256="0" * 64))[0] == "changed"
    pull(thing(site, ""))
    assert verify(file)[0] == "ok" and site.asked == []


def test_a_file_of_ones_own_is_taken_where_no_address_is_known(site: Site) -> None:
    own = Published("thing", "", "MIT", True, (WeightFile("thing.onnx"),))
    with pytest.raises(ModelError, match=r"put yours at .*thing\.onnx"):
        pull(own)
    cache_folder().mkdir(parents=True)
    (cache_folder() / "thing.onnx").write_bytes(CONTENT)
    assert pull(own)[0].read_bytes() == CONTENT


def test_offline_nothing_is_fetched(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=f"not here; offline, put {site.url}/thing.onnx at"):
        pull(thing(site), offline=True)
    monkeypatch.setenv("FHRT_OFFLINE", "1")
    with pytest.raises(ModelError, match="offline"):
        pull(thing(site))
    assert site.asked == []
    monkeypatch.setenv("FHRT_OFFLINE", "0")
    (path,) = pull(thing(site))
    assert pull(thing(site), offline=True) == [path]


def test_a_licence_is_accepted_once_and_in_its_words(site: Site) -> None:
    bound = thing(site, commercial=False)
    for refused in (lambda: pull(bound), lambda: check_licence(bound)):
        with pytest.raises(UsageError, match=r"thing is not for commercial use .*Some-1\.0"):
            refused()
    assert site.asked == []
    assert pull(bound, accept_licence=True) == pull(bound)
    check_licence(bound)
    with pytest.raises(UsageError, match=r"Other-2\.0"):
        check_licence(Published("thing", "", "Other-2.0", False, ()))


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == Path("/somewhere/fhrt/weights")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library/Caches/fhrt/weights"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert cache_folder() == Path("/local/fhrt/weights")


def test_the_commands(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One recipe and one backbone through list, pull, verify and path."""

    def call(*words: str) -> tuple[int, str, str]:
        code = run_app(["models", *words])
        return code, *capfd.readouterr()

    monkeypatch.setattr(weights, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(backbones, "TABLE", tmp_path / "table.toml")
    (tmp_path / "export").mkdir()
    facts = 'about = "It is."\nlicence = "Some-1.0"\ncommercial = false\n'
    source = f'file = "gan.pth"\nurl = "{site.url}/gan.pth"\nsha256 = "{DIGEST}"\n'
    model = f'{facts}task = "restore"\nnetwork = "gan"\n[[checkpoint.files]]\n{source}'
    (tmp_path / "export" / "gan.toml").write_text(model)
    (tmp_path / "export" / "bare.toml").write_text(facts + 'task = "restore"\nnetwork = "gan"\n')
    table = f'[net]\nfile = "net.pth"\nurl = "{site.url}/net.pth"\nsha256 = ""\n{facts}'
    backbones.TABLE.write_text(table.replace("false", "true"))

    code, out, _ = call("pull", "gan")
    assert code == 2 and "Some-1.0" in out and DIGEST in out and site.url in out
    code, _, err = call("path", "gan")
    assert code == 1 and "gan is not here" in err
    assert call("pull", "gan", "net", "--accept-licence")[0] == 0
    path = str(cache_folder() / "gan.pth")
    assert call("path", "gan") == (0, path + "\n", "")
    code, out, _ = call("--json")
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert code == 0 and list(rows) == ["bare", "gan", "net"]
    assert (rows["gan"]["path"], rows["gan"]["commercial"]) == (path, False)
    assert (rows["bare"]["here"], rows["net"]["here"], rows["net"]["task"]) == (
        *(False, True, "metric"),
    )
    code, out, _ = call()
    assert code == 0 and "Some-1.0" in out

    assert [line.split()[:2] for line in call("verify")[1].splitlines()] == [["ok", DIGEST]] * 2
    (cache_folder() / "net.pth").write_bytes(b"changed")
    code, out, _ = call("verify")
    assert code == 1 and [line.split()[0] for line in out.splitlines()] == ["ok", "changed"]
    assert call("verify", "gan")[0] == 0
    code, out, _ = call("verify", "bare")
    assert (code, out) == (1, "missing  bare\n")

    (cache_folder() / "gan.pth").unlink()
    code, _, err = call("pull", "gan", "--offline")
    assert code == 1 and "offline" in err
    code, _, err = call("pull", "bare", "--accept-licence")
    assert code == 1 and "--checkpoint" in err
    for words in (("pull", "gam"), ("verify", "gam"), ("path", "gam")):
        code, _, err = call(*words)
        assert code == 2 and "did you mean 'gan'" in err
    assert call("pull")[0] == 2
