"""How good the bundled networks are on people and pictures that they never saw.

    pytest benchmarks/test_quality.py -s

Needs the shared data. The bounds are those that weights trained on a CPU alone are held to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhrt.detect import open_detector
from fhrt.pictures import read_photo
from fhrt.quality.detection import DetectionScores, score_detector
from fhrt.quality.scoring import score
from fhrt.runtime.session import open_session

SHARED = Path(__file__).resolve().parents[2] / "shared"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


def restoration(size: int, protocol: str) -> dict[str, Any]:
    result = score(
        open_session("restore"), "restore", SHARED / f"faces/test/{size}", protocol
    )  # fmt: skip
    for side in ("input", "output"):
        psnr, ssim = result[side]["psnr"], result[side]["ssim"]
        print(
            f"\n{protocol} {side}: {psnr['mean']:.2f} ± {psnr['se']:.2f} dB, "
            f"SSIM {ssim['mean']:.3f} ± {ssim['se']:.3f}, n {result['n']}",
            end="",
        )
    return result


def test_blind_256() -> None:
    output = restoration(256, "blind-256")["output"]
    assert output["psnr"]["mean"] >= 26.3
    assert output["ssim"]["mean"] >= 0.755


def test_blind_512() -> None:
    result = restoration(512, "blind-512")
    assert result["output"]["psnr"]["mean"] - result["input"]["psnr"]["mean"] >= 1.6


def test_a_good_face_is_left_alone() -> None:
    assert restoration(512, "clean")["output"]["psnr"]["mean"] >= 34


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
