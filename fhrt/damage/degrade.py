"""Damage to the whole of a face: blur, shrink, noise, JPEG, motion, colour, darkness.

The scoring protocols (`quality.protocols`) and the training data call the same functions. Each is
pure: all that is random comes from the generator it is given, in the order that it states.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
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


def thermal(picture: Picture, rng: np.random.Generator) -> Picture:
    """The look of a small cheap sensor, bluish, coarse and noisy; uint8 (H, W, 3) RGB, same size.

    R, G, B times a factor each, area-averaged to a quarter of the size, Gaussian noise of standard
    deviation 10, rounding, bicubic back. Drawn in this order: the three factors, noise.
    """
    height, width = picture.shape[:2]
    gains = [rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.8), rng.uniform(0.95, 1.15)]
    small = (max(1, round(width / 4)), max(1, round(height / 4)))
    values = cv2.resize(picture * np.array(gains), small, interpolation=cv2.INTER_AREA)
    rounded = _rounded(values + rng.normal(0, 10, values.shape))
    # OpenCV saturates 8-bit values, which cubic interpolation takes out of their range
    result: Picture = cv2.resize(rounded, (width, height), interpolation=cv2.INTER_CUBIC)
    return result


def motion_blur(
    picture: Picture, rng: np.random.Generator, length: tuple[float, float] = (3.0, 25.0)
) -> Picture:
    """Blur along a straight path of `length` pixels in any direction; uint8 (H, W, 3) RGB.

    Drawn in this order: length, angle.
    """
    return filtered(picture, motion_kernel(rng.uniform(*length), rng.uniform(0, math.pi)))


def uneven_blur(
    picture: Picture,
    rng: np.random.Generator,
    sigma: tuple[float, float] = (0.5, 5.0),
    beta: tuple[float, float] = (0.5, 4.0),
) -> Picture:
    """Blur by one of PROFILES, wider in one direction than in the other; uint8 (H, W, 3) RGB.

    sigma: pixels, drawn for either axis. beta: see `blur_kernel`; 1 for the plain Gaussian. Drawn
    in this order: profile, the two sigmas, angle, beta.
    """
    profile = str(rng.choice(list(PROFILES)))
    wide, narrow = rng.uniform(*sigma), rng.uniform(*sigma)
    side = 2 * math.ceil(3 * max(wide, narrow)) + 1
    angle, power = rng.uniform(0, math.pi), rng.uniform(*beta)
    return filtered(picture, blur_kernel(side, wide, narrow, angle, profile, power))


def colour_cast(
    picture: Picture, rng: np.random.Generator, gain: tuple[float, float] = (0.6, 1.3)
) -> Picture:
    """R, G, B times a factor each, as under wrong white balance; uint8 (H, W, 3) RGB."""
    return _rounded(picture * rng.uniform(*gain, 3))


def low_light(
    picture: Picture,
    rng: np.random.Generator,
    gamma: tuple[float, float] = (1.5, 3.0),
    noise: tuple[float, float] = (3.0, 15.0),
) -> Picture:
    """Darkened by a power curve, then noisy; uint8 (H, W, 3) RGB.

    gamma: the power, above 1. noise: standard deviation in 0..255. Drawn in this order: gamma,
    noise level, noise.
    """
    dark = 255 * (picture / 255) ** rng.uniform(*gamma)
    return _rounded(dark + rng.normal(0, rng.uniform(*noise), picture.shape))


# How a kernel falls off with q, the squared distance in sigmas, and beta. The three of Real-ESRGAN
# (Wang et al. 2021, after Liu et al. 2020).
PROFILES: dict[str, Callable[[NDArray[np.float64], float], NDArray[np.float64]]] = {
    "gaussian": lambda q, beta: np.exp(-q / 2),
    "generalised": lambda q, beta: np.exp(-(q**beta) / 2),  # below 1 pointed, above 1 boxy
    "plateau": lambda q, beta: 1 / (1 + q**beta),
}


def blur_kernel(
    side: int,
    sigma_x: float,
    sigma_y: float,
    angle: float = 0.0,
    profile: str = "gaussian",
    beta: float = 1.0,
) -> NDArray[np.float64]:
    """(side, side) kernel of sum 1, `side` odd, sigmas in pixels along two axes at right angles,
    the first turned by `angle` radians from x towards y. profile: see PROFILES."""
    x, y = _offsets(side)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    kernel = PROFILES[profile]((along / sigma_x) ** 2 + (across / sigma_y) ** 2, beta)
    return _summing_to_one(kernel)


def lowpass_kernel(cutoff: float, side: int) -> NDArray[np.float64]:
    """(side, side) circular low-pass of sum 1, which rings at edges as sharpened and strongly
    compressed pictures do. cutoff: radians a pixel, π the finest that pixels can hold. `side` odd.

    c J₁(c r) / 2π r, the transform of a disc (as in Real-ESRGAN, Wang et al. 2021).
    """
    x, y = _offsets(side)
    radius = np.hypot(x, y)
    # Bessel's integral, J₁(z) = mean of cos(t − z sin t): over a whole period a plain mean is exact
    # to the last digits, with more points than z (Trefethen and Weideman 2014).
    t = np.linspace(0, 2 * math.pi, 4 * side + 64, endpoint=False)
    bessel = np.cos(t - cutoff * radius[..., None] * np.sin(t)).mean(-1)
    kernel = np.full_like(radius, cutoff**2 / (4 * math.pi))  # the limit in the middle
    np.divide(cutoff * bessel, 2 * math.pi * radius, out=kernel, where=radius > 0)
    return _summing_to_one(kernel)


def motion_kernel(length: float, angle: float) -> NDArray[np.float64]:
    """Square kernel of odd side and sum 1: a line of `length` pixels through the middle, `angle`
    radians from x towards y. A length of 0 changes nothing."""
    reach = math.ceil(length / 2)
    along = np.linspace(-length / 2, length / 2, 8 * reach + 1)
    kernel = np.zeros((2 * reach + 3, 2 * reach + 3))
    places = np.stack([along * math.sin(angle), along * math.cos(angle)]) + reach + 1
    corner = np.floor(places).astype(int)
    part = places - corner
    for down in (0, 1):  # each point of the line is shared out among the four pixels around it
        for right in (0, 1):
            weight = np.abs(1 - down - part[0]) * np.abs(1 - right - part[1])
            np.add.at(kernel, (corner[0] + down, corner[1] + right), weight)
    return _summing_to_one(kernel)


def filtered(picture: Picture, kernel: NDArray[np.float64]) -> Picture:
    """The picture, uint8 (H, W, 3), under a kernel; reflect-101 border."""
    values = cv2.filter2D(picture.astype(np.float32), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return _rounded(values)


def _offsets(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of every place of a square of odd side, counted from its middle."""
    axis = np.arange(side, dtype=np.float64) - side // 2
    return axis[None, :] * np.ones((side, 1)), axis[:, None] * np.ones((1, side))


def _summing_to_one(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel /= kernel.sum()
    return kernel


def _rounded(values: NDArray[np.floating]) -> Picture:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
