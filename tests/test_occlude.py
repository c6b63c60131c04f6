"""Occlusions: where they lie, that they are pure functions of the seed, what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest

from fhrt.damage.occlude import (
    FROM_EYES,
    OVER_NOSE,
    disc,
    frame,
    hand,
    mask,
    occlude,
    occlusion_case,
    painted,
    polygon,
    sunglasses,
)
from fhrt.faces import TEMPLATE, Picture

POINTS = TEMPLATE / 2  # of a crop of 256
EYES, NOSE, MOUTH = POINTS[:2], POINTS[2], POINTS[3:].mean(0)


@pytest.fixture
def face(astronaut: Picture) -> Picture:
    return np.ascontiguousarray(astronaut[0:256, 96:352])


def at(cover: np.ndarray, point: np.ndarray) -> float:
    x, y = np.round(point).astype(int)
    return float(cover[y, x])


def test_the_frame_puts_the_eyes_on_its_axis_and_the_mouth_one_down() -> None:
    matrix = frame(POINTS)
    assert np.allclose(matrix @ [-0.5, 0, 1], EYES[0]) and np.allclose(
        matrix @ [0.5, 0, 1], EYES[1]
    )
    assert np.allclose(matrix @ [0, 1, 1], MOUTH)


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_covers_nose_and_mouth_and_leaves_the_eyes(seed: int) -> None:
    over_nose = mask((256, 256), POINTS, np.random.default_rng(seed), OVER_NOSE)
    from_eyes = mask((256, 256), POINTS, np.random.default_rng(seed), FROM_EYES)
    for cover in (over_nose, from_eyes):
        assert at(cover, NOSE) == at(cover, MOUTH) == 1
        assert cover.dtype == np.float32 and cover.min() == 0 and cover.max() == 1
        assert not cover[:90].any()  # the forehead
    assert max(at(over_nose, eye - [0, 3]) for eye in EYES) == 0
    assert from_eyes.sum() > over_nose.sum()


def test_sunglasses_cover_the_eyes_and_leave_the_mouth() -> None:
    for seed in range(8):
        cover = sunglasses((256, 256), POINTS, np.random.default_rng(seed))
        assert all(at(cover, eye) == 1 for eye in EYES)
        assert at(cover, MOUTH) == 0 and at(cover, NOSE) == 0


def test_a_hand_reaches_into_the_face_and_out_of_it() -> None:
    shares = []
    for seed in range(30):
        cover = hand((256, 256), POINTS, np.random.default_rng(seed))
        shares.append(float((cover > 0).mean()))
    assert min(shares) > 0.01 and max(shares) < 0.5


def test_a_polygon_covers_its_own_area() -> None:
    square = np.array([[-0.5, 0.0], [0.5, 0.0], [0.5, 1.0], [-0.5, 1.0]])
    cover = polygon((256, 256), POINTS, square)
    unit = abs(np.linalg.det(frame(POINTS)[:, :2]))
    # cutting corners takes four triangles of (1/4)²/2 off a square, then eight: 1/32
    expected = unit * (1 - 4 / 32 - 1 / 32)
    assert cover.sum() == pytest.approx(expected, rel=0.03)
    edge = cover[(cover > 0) & (cover < 1)]
    assert len(edge) > 50  # antialiased


def test_a_disc_blurs_its_inside_only(face: Picture) -> None:
    for seed in range(6):
        blurred, cover = disc(face, POINTS, np.random.default_rng(seed))
        assert np.array_equal(blurred[cover == 0], face[cover == 0])
        inside = cover == 1
        assert inside.any()
        detail = [
            float(np.abs(np.diff(p.astype(float), axis=1))[inside[:, 1:]].mean())
            for p in (blurred, face)
        ]
        assert detail[0] < 0.7 * detail[1]


def test_paint_has_the_colour_and_keeps_what_is_not_covered(face: Picture) -> None:
    cover = mask((256, 256), POINTS, np.random.default_rng(0))
    result = painted(face, cover, np.array([200, 40, 90]), np.random.default_rng(1))
    assert np.array_equal(result[cover == 0], face[cover == 0])
    mean = result[cover == 1].mean(0)
    assert np.allclose(mean, [200, 40, 90], rtol=0.12)


def test_the_protocol_is_the_same_for_a_seed_and_states_every_changed_pixel(face: Picture) -> None:
    kinds = []
    for seed in range(60):
        before = face.copy()
        occluded, changed = occlusion_case(face, np.random.default_rng(seed))
        again, _ = occlusion_case(face, np.random.default_rng(seed))
        assert np.array_equal(occluded, again) and np.array_equal(face, before)
        assert np.array_equal(occluded[~changed], face[~changed])
        assert 0.01 < changed.mean() < 0.4
        kinds.append(np.random.default_rng(seed).random() < 0.8)
    assert 0.6 < np.mean(kinds) < 0.95


def test_training_sees_every_kind_and_untouched_faces(face: Picture) -> None:
    untouched, shares = 0, []
    for seed in range(80):
        occluded, changed = occlude(face, POINTS, np.random.default_rng(seed))
        assert occluded.dtype == np.uint8 and np.array_equal(occluded[~changed], face[~changed])
        untouched += not changed.any()
        shares.append(changed.mean())
    assert 3 <= untouched <= 20 and max(shares) > 0.12


def test_occlusions_follow_the_landmarks(face: Picture) -> None:
    moved = POINTS + np.array([20, -12])
    still = mask((256, 256), POINTS, np.random.default_rng(3))
    cover = mask((256, 256), moved, np.random.default_rng(3))
    shifted = np.roll(still, (-12, 20), (0, 1))
    assert np.abs(cover - shifted).mean() < 1e-3
