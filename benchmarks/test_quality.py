"""How good the bundled networks are on people and pictures that they never saw.

    pytest benchmarks/test_quality.py -s

Needs the shared data. The bounds are those that weights trained on a CPU alone are held to.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fhrt.detect import open_detector
from fhrt.pictures import read_photo
from fhrt.quality.detection import DetectionScores, score_detector
from fhrt.quality.measures import measures_for
from fhrt.quality.protocols import protocol_of
from fhrt.quality.scoring import rate
from fhrt.runtime.session import open_session

SHARED = Path(__file__).resolve().parents[2] / "shared"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


NIQE = SHARED / "reference/functions/niqe_pris_params.npz"
EMBEDDER = SHARED / "weights/mobilefacenet_112.onnx"


@cache
def scored(model: str, protocol: str) -> dict[str, Any]:
    """The summary of a model on the test faces that the protocol wants, printed."""
    size = protocol_of(protocol).side or 256
    folder = SHARED / f"faces/test/{size}"
    whole = protocol == "blind-256"
    measures = measures_for(folder, EMBEDDER if whole else None, NIQE if whole else None)
    summary = rate({model: open_session(model)}, folder, protocol, measures)[0].summary()
    for side in ("input", "output", "composite", "gain"):
        figures = ", ".join(
            f"{metric} {value['mean']:.3f} ± {value['se']:.3f}"
            for metric, value in summary.get(side, {}).items()
        )
        if figures:
            print(f"\n{model}, {protocol}, n {summary['n']}, {side}: {figures}", end="")
    return summary


@pytest.mark.parametrize(
    ("model", "protocol", "gain"),
    [
        ("restore", "blind-256", 2.3),
        ("restore", "blind-512", 1.6),
        ("srgan-x4", "sr4-128", 1.6),
        ("srgan-x8", "sr8-128", 1.5),
        ("facesr-attention", "sr4-256", 2.0),
    ],
)
def test_gain_over_the_baseline(model: str, protocol: str, gain: float) -> None:
    assert scored(model, protocol)["gain"]["psnr"]["mean"] >= gain


def test_restored_faces_are_like_the_person() -> None:
    restored = scored("restore", "blind-256")
    assert restored["input"]["identity"]["mean"] == pytest.approx(0.495, abs=0.01)
    assert restored["output"]["identity"]["mean"] >= 0.63
    assert restored["output"]["ssim"]["mean"] >= 0.755


def test_a_good_face_is_left_alone() -> None:
    assert scored("restore", "clean")["output"]["psnr"]["mean"] >= 34


def test_the_adversarial_restorer_looks_more_natural_for_little() -> None:
    faithful, adversarial = (scored(m, "blind-256")["output"] for m in ("restore", "restore-gan"))
    assert adversarial["niqe"]["mean"] < faithful["niqe"]["mean"]
    assert adversarial["psnr"]["mean"] >= faithful["psnr"]["mean"] - 1.2


def test_occluded_faces_are_made_whole() -> None:
    result = scored("unmask-256", "occlusion-256")
    assert result["output"]["psnr"]["mean"] > 22.33 and result["output"]["ssim"]["mean"] > 0.8534
    assert result["composite"]["psnr"]["mean"] >= 26
    assert result["output"]["psnr_masked"]["mean"] >= 18


@pytest.fixture(scope="module")
def detection() -> DetectionScores:
    detect = open_detector(threshold=0.3)
    scores = score_detector(detect, SHARED / "photos/test", lambda path: read_photo(path).picture)
    for row in scores.table(scores.threshold()):
        print(f"\n{row}", end="")
    return scores


@pytest.mark.parametrize(
    ("kind", "recall"), [("portraits", 0.99), ("old", 0.97), ("in_the_wild", 0.82)]
)
def test_recall_at_one_false_face(detection: DetectionScores, kind: str, recall: float) -> None:
    assert detection.empty_pictures == 53
    found = detection.recall(kind, detection.threshold())
    print(f"\n{kind}: recall {found:.4f} at threshold {detection.threshold():.3f}", end="")
    assert found >= recall


@pytest.mark.parametrize(
    ("kind", "error"), [("portraits", 0.04), ("old", 0.05), ("in_the_wild", 0.08)]
)
def test_landmark_error(detection: DetectionScores, kind: str, error: float) -> None:
    found = detection.landmark_error(kind, detection.threshold())
    print(f"\n{kind}: landmarks off by {found:.4f} of the eye distance", end="")
    assert found <= error
