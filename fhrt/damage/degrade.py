"""Blind degradation of a face: blur, shrink, noise, JPEG, back to size.

The scoring protocols (`quality.protocols`) and the training data call the same function.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from fhrt.faces import Picture


@dataclass(frozen=True)
class Blind:
    """Ranges of the blind degradation, uniform between the two ends.

    blur: Gaussian sigma in pixels. shrink: factor by which the size is divided. noise: standard
    deviation of Gaussian noise, in 0..255. quality: JPEG quality, the upper end excluded.
    """

    blur: tuple[float, float] = (0.2, 5.0)
    shrink: tuple[float, float] = (1.0, 8.0)
    noise: tuple[float, float] = (0.0, 20.0)
    quality: tuple[float, float] = (60.0, 100.0)


BLIND_256 = Blind()
BLIND_512 = Blind(blur=(0.4, 10.0), shrink=(1.0, 12.0))


def blind(picture: Picture, rng: np.random.Generator, ranges: Blind = BLIND_256) -> Picture:
    """Degrade `picture`, uint8 (H, W, 3) RGB, and return one of the same size.

    Gaussian blur (kernel radius ⌈3σ⌉, reflect-101 border), bilinear shrink to the rounded size,
    Gaussian noise on every value, rounding, JPEG by Pillow, bilinear back. The random numbers are
    drawn in this order: sigma, shrink, noise level, noise, quality.
    """
    height, width = picture.shape[:2]
    sigma = rng.uniform(*ranges.blur)
    side = 2 * math.ceil(3 * sigma) + 1
    values = cv2.GaussianBlur(
        picture.astype(np.float32), (side, side), sigma, borderType=cv2.BORDER_REFLECT_101
    )
    shrink = rng.uniform(*ranges.shrink)
    small = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    values = cv2.resize(values, small, interpolation=cv2.INTER_LINEAR)
    level = rng.uniform(*ranges.noise)
    values = values + rng.normal(0, level, values.shape)
    rounded = np.clip(np.round(values), 0, 255).astype(np.uint8)
    compressed = jpeg(rounded, int(rng.uniform(*ranges.quality)))
    result: Picture = cv2.resize(compressed, (width, height), interpolation=cv2.INTER_LINEAR)
    return result


def jpeg(picture: Picture, quality: int) -> Picture:
    """`picture`, uint8 (H, W, 3) RGB, after one JPEG round trip through Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))
