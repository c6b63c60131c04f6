"""Protocols that damage by strength, simulate a thermal camera, or cover a part of the face."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fhrt.damage.degrade import BLIND_256, blind
from fhrt.damage.occlude import occlusion_case
from fhrt.errors import InputError, UsageError
from fhrt.faces import Picture
from fhrt.quality.metrics import psnr
from fhrt.quality.protocols import PROTOCOLS, case_of, cases, protocol_of
from fhrt.quality.scoring import curve, examples, rate, restored

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
FACES = SHARED / "faces" / "test" / "256"
needs_shared = pytest.mark.skipif(not FACES.is_dir(), reason="../shared is not here")


@pytest.fixture(scope="module")
def faces(astronaut: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for i in range(4):
        face = np.roll(astronaut[20:276, 90:346], 9 * i, 1)
        Image.fromarray(face).save(folder / f"{i}.png")
    return folder


def same(batch: np.ndarray) -> np.ndarray:
    return batch


def blurred(batch: np.ndarray) -> np.ndarray:
    return np.stack([cv2.blur(x.transpose(1, 2, 0), (3, 3)).transpose(2, 0, 1) for x in batch])


def test_strength_one_is_the_protocol_itself(faces: Path) -> None:
    for index, path in enumerate(sorted(faces.iterdir())):
        whole = case_of(path, index, "blind-256")
        assert np.array_equal(whole.given, case_of(path, index, "blind-256@1").given)
        expected = blind(whole.truth, np.random.default_rng(index), BLIND_256)
        assert np.array_equal(whole.given, expected)


def test_more_strength_is_more_damage_with_the_same_random_numbers(faces: Path) -> None:
    for index, path in enumerate(sorted(faces.iterdir())):
        given = [case_of(path, index, f"blind-256@{s}") for s in (0.25, 0.5, 1, 1.5, 2)]
        decibels = [psnr(case.given, case.truth) for case in given]
        assert decibels == sorted(decibels, reverse=True)


@pytest.mark.parametrize("word", ["0", "-1", "2.5", "nan", "much", ""])
def test_a_strength_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=r"above 0 and at most 2"):
        protocol_of(f"blind-256@{word}")


def test_only_graded_protocols_have_strengths() -> None:
    with pytest.raises(UsageError, match=r"sr4-128 has no strength; these have: blind-256, blind"):
        protocol_of("sr4-128@0.5")


def test_thermal_is_three_gains_a_quarter_of_the_size_and_noise(faces: Path) -> None:
    path = sorted(faces.iterdir())[2]
    case = case_of(path, 2, "thermal-256")
    rng = np.random.default_rng(2)
    gains = [rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.8), rng.uniform(0.95, 1.15)]
    small = (case.truth * np.array(gains)).reshape(64, 4, 64, 4, 3).mean((1, 3))
    small = np.clip(np.round(small + rng.normal(0, 10, small.shape)), 0, 255)
    back = cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC).clip(0, 255)
    assert np.abs(case.given - back).max() <= 1
    assert np.array_equal(case.given, case.baseline)


def test_an_occlusion_changes_the_masked_pixels_only(faces: Path) -> None:
    for index, (path, case) in enumerate(cases(faces, "occlusion-256")):
        occluded, mask = occlusion_case(case.truth, np.random.default_rng(index))
        assert case.mask is not None and np.array_equal(case.mask, mask), path
        assert np.array_equal(case.given, occluded)
        assert np.array_equal(case.given[~mask], case.truth[~mask])
        assert 0 < mask.mean() < 0.7


@pytest.mark.parametrize("protocol", ["thermal-256", "occlusion-256", "blind-256@0.5"])
def test_pictures_of_another_size_are_refused(
    protocol: str, astronaut: Picture, tmp_path: Path
) -> None:
    Image.fromarray(astronaut).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a\.png: 512×512, and {protocol} needs 256×256"):
        next(cases(tmp_path, protocol))


def test_an_occluded_part_is_scored_alone_and_with_the_rest_kept(faces: Path) -> None:
    (rating,) = rate({"grey": lambda batch: 0 * batch + 0.5}, faces, "occlusion-256")
    for index, (_, case) in enumerate(cases(faces, "occlusion-256")):
        mask = case.mask
        assert mask is not None
        output = np.full_like(case.truth, 128)
        error = np.mean((case.truth[mask] - 128.0) ** 2)
        inside = rating.values["output"]["psnr_masked"][index]
        assert inside == pytest.approx(10 * np.log10(255**2 / error))
        kept = case.truth.copy()  # outside the mask what is given is the truth
        kept[mask] = output[mask]
        assert rating.values["composite"]["psnr"][index] == pytest.approx(psnr(kept, case.truth))
    summary = rating.summary()
    assert set(summary) == {"model", "protocol", "n", "input", "output", "composite", "gain"}
    assert summary["composite"]["psnr"]["mean"] > summary["output"]["psnr"]["mean"]


def test_models_scored_together_score_as_alone(faces: Path) -> None:
    together = rate({"same": same, "blurred": blurred}, faces, "blind-256")
    for rating, network in zip(together, (same, blurred), strict=True):
        (alone,) = rate({rating.model: network}, faces, "blind-256")
        assert alone == rating
    assert set(together[0].values["input"]) == {"psnr", "ssim"}


def test_the_error_of_a_gain_is_that_of_the_pairs(faces: Path) -> None:
    (rating,) = rate({"blurred": blurred}, faces, "blind-256")
    before, after = (np.array(rating.values[side]["psnr"]) for side in ("input", "output"))
    gain = rating.summary()["gain"]["psnr"]
    assert gain["mean"] == pytest.approx((after - before).mean())
    assert gain["se"] == pytest.approx((after - before).std(ddof=1) / 2)


def test_a_curve_passes_through_the_score_at_strength_one(faces: Path) -> None:
    networks = {"same": same, "blurred": blurred}
    line = curve(networks, faces, "blind-256", (0.5, 1.0))
    assert line is not None and line.strengths == (0.5, 1.0)
    assert set(line.lines) == {"input", "same", "blurred"}
    ratings = rate(networks, faces, "blind-256")
    for rating in ratings:
        output = rating.summary()["output"]["psnr"]
        assert line.lines[rating.model][1].mean == pytest.approx(output["mean"])
    assert line.lines["same"] == line.lines["input"]
    for protocol in ("sr4-256", "clean", "occlusion-256", "blind-256@0.5"):
        assert curve(networks, faces, protocol) is None


def test_examples_are_the_best_the_median_and_the_worst(faces: Path) -> None:
    (rating,) = rate({"blurred": blurred}, faces, "blind-256")
    shown = examples(blurred, rating, faces)
    assert [example.label for example in shown] == ["best", "median", "worst"]
    after = sorted(rating.values["output"]["psnr"])
    assert [example.after for example in shown] == [after[3], after[2], after[0]]
    for example in shown:  # made again, the pictures are those that were scored
        assert psnr(example.output, example.truth) == pytest.approx(example.after)
        assert psnr(example.input, example.truth) == pytest.approx(example.before)


def test_a_network_of_another_scale_gets_the_small_picture(faces: Path) -> None:
    def grown(batch: np.ndarray) -> np.ndarray:
        assert batch.shape == (1, 3, 16, 16)
        return batch.repeat(8, 2).repeat(8, 3)

    case = case_of(faces / "0.png", 0, "sr8-128")
    assert restored(grown, case, "grown", "sr8-128").shape == (128, 128, 3)
    with pytest.raises(InputError, match="same gives 16×16 on sr8-128, whose truth is 128×128"):
        restored(same, case, "same", "sr8-128")


@needs_shared
@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name.endswith("256")])
def test_every_protocol_damages_real_faces(protocol: str) -> None:
    for index, path in enumerate(sorted(FACES.glob("*.jpg"))[:3]):
        case = case_of(path, index, protocol)
        assert case.truth.shape == case.baseline.shape == (256, 256, 3)
        assert 5 < psnr(case.baseline, case.truth) < 50
