"""A face, and what is done with one: align, crop, paste back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[np.uint8]
Matrix: TypeAlias = NDArray[np.float64]
Depth = TypeVar("Depth", bound=np.generic)

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


def iou(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, m): intersection over union of boxes (n, 4) and (m, 4), x0 y0 x1 y1."""
    a, b = first[:, None].astype(np.float64), second[None].astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clip(0).prod(-1) for box in (a, b)]
    overlaps: NDArray[np.float64] = shared / np.maximum(areas[0] + areas[1] - shared, 1e-12)
    return overlaps


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


def source_side(matrix: Matrix, side: int) -> float:
    """Pixels of the picture that a crop of `side` pixels with this matrix covers along one side."""
    return side / max(float(np.hypot(matrix[0, 0], matrix[1, 0])), 1e-9)


def choose_side(landmarks: NDArray[np.floating], scale: int, sides: tuple[int, ...]) -> int:
    """The smallest of `sides` that makes no face coarser than it is at the wanted scale, else the
    largest: what a crop cannot hold of a still larger face stays in the picture (see `paste`)."""
    wanted = source_side(crop_matrix(landmarks, TEMPLATE_SIDE), TEMPLATE_SIDE) * scale
    # An eighth of tolerance: nothing visible is lost, and a crop of the next size costs twice.
    return next((side for side in sorted(sides) if side * 1.125 >= wanted), max(sides))


def crop(picture: Picture, matrix: Matrix, side: int) -> Picture:
    """The aligned crop, uint8 (side, side, 3); outside the picture it is mirrored."""
    corners = crop_corners(matrix, side)
    reach = max(4.0, 2 * source_side(matrix, side) / side)
    low = np.floor(corners.min(0) - reach).astype(int)
    high = np.ceil(corners.max(0) + reach).astype(int) + 1
    low = np.clip(low, 0, [picture.shape[1] - 1, picture.shape[0] - 1])
    high = np.clip(high, low + 1, [picture.shape[1], picture.shape[0]])
    part = picture[low[1] : high[1], low[0] : high[0]]
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ low
    inverse = cv2.invertAffineTransform(shifted)
    return _sample(part, inverse, (side, side), cv2.BORDER_REFLECT_101)


def enlarge(picture: NDArray[Depth], scale: int) -> NDArray[Depth]:
    """The picture at `scale` times its size, by cubic interpolation; a copy at 1. Any depth."""
    if scale == 1:
        return picture.copy()
    larger: NDArray[Depth] = cv2.resize(
        picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC
    )
    return larger


def paste(base: Picture, before: Picture, after: Picture, matrix: Matrix, scale: int = 1) -> None:
    """Bring what restoration changed in a crop into `base`, in place.

    base: uint8 (H·scale, W·scale, 3), the enlarged picture. before, after: the crop (side, side, 3)
    as cut out and as restored. matrix: (2, 3) from the picture at scale 1 to the crop.

    The change, not the crop, is pasted, through a feathered mask: a crop that comes back unchanged
    leaves the picture bit for bit as it was, and detail finer than the crop is kept.
    """
    side = after.shape[0]
    # from pixels of base to the crop: x = (X + ½) / scale − ½
    to_crop = matrix.copy()
    to_crop[:, 2] += to_crop[:, :2] @ np.full(2, 0.5 / scale - 0.5)
    to_crop[:, :2] /= scale
    corners = crop_corners(to_crop, side)
    low = np.clip(np.floor(corners.min(0)).astype(int), 0, [base.shape[1], base.shape[0]])
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, low, [base.shape[1], base.shape[0]])
    if (high <= low).any():
        return
    to_crop[:, 2] += to_crop[:, :2] @ low
    change: NDArray[np.float32] = cv2.subtract(after, before, dtype=cv2.CV_32F)
    change *= _feather(side)
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    change = _sample(change, to_crop, size, cv2.BORDER_CONSTANT)
    part = base[low[1] : high[1], low[0] : high[0]]
    cv2.add(part, change, dst=part, dtype=cv2.CV_8U)  # rounds and saturates


@lru_cache(maxsize=8)
def _feather(side: int) -> NDArray[np.float32]:
    """(side, side, 3): 1 inside, falling smoothly to 0 over the outer eighth. Written out for each
    channel: NumPy multiplies by (side, side, 1) four times more slowly."""
    edge = np.minimum(np.arange(side) + 0.5, side - 0.5 - np.arange(side)) / (side / 8)
    ramp = np.clip(edge, 0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    mask = np.outer(ramp, ramp).astype(np.float32)
    return np.repeat(mask[..., None], 3, axis=2)


def crop_corners(matrix: Matrix, side: int) -> Matrix:
    """(4, 2): where the corners of a crop lie in the picture."""
    inverse = cv2.invertAffineTransform(matrix)
    square = np.array([[0, 0], [side - 1, 0], [0, side - 1], [side - 1, side - 1]], np.float64)
    corners: Matrix = square @ inverse[:, :2].T + inverse[:, 2]
    return corners


def _sample(
    source: NDArray[Depth], matrix: Matrix, size: tuple[int, int], border: int
) -> NDArray[Depth]:
    """Bilinear samples of `source` at matrix · (x, y), averaged first where it is made smaller."""
    step = int(np.hypot(matrix[0, 0], matrix[1, 0]))
    if step >= 2:
        # whole blocks only, so that the pixel grid of the smaller picture is exact
        rows, columns = source.shape[0] // step, source.shape[1] // step
        if rows and columns:
            whole = source[: rows * step, : columns * step]
            source = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
            matrix = matrix / step
            matrix[:, 2] += 0.5 / step - 0.5
    sampled: NDArray[Depth] = cv2.warpAffine(
        source, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=border
    )
    return sampled
