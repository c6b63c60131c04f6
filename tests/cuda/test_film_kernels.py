"""NV12, P010, gray world, CLAHE and tiles, run on the CPU, against NumPy, OpenCV and FFmpeg."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
import twins
from emulator import Emulator

from fhrt.cuda.launch import blend_tiles, clahe, cut_tiles, gray_world, nv12_to_rgb, rgb_to_nv12
from fhrt.cuda.plan import LUMA, tile_starts
from fhrt.errors import UsageError
from fhrt.faces import Picture

SIZES = [(48, 64), (47, 63), (2, 2), (1, 1), (1, 8), (33, 1)]
KINDS = {8: np.uint8, 10: np.uint16}
each_matrix = pytest.mark.parametrize("matrix", list(LUMA))
each_range = pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
each_depth = pytest.mark.parametrize("bits", [8, 10])


def apart(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return np.abs(found.astype(int) - expected)


def assert_agrees(found: np.ndarray, expected: np.ndarray, step: int = 1) -> None:
    """Nowhere more than one step apart, and in half a percent at most: where float32 and float64
    round a half the other way."""
    off = apart(found, expected)
    assert off.max() <= step
    assert (off > 0).sum() <= 0.005 * off.size + 2


def empty_planes(height: int, width: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    half = ((height + 1) // 2, (width + 1) // 2, 2)
    return np.zeros((height, width), KINDS[bits]), np.zeros(half, KINDS[bits])


def planes_of(
    gpu: Emulator, picture: Picture, matrix: str, bits: int, full: bool
) -> tuple[np.ndarray, np.ndarray]:
    luma, chroma = empty_planes(*picture.shape[:2], bits)
    rgb_to_nv12(gpu, picture, luma, chroma, matrix, full)
    return luma, chroma


def picture_of(
    gpu: Emulator, luma: np.ndarray, chroma: np.ndarray, matrix: str, full: bool
) -> Picture:
    picture = np.zeros((*luma.shape[:2], 3), np.uint8)
    nv12_to_rgb(gpu, luma, chroma, picture, matrix, full)
    return picture


@each_depth
@each_range
@each_matrix
def test_rgb_goes_to_planes_and_back_as_the_standards_say(
    gpu: Emulator, matrix: str, full: bool, bits: int
) -> None:
    rng = np.random.default_rng(bits)
    for height, width in SIZES:
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        luma, chroma = planes_of(gpu, picture, matrix, bits, full)
        expected = twins.to_planes(picture, matrix, bits, full)
        step = 1 if bits == 8 else 1 << 6
        for plane, twin in zip((luma, chroma), expected, strict=True):
            assert_agrees(plane, twin, step)
        found = picture_of(gpu, *expected, matrix, full)
        assert_agrees(found, twins.from_planes(*expected, matrix, bits, full))


@each_depth
@each_range
@each_matrix
def test_planes_of_any_numbers_are_read_as_the_standards_say(
    gpu: Emulator, matrix: str, full: bool, bits: int
) -> None:
    luma, chroma = empty_planes(45, 31, bits)
    rng = np.random.default_rng(1)
    for plane in (luma, chroma):  # also what no RGB gives, blacker than black and whiter than white
        plane[:] = rng.integers(0, 2**bits, plane.shape) << (0 if bits == 8 else 6)
    found = picture_of(gpu, luma, chroma, matrix, full)
    assert_agrees(found, twins.from_planes(luma, chroma, matrix, bits, full))


@each_depth
@each_range
@each_matrix
def test_a_picture_whose_colour_is_even_in_each_block_survives_the_way_there_and_back(
    gpu: Emulator, matrix: str, full: bool, bits: int
) -> None:
    blocks = np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8)
    picture = blocks.repeat(2, 0).repeat(2, 1)
    luma, chroma = planes_of(gpu, picture, matrix, bits, full)
    back = picture_of(gpu, luma, chroma, matrix, full)
    assert apart(back, picture).max() <= (1 if bits == 10 else 2 if full else 3)
    again = planes_of(gpu, back, matrix, bits, full)
    step = 1 if bits == 8 else 4 << 6  # what a level of 8-bit RGB is in stored numbers
    assert apart(again[1], chroma).max() <= step and apart(again[0], luma).max() <= step


FFMPEG = {"bt601": 5, "bt709": 1, "bt2020": 9}  # AVColorSpace


@each_depth
@each_range
@each_matrix
def test_ffmpeg_gives_even_patches_the_same_colours(
    gpu: Emulator, matrix: str, full: bool, bits: int
) -> None:
    patches = np.random.default_rng(3).integers(0, 256, (4, 6, 3), np.uint8)
    picture = patches.repeat(16, 0).repeat(16, 1)
    luma, chroma = planes_of(gpu, picture, matrix, bits, full)
    frame = av.VideoFrame(96, 64, "nv12" if bits == 8 else "p010le")
    for plane, values in zip(frame.planes, (luma, chroma), strict=True):
        rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
        rows[:, : values[0].size] = values.reshape(len(values), -1)
        plane.update(rows.tobytes())
    shown = frame.reformat(
        format="rgb24",
        src_colorspace=FFMPEG[matrix],
        dst_colorspace=FFMPEG[matrix],
        src_color_range=2 if full else 1,
        dst_color_range=2,
        interpolation=2 | 0x2000 | 0x40000,  # as fhrt.video reads films: without truncation
    ).to_ndarray()
    middle = (slice(8, None, 16), slice(8, None, 16))  # chroma is interpolated near the edges
    found = picture_of(gpu, luma, chroma, matrix, full)
    assert apart(shown[middle], found[middle]).max() <= 1
    assert apart(found[middle], patches).max() <= 3


def test_opencv_reads_nv12_of_bt601_the_same(gpu: Emulator, astronaut: Picture) -> None:
    luma, chroma = planes_of(gpu, astronaut, "bt601", 8, False)
    stacked = np.concatenate([luma, chroma.reshape(256, 512)])
    expected = cv2.cvtColor(stacked, cv2.COLOR_YUV2RGB_NV12)
    assert apart(picture_of(gpu, luma, chroma, "bt601", False), expected).max() <= 1


def test_planes_with_padded_rows_are_read_and_written_in_place(
    gpu: Emulator, astronaut: Picture
) -> None:
    picture = astronaut[:101, :77]
    surface = np.full((101 + 51, 128), 9, np.uint8)  # as a decoder lays them: one below the other
    luma = surface[:101, :77, None]
    chroma = surface[101:].reshape(51, 64, 2)[:, :39]
    rgb_to_nv12(gpu, picture, luma, chroma)
    expected = twins.to_planes(picture, "bt709", 8, False)
    assert apart(luma[..., 0], expected[0]).max() <= 1
    assert apart(chroma, expected[1]).max() <= 1
    assert (surface[:101, 77:] == 9).all() and (surface[101:, 78:] == 9).all()


def test_planes_that_are_no_nv12_are_refused(gpu: Emulator, astronaut: Picture) -> None:
    luma, chroma = empty_planes(512, 512, 8)
    for wrong in (chroma[:255], chroma.astype(np.uint16), chroma[..., 0], chroma[..., ::-1]):
        with pytest.raises(UsageError, match="no NV12 or P010 of 512×512"):
            rgb_to_nv12(gpu, astronaut, luma, wrong)
    with pytest.raises(UsageError, match="bt470"):
        rgb_to_nv12(gpu, astronaut, luma, chroma, "bt470")
    assert gpu.launched == []


@pytest.mark.parametrize("shape", [(487, 511), (1, 1), (3, 1000), (2000, 3)])
def test_gray_world_gives_the_channels_one_mean(gpu: Emulator, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    picture = (rng.integers(0, 140, (*shape, 3)) * [1.2, 0.9, 0.6]).astype(np.uint8)
    found = picture.copy()
    gray_world(gpu, found)
    assert_agrees(found, twins.gray_world(picture))
    means = found.reshape(-1, 3).mean(0)
    assert np.ptp(means) < (0.5 if found.size > 300 else 256)


def test_gray_world_of_a_picture_without_a_colour_leaves_that_at_zero(gpu: Emulator) -> None:
    picture = np.full((5, 7, 3), 60, np.uint8)
    picture[..., 2] = 0
    gray_world(gpu, picture)
    assert (picture == [40, 40, 0]).all()


@pytest.mark.parametrize("clip", [0, 0.5, 2, 40])
@pytest.mark.parametrize("tiles", [(8, 8), (3, 5), (1, 1)])
@pytest.mark.parametrize("shape", [(480, 512), (477, 511), (480, 511), (9, 8)])
def test_clahe_is_opencv_s(
    gpu: Emulator, astronaut: Picture, shape: tuple[int, int], tiles: tuple[int, int], clip: float
) -> None:
    plane = cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY)[: shape[0], : shape[1]]
    found = plane.copy()
    clahe(gpu, found, clip, tiles)
    assert_agrees(found, cv2.createCLAHE(clip, tiles).apply(plane))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 128, 500, 1001])
@pytest.mark.parametrize("overlap", [0, 1, 16, 40])
def test_tiles_reach_over_a_side_and_overlap_enough(length: int, overlap: int) -> None:
    starts = tile_starts(length, 64, overlap).tolist()
    assert starts[0] == 0 and starts[-1] == max(length - 64, 0)
    assert all(b - a <= 64 - overlap for a, b in pairwise(starts))
    assert len(starts) == 1 or (len(starts) - 1) * (64 - overlap) + overlap < length


@pytest.fixture
def cut(gpu: Emulator) -> Callable[..., tuple[np.ndarray, list[int], list[int]]]:
    """A picture to tiles, and where they begin."""

    def cut(picture: Picture, tile: int, overlap: int, kind: type = np.float32):
        ys, xs = (tile_starts(side, tile, overlap).tolist() for side in picture.shape[:2])
        tiles = np.full((len(xs) * len(ys), 3, tile, tile), np.nan, kind)
        cut_tiles(gpu, picture, tiles, overlap)
        return tiles, xs, ys

    return cut


TILINGS = [
    ((131, 97), 48, 8),
    ((100, 150), 64, 0),
    ((70, 69), 64, 40),
    ((20, 90), 32, 16),
    ((33, 20), 32, 4),
]


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("shape, tile, overlap", TILINGS)
def test_tiles_are_slices_and_their_blend_is_the_picture_bit_for_bit(
    gpu: Emulator, astronaut: Picture, cut: Callable, shape: tuple, tile: int, overlap: int, kind
) -> None:
    picture = astronaut[200 : 200 + shape[0], 200 : 200 + shape[1]]
    tiles, xs, ys = cut(picture, tile, overlap, kind)
    assert np.abs(tiles - twins.cut(picture, tile, xs, ys)).max() < 0.0003  # fp16 rounds
    back = np.zeros_like(picture)
    blend_tiles(gpu, tiles, back, 1, overlap)
    assert np.array_equal(back, picture)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("shape, tile, overlap", TILINGS)
def test_tiles_that_disagree_are_blended_with_weights_that_add_up_to_one(
    gpu: Emulator, astronaut: Picture, cut: Callable, shape: tuple, tile: int, overlap: int, scale
) -> None:
    picture = astronaut[: shape[0], : shape[1]]
    tiles, xs, ys = cut(picture, tile, overlap)
    larger = tiles.repeat(scale, 2).repeat(scale, 3)
    larger *= np.random.default_rng(6).uniform(0.5, 1.5, (len(tiles), 1, 1, 1)).astype(np.float32)
    size = (shape[0] * scale, shape[1] * scale)
    found = np.zeros((*size, 3), np.uint8)
    blend_tiles(gpu, larger, found, scale, overlap)
    places = ([x * scale for x in xs], [y * scale for y in ys])
    assert_agrees(found, twins.blend(larger, size, *places, overlap * scale))


def test_a_tile_fades_linearly_into_its_neighbour(gpu: Emulator) -> None:
    tiles = np.zeros((2, 3, 32, 32), np.float32)
    tiles[1] = 1
    picture = np.zeros((32, 54, 3), np.uint8)  # 32 + 32 − 10
    blend_tiles(gpu, tiles, picture, 1, 10)
    ramp = np.clip((np.arange(54) - 22 + 0.5) / 10, 0, 1)
    assert np.array_equal(picture[7, :, 1], np.floor(ramp * 255 + 0.5).astype(np.uint8))


def test_tiles_that_do_not_fit_the_picture_are_refused(gpu: Emulator) -> None:
    picture, tiles = np.zeros((100, 100, 3), np.uint8), np.zeros((4, 3, 64, 64), np.float32)
    cut_tiles(gpu, picture, tiles, 8)
    gpu.launched.clear()
    with pytest.raises(UsageError, match="3 tiles, and 2 × 2 are needed"):
        cut_tiles(gpu, picture, tiles[:3], 8)
    with pytest.raises(UsageError, match="do not fit"):
        cut_tiles(gpu, picture, tiles, 64)
    with pytest.raises(UsageError, match="do not fit 100×100 at scale 3"):
        blend_tiles(gpu, tiles, picture, 3, 8)
    assert gpu.launched == []
