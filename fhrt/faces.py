"""A face, and what is done with one: align, crop, paste back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[np.uint8]
Matrix: TypeAlias = NDArray[np.float64]

# Left eye, right eye, nose, left and right mouth corner on a 512-pixel crop (FFHQ, as in facexlib).
TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
TEMPLATE_SIDE = 512


@dataclass(frozen=True, eq=False)
class Face:
    """A found face. Pixels of the picture, pixel centres at integers, float32.

    box: (4,) x0 y0 x1 y1. landmarks: (5, 2) left eye, right eye, nose, left and right mouth corner
    as seen in the picture. score: 0 to 1.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: float


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> Matrix:
    """The (2, 3) similarity without reflection that maps source (n, 2) nearest to target (n, 2) in
    the least-squares sense (Umeyama 1991)."""
    source, target = source.astype(np.float64), target.astype(np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    # In the plane a similarity is a complex factor: conj(a)·b / |a|², written out in real parts.
    norm = max(float((a**2).sum()), 1e-12)
    real = float((a * b).sum()) / norm
    imaginary = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / norm
    turn = np.array([[real, -imaginary], [imaginary, real]])
    return np.concatenate([turn, (target_mean - turn @ source_mean)[:, None]], 1)


def crop_matrix(landmarks: NDArray[np.floating], side: int) -> Matrix:
    """(2, 3): picture to an aligned crop of `side` pixels."""
    return similarity(landmarks, TEMPLATE * (side / TEMPLATE_SIDE))


def landmark_crop_matrix(landmarks: NDArray[np.floating], side: int) -> Matrix:
    """(2, 3): picture to the tighter crop, the middle 0.62 of the aligned one and a little lower,
    that the landmark network looks at."""
    template = (TEMPLATE - [256.0, 290.0]) / (0.62 * TEMPLATE_SIDE) + 0.5
    return similarity(landmarks, template * side - 0.5)
