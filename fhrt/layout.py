"""Pictures as networks take them, and back: uint8 (H, W, 3) and planes of float32 in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.faces import Picture

Planes: TypeAlias = NDArray[np.float32]


def fill_planes(picture: Picture, planes: Planes) -> None:
    """Write uint8 (H, W, 3) into `planes`, (3, H, W), as values in [0, 1]."""
    # apart first: a strided read of single bytes is slower than the arithmetic
    for values, plane in zip(cv2.split(picture), planes, strict=True):
        np.multiply(values, np.float32(1 / 255), out=plane)


def to_batch(pictures: Sequence[Picture]) -> Planes:
    """Pictures of one size -> (N, 3, H, W)."""
    rows, columns, _ = pictures[0].shape
    batch = np.empty((len(pictures), 3, rows, columns), np.float32)
    for picture, planes in zip(pictures, batch, strict=True):
        fill_planes(picture, planes)
    return batch


def to_pictures(batch: Planes) -> list[Picture]:
    """(N, 3, H, W) -> pictures, rounded and clipped; what is infinite or no number becomes 0."""
    return [
        cv2.merge([cv2.multiply(plane, 255.0, dtype=cv2.CV_8U) for plane in planes])
        for planes in batch
    ]
