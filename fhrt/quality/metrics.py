"""PSNR and SSIM of 8-bit pictures, in NumPy and OpenCV."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from fhrt.faces import Picture


@dataclass(frozen=True)
class Mean:
    """A mean over pictures and its standard error (sample deviation over √n; nan for n < 2)."""

    mean: float
    se: float

    @staticmethod
    def of(values: list[float]) -> Mean:
        n = len(values)
        se = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else float("nan")
        return Mean(float(np.mean(values)), se)


def psnr(a: Picture, b: Picture) -> float:
    """Peak signal-to-noise ratio in dB over all values of two uint8 pictures of one shape;
    infinite where they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(a: Picture, b: Picture) -> float:
    """Structural similarity (Wang et al. 2004) of two uint8 pictures (H, W, 3), H and W over 10.

    Gaussian window, sigma 1.5, 11 pixels wide; population covariance; data range 255; the mean over
    the channels and the pixels whose window lies inside, as scikit-image computes it.
    """
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    x, y = a.astype(np.float64), b.astype(np.float64)

    def window(values: np.ndarray) -> np.ndarray:
        mean: np.ndarray = cv2.GaussianBlur(values, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)
        return mean

    mean_x, mean_y = window(x), window(y)
    var_x = window(x * x) - mean_x * mean_x
    var_y = window(y * y) - mean_y * mean_y
    cov = window(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    ratio = top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(ratio[5:-5, 5:-5].mean())
