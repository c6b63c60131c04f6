"""The damages: kernels against the reference numbers, and what each does to a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fhrt.damage.degrade import (
    blur_kernel,
    colour_cast,
    filtered,
    low_light,
    lowpass_kernel,
    motion_blur,
    motion_kernel,
    thermal,
    uneven_blur,
)
from fhrt.faces import Picture

KERNELS = Path(__file__).resolve().parents[2] / "shared/reference/functions/degradation_kernels.npz"
DAMAGES = [thermal, motion_blur, uneven_blur, colour_cast, low_light]


@pytest.mark.skipif(not KERNELS.is_file(), reason="../shared is not here")
def test_kernels_are_those_of_the_reference() -> None:
    stored = np.load(KERNELS)
    meta = json.loads(str(stored["meta"]))
    profiles = {
        "bivariate_Gaussian": "gaussian",
        "bivariate_generalized_Gaussian": "generalised",
        "bivariate_plateau": "plateau",
    }
    seen = 0
    for name, case in meta["cases"].items():
        if case["function"] in profiles:
            side, sigma_x, sigma_y, angle, *beta = case["args"]
            if case["isotropic"]:
                sigma_y, angle = sigma_x, 0.0
            profile = profiles[case["function"]]
            made = blur_kernel(side, sigma_x, sigma_y, angle, profile, *beta)
        elif case["function"] == "circular_lowpass_kernel":
            made = lowpass_kernel(*case["args"])
            made = np.pad(made, max(0, case["pad_to"] - len(made)) // 2)
        else:
            continue  # drawn from two global generators, which ours do without
        assert np.abs(made - stored[name]).max() < meta["tol"], name
        seen += 1
    assert seen == 10


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_seeded_keeps_the_size_and_leaves_its_input_alone(
    damage: Callable[[Picture, np.random.Generator], Picture], astronaut: Picture
) -> None:
    face = np.ascontiguousarray(astronaut[20:277, 90:345])  # odd, and wider than high
    before = face.copy()
    once = damage(face, np.random.default_rng(3))
    assert once.shape == face.shape and once.dtype == np.uint8
    assert np.array_equal(face, before) and not np.array_equal(once, face)
    assert np.array_equal(damage(face, np.random.default_rng(3)), once)
    assert not np.array_equal(damage(face, np.random.default_rng(4)), once)


def test_thermal_is_its_description_step_by_step(astronaut: Picture) -> None:
    face = np.ascontiguousarray(astronaut[:256, 100:356])
    rng = np.random.default_rng(7)
    red, green, blue = rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.8), rng.uniform(0.95, 1.15)
    tinted = face.astype(np.float64) * [red, green, blue]
    small = tinted.reshape(64, 4, 64, 4, 3).mean((1, 3))
    noisy = np.clip(np.round(small + rng.normal(0, 10, (64, 64, 3))), 0, 255)
    large = cv2.resize(noisy.astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC)
    made = thermal(face, np.random.default_rng(7))
    assert np.abs(made - np.clip(large, 0, 255)).max() <= 1.01
    assert made[..., 2].mean() > 1.5 * made[..., 0].mean()


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, 2.5])
def test_a_motion_kernel_is_a_line_of_its_length_and_direction(angle: float) -> None:
    kernel = motion_kernel(20.0, angle)
    assert kernel.sum() == pytest.approx(1) and np.allclose(kernel, kernel[::-1, ::-1])
    rows, columns = np.indices(kernel.shape) - len(kernel) // 2
    moments = [
        [(kernel * columns**2).sum(), (kernel * columns * rows).sum()],
        [(kernel * columns * rows).sum(), (kernel * rows**2).sum()],
    ]
    values, vectors = np.linalg.eigh(moments)
    assert values[1] == pytest.approx(20**2 / 12, rel=0.06) and values[0] < 0.4
    direction = vectors[:, 1]
    assert abs(direction @ [np.cos(angle), np.sin(angle)]) > 0.999


def test_a_still_camera_blurs_nothing(astronaut: Picture) -> None:
    face = astronaut[:64, 200:264]
    assert np.array_equal(filtered(face, motion_kernel(0.0, 1.0)), face)


def test_an_uneven_kernel_is_wide_along_its_angle() -> None:
    kernel = blur_kernel(31, 5.0, 1.0, np.pi / 6)
    rows, columns = np.indices(kernel.shape) - 15
    along = columns * np.cos(np.pi / 6) + rows * np.sin(np.pi / 6)
    assert np.sqrt((kernel * along**2).sum()) == pytest.approx(5.0, rel=0.05)


def test_low_light_is_darker_and_a_cast_keeps_black(astronaut: Picture) -> None:
    face = astronaut[:256, 100:356]
    assert low_light(face, np.random.default_rng(0)).mean() < 0.75 * face.mean()
    black = np.zeros((8, 8, 3), np.uint8)
    assert not colour_cast(black, np.random.default_rng(0)).any()
    cast = colour_cast(np.full((8, 8, 3), 100, np.uint8), np.random.default_rng(0))
    assert len(np.unique(cast.reshape(-1, 3), axis=0)) == 1 and np.ptp(cast[0, 0]) > 5
