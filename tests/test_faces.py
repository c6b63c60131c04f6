"""Alignment, cropping and pasting, against scikit-image, OpenCV and the official code's figures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.transform import SimilarityTransform

from fhrt.faces import (
    TEMPLATE,
    Picture,
    choose_side,
    crop,
    crop_matrix,
    enlarge,
    landmark_crop_matrix,
    paste,
    similarity,
    source_side,
)

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
ALIGN = SHARED / "reference" / "functions" / "face_align.npz"
ALIGN_200 = SHARED / "reference" / "functions" / "face_align_200.npz"
needs_shared = pytest.mark.skipif(not ALIGN.is_file(), reason="../shared is not here")


def turned(angle: float, zoom: float, shift: tuple[float, float]) -> np.ndarray:
    cos, sin = zoom * np.cos(np.radians(angle)), zoom * np.sin(np.radians(angle))
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def landmarks_at(side: float, centre: tuple[float, float], angle: float = 0.0) -> np.ndarray:
    """The five landmarks of a face whose aligned crop covers `side` pixels around `centre`."""
    zoom = side / 512
    points = (TEMPLATE - 255.5) * zoom
    return moved(turned(angle, 1, (0, 0)), points) + centre


@pytest.mark.parametrize("angle", [0, 17, -64, 180])
@pytest.mark.parametrize("zoom", [0.05, 1, 9.5])
def test_a_known_similarity_is_recovered(angle: float, zoom: float) -> None:
    matrix = turned(angle, zoom, (13.7, -250.2))
    found = similarity(TEMPLATE, moved(matrix, TEMPLATE))
    assert np.allclose(found, matrix, atol=1e-9 * max(1, zoom) * 1e3)


def test_noisy_points_give_the_similarity_that_scikit_image_estimates() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        matrix = turned(rng.uniform(-90, 90), rng.uniform(0.1, 4), tuple(rng.uniform(-99, 99, 2)))
        source = moved(matrix, TEMPLATE) + rng.normal(0, 8 * rng.uniform(0.1, 4), (5, 2))
        expected = SimilarityTransform.from_estimate(source, TEMPLATE).params[:2]
        assert np.allclose(similarity(source, TEMPLATE), expected, rtol=1e-8, atol=1e-6)


def test_points_that_opencv_keeps_all_give_the_matrix_that_opencv_estimates() -> None:
    rng = np.random.default_rng(1)
    source = moved(turned(20, 0.3, (80, 40)), TEMPLATE) + rng.normal(0, 0.2, (5, 2))
    expected, inliers = cv2.estimateAffinePartial2D(
        source, TEMPLATE, method=cv2.RANSAC, ransacReprojThreshold=50
    )
    assert inliers.all()
    assert np.abs(moved(similarity(source, TEMPLATE) - expected, source)).max() < 0.01


def test_a_mirrored_face_is_never_mirrored_back() -> None:
    mirrored = TEMPLATE * [-1.0, 1.0] + [512.0, 0.0]
    matrix = similarity(mirrored, TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0
    assert matrix[0, 0] == pytest.approx(matrix[1, 1])
    assert matrix[0, 1] == pytest.approx(-matrix[1, 0])


def test_float32_landmarks_and_five_equal_points_give_finite_numbers() -> None:
    assert crop_matrix(TEMPLATE.astype(np.float32), 256).dtype == np.float64
    assert np.isfinite(crop_matrix(np.full((5, 2), 7.0), 256)).all()


@needs_shared
def test_matrices_equal_the_official_ones_where_those_keep_every_landmark() -> None:
    with np.load(ALIGN_200) as official:
        kept = official["lmeds_inliers"].all(1)
        landmarks, affine = official["landmarks"][kept], official["affine"][kept]
    assert kept.sum() > 150
    for points, expected in zip(landmarks, affine, strict=True):
        found = crop_matrix(points, 512)
        assert np.abs(moved(found, points) - moved(expected, points)).max() < 0.002


@needs_shared
def test_matrices_equal_plain_least_squares_of_the_reference_for_all_sets() -> None:
    for path in (ALIGN, ALIGN_200):
        with np.load(path) as official:
            for points, expected in zip(
                official["landmarks"], official["least_squares"], strict=True
            ):
                difference = crop_matrix(points, 512) - expected
                assert np.abs(moved(difference, points)).max() < 0.002


@needs_shared
def test_an_aligned_crop_is_the_official_one_to_a_level(astronaut: Picture) -> None:
    with np.load(ALIGN) as official:
        matrix = official["affine"][6]
        expected = official["crop512_constant_lm6_crop"][..., ::-1].astype(int)
    found = crop(astronaut, matrix, 512)[192:320, 192:320].astype(int)
    assert np.abs(found - expected).max() <= 4
    assert np.abs(found - expected).mean() < 0.15


@pytest.mark.parametrize(
    "side, scale, expected",
    [
        (100, 1, 256),
        (256, 1, 256),
        (280, 1, 256),
        (300, 1, 384),
        (500, 1, 512),
        (900, 1, 512),
        (120, 2, 256),
        (100, 4, 384),
        (120, 4, 512),
    ],
)
def test_the_crop_is_the_smallest_that_makes_no_face_coarser(
    side: float, scale: int, expected: int
) -> None:
    landmarks = landmarks_at(side, (300, 300), 10)
    assert choose_side(landmarks, scale, (512, 256, 384)) == expected


def test_landmarks_land_on_the_template_and_inside_the_tighter_crop() -> None:
    landmarks = landmarks_at(173, (220, 140), -33)
    assert np.allclose(moved(crop_matrix(landmarks, 256), landmarks), TEMPLATE / 2, atol=1e-6)
    tight = moved(landmark_crop_matrix(landmarks, 96), landmarks)
    assert (tight > 8).all() and (tight < 88).all()
    assert source_side(landmark_crop_matrix(landmarks, 96), 96) == pytest.approx(0.62 * 173)


def test_a_crop_at_scale_one_is_what_opencv_samples(astronaut: Picture) -> None:
    matrix = turned(25, 1.3, (40, -90))
    expected = cv2.warpAffine(
        astronaut, matrix, (256, 256), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    difference = np.abs(crop(astronaut, matrix, 256).astype(int) - expected)
    assert difference.mean() < 0.3 and difference.max() <= 6


def test_a_crop_of_whole_pixels_is_the_slice(astronaut: Picture) -> None:
    matrix = np.array([[1.0, 0, -100], [0, 1, -60]])
    assert np.array_equal(crop(astronaut, matrix, 256), astronaut[60:316, 100:356])


def test_a_strongly_shrunk_face_is_not_aliased() -> None:
    stripes = np.zeros((2048, 2048, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the crop can show: their mean is what must come out
    assert np.abs(crop(stripes, turned(0, 1 / 8, (0, 0)), 256).astype(int) - 128).max() <= 2
    fine = np.zeros((2048, 2048, 3), np.uint8)
    fine[:, np.arange(2048) % 5 < 2] = 255
    shrunk = crop(fine, turned(30, 1 / 7.3, (0, 100)), 200)[60:140, 60:140].astype(float)
    assert shrunk.std() < 25  # single pixels would have 125


@pytest.mark.parametrize("zoom", [1 / 2, 1 / 3.3, 1 / 8])
def test_a_shrunk_crop_stays_in_its_place(zoom: float) -> None:
    y, x = np.mgrid[:900, :900]
    at = np.array([432.4, 517.7])
    blob = 255 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 40**2))
    picture = np.repeat(blob[..., None], 3, 2).astype(np.uint8)
    side = int(500 * zoom)
    matrix = turned(12, zoom, (0, 0))
    matrix[:, 2] = side / 2 - 0.3 - matrix[:, :2] @ at
    assert np.allclose(centre_of(crop(picture, matrix, side)), moved(matrix, at), atol=0.03)


def centre_of(picture: np.ndarray) -> np.ndarray:
    weight = picture[..., 1].astype(float)
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("angle", [0, 31])
@pytest.mark.parametrize("centre", [(250, 250), (10, 500), (505, 5), (-40, 260), (3000, 10)])
@pytest.mark.parametrize("scale", [1, 2])
def test_an_unchanged_crop_leaves_the_picture_bit_for_bit(
    angle: float, centre: tuple[float, float], scale: int, astronaut: Picture
) -> None:
    matrix = crop_matrix(landmarks_at(180, centre, angle), 256)
    part = crop(astronaut, matrix, 256)
    assert part.shape == (256, 256, 3) and part.dtype == np.uint8
    base = enlarge(astronaut, scale)
    before = base.copy()
    paste(base, part, part.copy(), matrix, scale)
    assert np.array_equal(base, before)


def inside(matrix: np.ndarray, side: int, size: int, scale: int) -> np.ndarray:
    """Which pixels of the enlarged picture lie in the crop's square."""
    y, x = np.mgrid[:size, :size]
    points = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) / scale - 0.5
    places = moved(matrix, points)
    return ((places > -1) & (places < side)).all(1).reshape(size, size)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_changed_crop_changes_only_the_inside_and_the_middle_fully(scale: int) -> None:
    grey = np.full((400, 400, 3), 90, np.uint8)
    landmarks = landmarks_at(200, (190, 210), 23)
    matrix = crop_matrix(landmarks, 256)
    before = crop(grey, matrix, 256)
    base = enlarge(grey, scale)
    paste(base, before, before + np.uint8(60), matrix, scale)
    square = inside(matrix, 256, 400 * scale, scale)
    assert (base[~square] == 90).all()
    assert 0 < (base != 90).mean() < 0.4
    middle = np.round((landmarks.mean(0) + 0.5) * scale - 0.5).astype(int)
    assert (base[middle[1], middle[0]] == 150).all()


