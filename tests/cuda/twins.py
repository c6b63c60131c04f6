"""What the kernels compute, in NumPy and float64, for those whose twin is not in fhrt or OpenCV."""

from __future__ import annotations

import numpy as np

# ITU-R BT.601-7 table 3, BT.709-6 table 3, BT.2020-2 table 4: E'Y = Kr R + Kg G + Kb B
GREY = {
    "bt601": np.array([0.299, 0.587, 0.114]),
    "bt709": np.array([0.2126, 0.7152, 0.0722]),
    "bt2020": np.array([0.2627, 0.6780, 0.0593]),
}


def quantised(signal: np.ndarray, bits: int, full: bool, chroma: bool) -> np.ndarray:
    """E' (0 to 1, chroma −½ to ½) to the numbers that are stored, not yet rounded."""
    unit = 2 ** (bits - 8)
    if full:
        return signal * (2**bits - 1) + (128 * unit if chroma else 0)
    return (signal * 224 + 128) * unit if chroma else (signal * 219 + 16) * unit


def to_planes(
    picture: np.ndarray, matrix: str, bits: int, full: bool
) -> tuple[np.ndarray, np.ndarray]:
    """RGB to luma (H, W) and chroma (⌈H/2⌉, ⌈W/2⌉, 2), chroma the mean of its pixels."""
    rgb = picture / 255.0
    kr, _, kb = GREY[matrix]
    grey = rgb @ GREY[matrix]
    pair = np.stack(
        [(rgb[..., 2] - grey) / (2 - 2 * kb), (rgb[..., 0] - grey) / (2 - 2 * kr)], axis=-1
    )
    height, width = grey.shape
    weight = np.ones((height, width, 1))
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    total, count = (
        np.pad(plane, padding).reshape((height + 1) // 2, 2, (width + 1) // 2, 2, -1).sum((1, 3))
        for plane in (pair, weight)
    )
    kind, shift = (np.uint8, 0) if bits == 8 else (np.uint16, 6)
    planes = (quantised(grey, bits, full, False), quantised(total / count, bits, full, True))
    luma, chroma = (
        np.left_shift(np.clip(np.rint(plane), 0, 2**bits - 1).astype(kind), shift)
        for plane in planes
    )
    return luma, chroma


def from_planes(
    luma: np.ndarray, chroma: np.ndarray, matrix: str, bits: int, full: bool
) -> np.ndarray:
    """The inverse of `to_planes`, by solving its matrix; chroma is the same for its four pixels."""
    shift = 0 if bits == 8 else 6
    height, width = luma.shape
    whole = chroma.repeat(2, 0).repeat(2, 1)[:height, :width]
    stored = np.concatenate([luma[..., None], whole], -1) >> shift
    zero = [quantised(np.zeros(1), bits, full, chroma=each)[0] for each in (False, True, True)]
    one = [quantised(np.ones(1), bits, full, chroma=each)[0] for each in (False, True, True)]
    signal = (stored - zero) / (np.array(one) - zero)
    grey = GREY[matrix]
    kr, _, kb = grey
    forward = np.stack(
        [grey, (np.eye(3)[2] - grey) / (2 - 2 * kb), (np.eye(3)[0] - grey) / (2 - 2 * kr)]
    )
    rgb = signal @ np.linalg.inv(forward).T
    return np.clip(np.floor(rgb * 255 + 0.5), 0, 255).astype(np.uint8)


def gray_world(picture: np.ndarray) -> np.ndarray:
    means = picture.reshape(-1, 3).mean(0)
    gains = np.where(means > 0, means.mean() / np.maximum(means, 1e-9), 1)
    return np.minimum(np.rint(picture * gains), 255).astype(np.uint8)


def cut(picture: np.ndarray, tile: int, xs: list[int], ys: list[int]) -> np.ndarray:
    height, width = picture.shape[:2]
    padding = ((0, max(tile - height, 0)), (0, max(tile - width, 0)), (0, 0))
    padded = np.pad(picture, padding, mode="reflect")
    tiles = [padded[y : y + tile, x : x + tile] for y in ys for x in xs]
    return np.stack(tiles).transpose(0, 3, 1, 2) / 255.0


def blend(
    tiles: np.ndarray, shape: tuple[int, int], xs: list[int], ys: list[int], ramp: int
) -> np.ndarray:
    """Adds tile after tile with its weights, and divides by what the weights add up to."""
    tile = tiles.shape[2]
    centres = np.arange(tile) + 0.5
    weight = np.minimum(np.minimum(centres, centres[::-1]), max(ramp, 0.5))
    weights = np.outer(weight, weight)[..., None]
    total, count = np.zeros((*shape, 3)), np.zeros((*shape, 1))
    places = [(y, x) for y in ys for x in xs]
    for (y, x), part in zip(places, tiles.transpose(0, 2, 3, 1), strict=True):
        high, wide = min(tile, shape[0] - y), min(tile, shape[1] - x)
        total[y : y + high, x : x + wide] += (part * weights)[:high, :wide]
        count[y : y + high, x : x + wide] += weights[:high, :wide]
    return np.clip(np.floor(total / count * 255 + 0.5), 0, 255).astype(np.uint8)
