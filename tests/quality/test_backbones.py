"""The table of what metrics need, and finding it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhrt.errors import ModelError, UsageError
from fhrt.quality.backbones import backbones, find
from fhrt.weights import pull


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    return tmp_path


def test_the_table_is_whole_and_says_what_it_does_not_know() -> None:
    known = backbones()
    assert list(known) == [
        *("alexnet", "lpips-lin", "inception", "niqe", "vgg19"),
        *("mobilefacenet", "arcface-buffalo_l", "sface"),
    ]
    for found in known.values():
        assert found.about and found.licence
        (file,) = found.files
        assert Path(file.file).name == file.file
        assert file.url == "" or file.url.startswith("https://")
        assert len(file.sha256) == 64 or not file.url
    # torch's files carry the beginning of their checksum in their names
    for name in ("alexnet", "inception", "vgg19"):
        (file,) = known[name].files
        assert file.file.rpartition("-")[2] == file.sha256[:8] + ".pth"
    assert [found.name for found in known.values() if not found.commercial] == ["arcface-buffalo_l"]


def test_what_is_not_there_yet_is_said_with_the_command_that_fetches_it(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"`fhrt models pull vgg19` fetches it"):
        find("vgg19")
    (cache / "vgg19-dcbb9e9d.pth").write_bytes(b"x")
    assert find("vgg19") == cache / "vgg19-dcbb9e9d.pth"
    with pytest.raises(UsageError, match="did you mean 'vgg19'"):
        find("vgg18")


def test_a_file_of_ones_own_needs_its_licence_accepted_too(cache: Path) -> None:
    (cache / "w600k_r50.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match="`fhrt models pull arcface-buffalo_l --accept-licence`"):
        find("arcface-buffalo_l")
    with pytest.raises(ModelError, match="is expected"):  # accepted, and found to be another file
        pull(backbones()["arcface-buffalo_l"], accept_licence=True)
    assert find("arcface-buffalo_l") == cache / "w600k_r50.onnx"