def test_the_border_of_a_pasted_face_shows_no_seam() -> None:
    grey = np.full((400, 400, 3), 90, np.uint8)
    matrix = crop_matrix(landmarks_at(256, (200, 200), 15), 256)
    before = crop(grey, matrix, 256)
    paste(grey, before, before + np.uint8(100), matrix)
    values = grey[..., 0].astype(int)
    steepest = max(np.abs(np.diff(values, axis=0)).max(), np.abs(np.diff(values, axis=1)).max())
    # 100 levels over the feather's 32 pixels, smoothly: 1.5 times the mean slope, and rounding
    assert 3 <= steepest <= 7


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_what_changed_in_the_crop_lands_in_its_place_at_every_scale(scale: int) -> None:
    black = np.zeros((200, 200, 3), np.uint8)
    landmarks = landmarks_at(150, (97.3, 102.6), 18)
    matrix = crop_matrix(landmarks, 384)
    y, x = np.mgrid[:384, :384]
    at = np.array([181.2, 203.9])
    blob = 250 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 12**2))
    after = np.repeat(blob[..., None], 3, 2).astype(np.uint8)
    base = enlarge(black, scale)
    paste(base, crop(black, matrix, 384), after, matrix, scale)
    place = moved(cv2.invertAffineTransform(matrix), at)
    assert np.allclose(centre_of(base), (place + 0.5) * scale - 0.5, atol=0.08 * scale)


