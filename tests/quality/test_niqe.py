"""NIQE against the figures of BasicSR, and its parts against MATLAB's resize and luma."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fhrt.errors import InputError, ModelError
from fhrt.faces import Picture
from fhrt.quality.niqe import imresize, luma, niqe

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
PARAMETERS = REFERENCE / "functions" / "niqe_pris_params.npz"
needs_shared = pytest.mark.skipif(not REFERENCE.is_dir(), reason="../shared is not here")


# The background of `jpeg` is flat: there the sign of rounding errors is counted. BasicSR itself,
# run again on another machine, is 9e-4 off its stored figure; the others agree to the stated 1e-4.
@needs_shared
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("orig", 1e-4), ("blur", 1e-4), ("noise", 1e-4), ("up", 1e-4), ("wide", 1e-4), ("jpeg", 1e-3)],
)
def test_niqe_is_that_of_basicsr(name: str, tolerance: float) -> None:
    stored = json.loads((REFERENCE / "functions" / "niqe.json").read_text())
    expected = stored["values"][name]
    picture = np.asarray(Image.open(REFERENCE / "images" / f"niqe_{name}.png").convert("RGB"))
    assert niqe(picture, PARAMETERS) == pytest.approx(expected["crop0_y"], abs=tolerance)
    assert niqe(picture, PARAMETERS, 4) == pytest.approx(expected["crop4_y"], abs=tolerance)


@needs_shared
@pytest.mark.parametrize(("name", "scale"), [("half", 0.5), ("quarter", 0.25), ("x2", 2)])
def test_resizing_is_that_of_matlab(name: str, scale: float) -> None:
    stored = np.load(REFERENCE / "functions" / "conversions.npz")
    resized = imresize(stored["img"].astype(np.float32) / 255, scale)
    np.testing.assert_allclose(resized, stored[f"imresize_{name}"], atol=1e-6)


@needs_shared
def test_luma_is_that_of_matlab() -> None:
    stored = np.load(REFERENCE / "functions" / "conversions.npz")
    np.testing.assert_array_equal(luma(stored["img"][..., ::-1]), stored["y_u8"])


def test_a_constant_stays_constant_also_where_it_is_smaller_than_the_kernel() -> None:
    for size in ((2, 3), (1, 1), (9, 8)):
        np.testing.assert_allclose(imresize(np.full(size, 0.7), 0.5), 0.7, atol=1e-12)


@needs_shared
def test_noise_is_less_natural_than_a_photograph(astronaut: Picture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, astronaut.shape, dtype=np.uint8)
    assert niqe(noise, PARAMETERS) > niqe(astronaut, PARAMETERS) + 3


@needs_shared
def test_too_small_and_flat_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="two blocks of 96×96"):
        niqe(np.zeros((128, 128, 3), np.uint8), PARAMETERS)
    with pytest.raises(InputError, match="not flat"):
        niqe(np.full((192, 192, 3), 90, np.uint8), PARAMETERS)


def test_a_wrong_file_of_parameters_is_a_model_error(tmp_path: Path) -> None:
    picture = np.zeros((192, 192, 3), np.uint8)
    with pytest.raises(ModelError, match="fhrt models pull niqe"):
        niqe(picture, tmp_path / "none.npz")
    wrong = tmp_path / "wrong.npz"
    wrong.write_bytes(b"no zip")
    with pytest.raises(ModelError, match="no parameters of NIQE"):
        niqe(picture, wrong)
    np.savez(wrong, mu_pris_param=np.zeros(3), cov_pris_param=0, gaussian_window=0)
    with pytest.raises(ModelError, match="other shapes"):
        niqe(picture, wrong)
