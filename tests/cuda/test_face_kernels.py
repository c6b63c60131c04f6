"""crop_faces and paste_faces, run on the CPU, against fhrt.faces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from emulator import Emulator

from fhrt.cuda.launch import crop_faces, paste_faces
from fhrt.errors import UsageError
from fhrt.faces import Picture, crop, enlarge, paste
from fhrt.layout import to_batch, to_pictures

KINDS = (np.float16, np.float32)
pytestmark = pytest.mark.skipif(
    int(cv2.__version__.split(".")[0]) < 5, reason="OpenCV 4 samples at 1/32 of a pixel only"
)


def matrix_of(centre: tuple[float, float], zoom: float, angle: float, side: int) -> np.ndarray:
    """Picture to a crop of `side` whose middle shows `centre`, `zoom` times enlarged."""
    cos, sin = zoom * np.cos(np.radians(angle)), zoom * np.sin(np.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.concatenate([turn, (side / 2 - turn @ centre)[:, None]], 1)


def random_matrices(
    count: int, shape: tuple[int, ...], side: int, zooms: tuple[float, float], seed: int = 0
) -> list[np.ndarray]:
    """Faces anywhere in a picture, a fifth of its size beyond its border included."""
    rng = np.random.default_rng(seed)
    height, width = shape[:2]
    return [
        matrix_of(
            (rng.uniform(-0.2, 1.2) * width, rng.uniform(-0.2, 1.2) * height),
            np.exp(rng.uniform(*np.log(zooms))),
            rng.uniform(-180, 180),
            side,
        )
        for _ in range(count)
    ]


def cut(gpu: Emulator, picture: Picture, matrices: list, side: int, kind: type) -> np.ndarray:
    batch = np.full((len(matrices), 3, side, side), np.nan, kind)
    crop_faces(gpu, [picture] * len(matrices), matrices, batch)
    return batch


def assert_agrees(found: np.ndarray, expected: np.ndarray, unit: float) -> None:
    """Nowhere more than one level apart, and in one percent at most: where a mean ends in a half.
    fp16 adds 1/16 of a level."""
    apart = np.abs(found.astype(np.float64) - expected) / unit
    assert np.isfinite(apart).all()
    assert apart.max() <= 1.1
    assert (apart > 0.1).mean() <= 0.01


@pytest.fixture(scope="module")
def noise() -> Picture:
    return np.random.default_rng(5).integers(0, 256, (301, 277, 3), np.uint8)


@pytest.fixture(scope="module")
def odd(astronaut: Picture) -> Picture:
    return np.ascontiguousarray(astronaut[:487, :511])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side, zooms", [(128, (0.5, 4)), (96, (0.1, 0.5)), (61, (0.9, 1.1))])
def test_a_batch_of_crops_is_that_of_the_cpu(
    gpu: Emulator, odd: Picture, side: int, zooms: tuple[float, float], kind: type
) -> None:
    matrices = random_matrices(12, odd.shape, side, zooms, seed=side)
    expected = to_batch([crop(odd, matrix, side) for matrix in matrices])
    assert_agrees(cut(gpu, odd, matrices, side, kind), expected, 1 / 255)
    assert gpu.launched == ["crop_faces"]


@pytest.mark.parametrize("zoom", [2.3, 1, 0.7, 1 / 2, 1 / 3.4, 1 / 9])
def test_noise_is_cropped_as_on_the_cpu_at_every_zoom(
    gpu: Emulator, noise: Picture, zoom: float
) -> None:
    matrices = [matrix_of((140, 160), zoom, angle, 80) for angle in (0, 33, 90)]
    expected = to_batch([crop(noise, matrix, 80) for matrix in matrices])
    assert_agrees(cut(gpu, noise, matrices, 80, np.float32), expected, 1 / 255)


@pytest.mark.parametrize(
    "centre", [(0, 150), (276, 300), (140, -30), (-400, 150), (150, 9000), (-5000, -7000)]
)
def test_a_face_that_is_partly_or_wholly_outside_is_mirrored_as_on_the_cpu(
    gpu: Emulator, noise: Picture, centre: tuple[float, float]
) -> None:
    matrices = [matrix_of(centre, zoom, 20, 64) for zoom in (0.4, 1.0, 1.7)]
    expected = to_batch([crop(noise, matrix, 64) for matrix in matrices])
    assert_agrees(cut(gpu, noise, matrices, 64, np.float32), expected, 1 / 255)


def test_a_picture_of_one_row_or_one_pixel_is_cropped_as_on_the_cpu(gpu: Emulator) -> None:
    for shape in ((1, 9, 3), (9, 1, 3), (1, 1, 3)):
        picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        matrices = [matrix_of((4, 4), zoom, 10, 16) for zoom in (0.2, 0.5, 2)]
        expected = to_batch([crop(picture, matrix, 16) for matrix in matrices])
        assert_agrees(cut(gpu, picture, matrices, 16, np.float32), expected, 1 / 255)


def test_faces_of_several_frames_with_padded_rows_are_cut_in_one_launch(
    gpu: Emulator, odd: Picture, noise: Picture
) -> None:
    padded = np.zeros((301, 320, 3), np.uint8)[:, :277]
    padded[:] = noise
    frames = [odd, padded, odd]
    matrices = random_matrices(3, noise.shape, 48, (0.3, 2))
    batch = np.zeros((3, 3, 48, 48), np.float32)
    crop_faces(gpu, frames, matrices, batch)
    expected = [crop(frame, m, 48) for frame, m in zip((odd, noise, odd), matrices, strict=True)]
    assert_agrees(batch, to_batch(expected), 1 / 255)
    assert gpu.launched == ["crop_faces"]


@pytest.mark.parametrize("count", [0, 64])
def test_no_face_launches_nothing_and_64_go_in_one_launch(
    gpu: Emulator, odd: Picture, count: int
) -> None:
    matrices = random_matrices(count, odd.shape, 40, (0.2, 1))
    batch = cut(gpu, odd, matrices, 40, np.float16)
    picture, scene = odd.copy(), odd.copy()
    paste_faces(gpu, picture, batch, batch[:, ::-1].copy(), matrices)
    for part, matrix in zip(batch, matrices, strict=True):
        before = to_pictures(part[None].astype(np.float32))[0]
        paste(scene, before, before[..., ::-1], matrix)
    assert_agrees(picture, scene, 1)
    assert np.array_equal(picture, odd) == (count == 0)
    assert gpu.launched == ["crop_faces", "paste_faces"] * (count > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1, 2])
def test_an_unchanged_crop_leaves_the_picture_bit_for_bit(
    gpu: Emulator, odd: Picture, scale: int, kind: type
) -> None:
    matrices = random_matrices(6, odd.shape, 96, (0.2, 3))
    batch = cut(gpu, odd, matrices, 96, kind)
    picture = enlarge(odd, scale)
    paste_faces(gpu, picture, batch, batch.copy(), matrices, scale)
    assert np.array_equal(picture, enlarge(odd, scale))


def restored(batch: np.ndarray, seed: int) -> np.ndarray:
    """A change of the size of a restoration, beyond black and white in places."""
    rng = np.random.default_rng(seed)
    return (batch + rng.normal(0, 0.2, batch.shape)).astype(batch.dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale, zooms", [(1, (0.3, 1.2)), (1, (2, 7)), (2, (0.5, 5)), (4, (2, 3))])
def test_overlapping_faces_are_pasted_as_on_the_cpu(
    gpu: Emulator, odd: Picture, scale: int, zooms: tuple[float, float], kind: type
) -> None:
    small = np.ascontiguousarray(odd[100:301, 120:319])
    matrices = random_matrices(20, small.shape, 96, zooms, seed=scale)
    before = cut(gpu, small, matrices, 96, kind)
    after = restored(before, 3)
    picture, scene = enlarge(small, scale), enlarge(small, scale)
    paste_faces(gpu, picture, before, after, matrices, scale)
    olds, news = (to_pictures(batch.astype(np.float32)) for batch in (before, after))
    for old, new, matrix in zip(olds, news, matrices, strict=True):
        paste(scene, old, new, matrix, scale)
    assert (scene != enlarge(small, scale)).mean() > 0.1
    assert_agrees(picture, scene, 1)


def test_faces_that_saturate_where_they_overlap_are_added_in_their_order(gpu: Emulator) -> None:
    grey = np.full((120, 120, 3), 200, np.uint8)
    matrices = [matrix_of((60, 60), 1, 0, 64)] * 2
    before = np.full((2, 3, 64, 64), 0.5, np.float32)
    after = before.copy()
    after[0], after[1] = 1.0, 0.0  # up to white and then down, or down and then up
    results = []
    for order in ([0, 1], [1, 0]):
        picture, scene = grey.copy(), grey.copy()
        paste_faces(gpu, picture, before[order], after[order], matrices)
        for old, new in zip(to_pictures(before[order]), to_pictures(after[order]), strict=True):
            paste(scene, old, new, matrices[0])
        assert np.array_equal(picture, scene)
        results.append(picture)
    assert [int(result[60, 60, 0]) for result in results] == [127, 199]


def test_crops_of_different_sizes_and_gains_go_back_in_one_launch(
    gpu: Emulator, odd: Picture
) -> None:
    sides = [64, 96, 33]
    matrices = [matrix_of((250, 150 + side), 0.8, side, side) for side in sides]
    before = [
        cut(gpu, odd, [m], side, np.float32)[0] for m, side in zip(matrices, sides, strict=True)
    ]
    after = [restored(part, side) for part, side in zip(before, sides, strict=True)]
    gains = np.array([[1.1, 1, 0.9], [0.8, 1.2, 1], [1, 1, 1.5]])
    picture, scene = odd.copy(), odd.copy()
    gpu.launched.clear()
    paste_faces(gpu, picture, before, after, matrices, gains=gains)
    assert gpu.launched == ["paste_faces"]
    for old, new, matrix, gain in zip(before, after, matrices, gains, strict=True):
        matched = new * gain[:, None, None].astype(np.float32)
        paste(scene, *to_pictures(np.stack([old, matched])), matrix)
    assert_agrees(picture, scene, 1)


@pytest.mark.parametrize("centre", [(0, 200), (510, 486), (200, -60), (-900, 100), (100, 2000)])
def test_only_the_face_s_own_pixels_in_the_picture_are_written(
    gpu: Emulator, odd: Picture, centre: tuple[float, float]
) -> None:
    wide = np.full((odd.shape[0] + 2, 600, 3), 77, np.uint8)
    picture = wide[1:-1, : odd.shape[1]]
    picture[:] = odd
    matrices = [matrix_of(centre, 0.5, 15, 64)]
    before = cut(gpu, odd, matrices, 64, np.float32)
    paste_faces(gpu, picture, before, 1 - before, matrices)
    scene = odd.copy()
    paste(scene, *to_pictures(np.concatenate([before, 1 - before])), matrices[0])
    assert_agrees(picture, scene, 1)
    assert np.array_equal(picture == odd, scene == odd)
    assert (wide[[0, -1]] == 77).all() and (wide[:, odd.shape[1] :] == 77).all()


def test_arrays_that_do_not_fit_are_refused_before_anything_is_launched(
    gpu: Emulator, odd: Picture
) -> None:
    matrices = random_matrices(2, odd.shape, 32, (1, 1))
    batch = np.zeros((2, 3, 32, 32), np.float32)
    with pytest.raises(UsageError, match="1 pictures and 2 matrices"):
        crop_faces(gpu, [odd], matrices, batch)
    with pytest.raises(UsageError, match="float64"):
        crop_faces(gpu, [odd] * 2, matrices, batch.astype(np.float64))
    with pytest.raises(UsageError, match="contiguous"):
        crop_faces(gpu, [odd] * 2, matrices, batch.transpose(0, 1, 3, 2))
    with pytest.raises(UsageError, match=r"uint8 \(H, W, 3\)"):
        crop_faces(gpu, [odd[..., 0]] * 2, matrices, batch)
    with pytest.raises(UsageError, match=r"uint8 \(H, W, 3\)"):
        paste_faces(gpu, odd[:, ::-1], batch, batch, matrices)
    with pytest.raises(UsageError, match="differ in size"):
        paste_faces(gpu, odd, batch, batch[..., :16, :16].copy(), matrices)
    with pytest.raises(UsageError, match="float16 and some float32"):
        paste_faces(gpu, odd, batch, batch.astype(np.float16), matrices)
    assert gpu.launched == []