@pytest.mark.parametrize("centre", [(0, 200), (399, 399), (200, -60)])
def test_a_face_that_is_partly_outside_is_cropped_whole_and_pasted_where_it_shows(
    centre: tuple[float, float],
) -> None:
    picture = np.random.default_rng(0).integers(60, 120, (400, 400, 3), np.uint8)
    matrix = crop_matrix(landmarks_at(160, centre), 256)
    part = crop(picture, matrix, 256)
    assert part.min() >= 60  # mirrored, never black
    base = picture.copy()
    paste(base, part, part + np.uint8(80), matrix)
    square = inside(matrix, 256, 400, 1)
    assert np.array_equal(base[~square], picture[~square])
    assert (base[square] > picture[square]).any()


def test_brightening_beyond_white_saturates() -> None:
    white = np.full((300, 300, 3), 250, np.uint8)
    matrix = crop_matrix(landmarks_at(200, (150, 150)), 256)
    before = np.zeros((256, 256, 3), np.uint8)
    paste(white, before, np.full_like(before, 200), matrix)
    assert white.min() == 250 and white.max() == 255


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_enlarging_keeps_the_depth_and_the_place(kind: type, scale: int) -> None:
    y, x = np.mgrid[:64, :48]
    ramp = ((x + y)[..., None] * np.ones(3) * 2).astype(kind)
    larger = enlarge(ramp, scale)
    assert larger.dtype == kind and larger.shape == (64 * scale, 48 * scale, 3)
    expected = 2 * ((np.arange(48 * scale) + 0.5) / scale - 0.5 + 32 - 0.5 / scale * (scale - 1))
    row = larger[32 * scale, :, 0].astype(float)
    assert np.abs(row - expected)[4 * scale : -4 * scale].max() <= 1.01
    larger[:] = 0  # a copy, also at scale 1
    assert ramp.max() > 0
