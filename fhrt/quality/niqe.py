"""NIQE, a score without a reference: how far the statistics of a picture are from natural ones.

Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer" (2013). Lower is
better. The figures are those of BasicSR and of the authors' MATLAB code to 1e-4; the parameters of
natural pictures (`niqe_pris_params.npz`) are the user's own file, see `fhrt models pull niqe`.
"""

from __future__ import annotations

import math
import zipfile
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import InputError, ModelError
from fhrt.faces import Picture

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

BLOCK = 96  # pixels; the side of the blocks that the natural parameters were measured on
SHAPES = {"mu_pris_param": (1, 36), "cov_pris_param": (36, 36), "gaussian_window": (7, 7)}


def niqe(picture: Picture, parameters: Path, border: int = 0) -> float:
    """NIQE of the luma of a picture, uint8 RGB (H, W, 3); from about 2 (natural) upwards.

    parameters: the .npz of the natural mean (1, 36), covariance (36, 36) and window (7, 7).
    border: pixels left out on each side. What no whole block of 96 pixels covers is left out too.
    Raises InputError for a picture of fewer than two blocks, ModelError for a wrong file.
    """
    mean, covariance, window = _natural(parameters)
    grey = luma(picture)
    if border:
        grey = grey[border:-border, border:-border]
    rows, columns = grey.shape[0] // BLOCK, grey.shape[1] // BLOCK
    if rows * columns < 2:
        raise InputError(
            f"NIQE needs two blocks of {BLOCK}×{BLOCK} pixels, a picture of at least "
            f"{BLOCK}×{2 * BLOCK}; this one has {grey.shape[1]}×{grey.shape[0]}"
        )
    grey = grey[: rows * BLOCK, : columns * BLOCK]
    half = imresize(grey / 255, 0.5).astype(np.float32) * np.float32(255)
    features = np.concatenate(
        [_features(grey.astype(np.float32), window, BLOCK), _features(half, window, BLOCK // 2)], 1
    )
    # A block without any contrast has no features; the mean takes what the others have.
    whole = features[~np.isnan(features).any(1)]
    if len(whole) < 2:
        raise InputError("NIQE needs two blocks that are not flat; this picture is one colour")
    away = mean - np.nanmean(features, 0)
    pooled = (covariance + np.cov(whole, rowvar=False)) / 2
    return math.sqrt((away @ np.linalg.pinv(pooled) @ away.T).item())


def luma(picture: Picture) -> Floats:
    """(H, W, 3) uint8 RGB -> (H, W): ITU-R BT.601 luma, 16 to 235, in whole numbers, as MATLAB's
    rgb2ycbcr gives it."""
    weights = np.array([65.481, 128.553, 24.966])
    values: Floats = np.round(picture.astype(np.float64) / 255 @ weights + 16.0)
    return values


def imresize(picture: NDArray[np.floating], scale: float) -> Floats:
    """MATLAB's imresize: bicubic (a = -1/2), wider where it shrinks, mirrored borders; not rounded.

    (H, W) or (H, W, C) -> the same with H and W times scale, rounded up.
    """
    rows = _cubic_matrix(picture.shape[0], scale)
    columns = _cubic_matrix(picture.shape[1], scale)
    tall = np.tensordot(rows, picture.astype(np.float64), (1, 0))
    return np.ascontiguousarray(np.moveaxis(np.tensordot(columns, tall, (1, 1)), 0, 1))


def _cubic_matrix(length: int, scale: float) -> Floats:
    """(ceil(length · scale), length): the weights of the old values in each new one."""
    count = math.ceil(length * scale)
    narrow = min(scale, 1.0)
    centre = (np.arange(count) + 0.5) / scale - 0.5
    first = np.floor(centre - 2 / narrow).astype(int)
    taps = first[:, None] + np.arange(math.ceil(4 / narrow) + 2)
    x = np.abs(centre[:, None] - taps) * narrow
    weights = np.where(x <= 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
    weights[x > 2] = 0
    weights /= weights.sum(1, keepdims=True)
    # -1 is 0 again, -2 is 1, and so on, also where the picture is smaller than the kernel
    mirrored = np.mod(taps, 2 * length)
    mirrored = np.minimum(mirrored, 2 * length - 1 - mirrored)
    matrix = np.zeros((count, length))
    np.add.at(matrix, (np.arange(count)[:, None], mirrored), weights)
    return matrix


def _features(grey: Singles, window: Floats, side: int) -> Floats:
    """(H, W) of whole blocks -> (blocks, 18): the fits of contrast-normalised values (2) and of
    their products with the neighbours in four directions (4 each). Equations 1, 4 and 8."""

    def smooth(values: Singles) -> Singles:
        double = values.astype(np.float64)
        # Kept in single precision as BasicSR does, so that a flat area is exactly 0 and is counted
        # neither left nor right of it: in double precision the JPEG example comes out 0.64 higher.
        single: Singles = cv2.filter2D(
            double, cv2.CV_64F, window, borderType=cv2.BORDER_REPLICATE
        ).astype(np.float32)
        return single

    mean = smooth(grey)
    deviation = np.sqrt(np.abs(smooth(grey * grey) - mean * mean))
    normal = (grey - mean) / (deviation + 1)
    found = []
    for left in range(0, grey.shape[1], side):
        for top in range(0, grey.shape[0], side):
            block = normal[top : top + side, left : left + side]
            shape, low, high = _asymmetric_gaussian(block)
            row = [shape, (low + high) / 2]
            for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                # neighbours wrap around inside the block, as in the authors' code
                shape, low, high = _asymmetric_gaussian(block * np.roll(block, shift, (0, 1)))
                step = math.gamma(2 / shape) / math.gamma(1 / shape)
                row += [shape, (high - low) * step, low, high]
            found.append(row)
    return np.array(found)


def _asymmetric_gaussian(values: Singles) -> tuple[float, float, float]:
    """Shape and left and right scale of the asymmetric generalised Gaussian with the moments of
    the values (equation 7; Lasmar et al. 2009). The scales are nan where all are of one sign."""
    shapes, ratios = _moment_ratios()
    negative, positive = values[values < 0], values[values > 0]
    if not negative.size or not positive.size:
        return float(shapes[0]), math.nan, math.nan
    left = math.sqrt(float(np.mean(negative**2)))
    right = math.sqrt(float(np.mean(positive**2)))
    skew = left / right
    ratio = float(np.mean(np.abs(values))) ** 2 / float(np.mean(values**2))
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = float(shapes[np.argmin((ratios - ratio) ** 2)])
    scale = math.sqrt(math.gamma(1 / shape) / math.gamma(3 / shape))
    return shape, left * scale, right * scale


@lru_cache(maxsize=1)
def _moment_ratios() -> tuple[Floats, Floats]:
    """Shapes 0.2 to 10 in steps of 0.001, and (E|x|)² / E x² of the symmetric law of each."""
    shapes = np.arange(0.2, 10.001, 0.001)
    ratios = [
        math.gamma(2 / s) ** 2 / (math.gamma(1 / s) * math.gamma(3 / s)) for s in shapes.tolist()
    ]
    return shapes, np.array(ratios)


def _natural(path: Path) -> tuple[Floats, Floats, Floats]:
    try:
        with np.load(path) as file:
            mean, covariance, window = (file[name].astype(np.float64) for name in SHAPES)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; `fhrt models pull niqe` fetches it") from error
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: no parameters of NIQE: {error}") from error
    if [a.shape for a in (mean, covariance, window)] != list(SHAPES.values()):
        raise ModelError(f"{path}: no parameters of NIQE: arrays of other shapes")
    return mean, covariance, window
