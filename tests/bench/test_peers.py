"""The peers do the same work with the same weights; scenes hold the faces that they promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
pytest.importorskip("onnx", reason="fhrt[train] is not installed")

from fhrt.bench import peers, scenes  # noqa: E402
from fhrt.errors import UsageError  # noqa: E402
from fhrt.faces import Picture, choose_side  # noqa: E402
from fhrt.models import Recipe, WeightFile, recipe  # noqa: E402
from fhrt.quality.metrics import psnr  # noqa: E402
from fhrt.restorer import Restorer  # noqa: E402
from fhrt.runtime.session import open_session  # noqa: E402
from fhrt.video.reader import Frame, Reader  # noqa: E402
from fhrt.video.stream import restore_video  # noqa: E402


def test_peers_give_nearly_fhrts_picture_and_leave_torchs_threads_alone(
    restorer: Restorer, damaged: Picture
) -> None:
    faces = restorer.detect(damaged)
    side = choose_side(faces[0].landmarks, 1, restorer.session.sizes)
    ours = restorer.restore(damaged).picture
    before = torch.get_num_threads()
    with peers.torch_threads_kept():
        scene = peers.Scene(damaged, faces, side)
        found, gaps = peers.photo_peers(recipe("restore"), scene, "cpu", 1, compiled=False)
        theirs = {peer.name: peer.call(scene) for peer in found}
    assert torch.get_num_threads() == before
    assert list(theirs) == ["PyTorch eager", "ONNX Runtime, its defaults"]
    assert [gap.what for gap in gaps] == ["torch.compile"]
    x0, y0, x1, y1 = faces[0].box.astype(int)
    for name, picture in theirs.items():
        face, changed = picture[y0:y1, x0:x1], ours[y0:y1, x0:x1]
        # they paste the crop itself, blurred by two interpolations, and fhrt the change
        assert psnr(face, changed) > psnr(damaged[y0:y1, x0:x1], changed) + 1, name
        assert np.array_equal(picture[:20, -20:], damaged[:20, -20:]), name


def test_without_a_compiler_torch_compile_is_a_gap_of_one_line(
    restorer: Restorer, damaged: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = peers.eager

    def eager(recipe: Recipe, device: str, threads: int, compiled: bool = False) -> Any:
        if compiled:
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")
        return plain(recipe, device, threads)

    monkeypatch.setattr(peers, "eager", eager)
    scene = peers.Scene(damaged, restorer.detect(damaged), 256)
    with peers.torch_threads_kept():
        found, gaps = peers.photo_peers(recipe("restore"), scene, "cpu", 1)
    assert len(found) == 2
    assert gaps == [
        peers.Gap("torch.compile (cpu)", "InvalidCxxCompiler: No working C++ compiler found")
    ]


def test_decoding_all_first_gives_the_same_film(restorer: Restorer, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    scenes.write_film(film, scenes.photograph(640, 360, 1), 5)
    restore_video(film, tmp_path / "ours.mp4", restorer)
    peers.decode_all_then_process(film, tmp_path / "theirs.mp4", restorer)
    ours, theirs = (frames(tmp_path / f"{name}.mp4") for name in ("ours", "theirs"))
    assert len(ours) == len(theirs) == 5
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def frames(path: Path) -> list[Picture]:
    with Reader(path) as reader:
        return [item.picture for item in reader if isinstance(item, Frame)]


@pytest.mark.parametrize(("width", "height", "faces"), [(640, 360, 2), (1920, 1080, 16)])
def test_a_scene_has_the_faces_it_says(
    restorer: Restorer, width: int, height: int, faces: int
) -> None:
    picture = scenes.photograph(width, height, faces)
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8
    assert len(restorer.detect(picture)) == faces


def test_a_scene_too_small_for_its_faces_is_refused() -> None:
    with pytest.raises(UsageError, match="3 faces of 300 pixels do not fit into 640×360"):
        scenes.photograph(640, 360, 3)


def test_seeded_weights_run_alike_in_torch_and_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"width": 8, "blocks": 1}
    small = replace(
        recipe("gfpgan-v1.4"), name="small", task="upscale", network="srresnet", scale=4,
        sizes=(16,), multiple=1, options=options,
    )  # fmt: skip
    peers.seed(small, tmp_path)
    (file,) = small.checkpoint.files
    assert isinstance(file, WeightFile)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.file, "small.onnx"]
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    batch = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    run: Callable[[str], np.ndarray] = lambda runtime: open_session(  # noqa: E731
        small, "cpu", runtime, 1
    )(batch)
    with peers.torch_threads_kept():
        assert np.abs(run("onnx") - run("torch")).max() < 1e-3
