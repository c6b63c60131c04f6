"""What the kernels are told of faces and tiles: geometry, worked out on the host in NumPy.

The rows of CROP_FACE and PASTE_FACE are the structs of the same name in kernels.cu. The geometry is
that of `faces.crop` and `faces.paste`, so that both paths sample the same places.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.faces import Matrix, crop_corners, source_side

CROP_FACE = np.dtype(
    [
        ("picture", np.uint64),
        ("pitch", np.int64),
        ("left", np.int32),
        ("top", np.int32),
        ("columns", np.int32),
        ("rows", np.int32),
        ("step", np.int32),
        ("inverse", np.float32, 6),
    ],
    align=True,
)
PASTE_FACE = np.dtype(
    [
        ("before", np.uint64),
        ("after", np.uint64),
        ("side", np.int32),
        ("left", np.int32),
        ("top", np.int32),
        ("right", np.int32),
        ("bottom", np.int32),
        ("step", np.int32),
        ("to_crop", np.float32, 6),
        ("gain", np.float32, 3),
    ],
    align=True,
)

Rows = np.ndarray[Any, np.dtype[np.void]]

# Kr and Kb of ITU-R BT.601-7, BT.709-6 and BT.2020-2: the weights of red and blue in luma.
LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def crop_rows(shapes: list[tuple[int, int]], matrices: list[Matrix], side: int) -> Rows:
    """CROP_FACE rows, without addresses and pitches, for faces of pictures of (height, width)."""
    rows = np.zeros(len(matrices), CROP_FACE)
    for row, (height, width), matrix in zip(rows, shapes, matrices, strict=True):
        corners = crop_corners(matrix, side)
        reach = max(4.0, 2 * source_side(matrix, side) / side)
        low = np.clip(np.floor(corners.min(0) - reach).astype(int), 0, [width - 1, height - 1])
        high = np.ceil(corners.max(0) + reach).astype(int) + 1
        columns, lines = np.clip(high, low + 1, [width, height]) - low
        shifted = matrix.copy()
        shifted[:, 2] += matrix[:, :2] @ low
        inverse = np.asarray(cv2.invertAffineTransform(shifted), np.float64)
        step = _step(inverse, min(columns, lines))
        row["left"], row["top"] = low
        row["columns"], row["rows"], row["step"] = columns // step, lines // step, step
        row["inverse"] = _on_blocks(inverse, step).ravel()
    return rows


def paste_rows(
    shape: tuple[int, int], matrices: list[Matrix], sides: list[int], scale: int
) -> Rows:
    """PASTE_FACE rows, without addresses and with gains of 1, for faces that are put back into the
    picture of `shape` (height, width), which is enlarged `scale` times; matrices are those that the
    crops were cut with. A face outside the picture has an empty rectangle."""
    rows = np.zeros(len(matrices), PASTE_FACE)
    rows["gain"] = 1
    size = [shape[1], shape[0]]
    for row, matrix, side in zip(rows, matrices, sides, strict=True):
        # from pixels of the enlarged picture to the crop: x = (X + ½) / scale − ½
        to_crop = matrix.copy()
        to_crop[:, 2] += to_crop[:, :2] @ np.full(2, 0.5 / scale - 0.5)
        to_crop[:, :2] /= scale
        corners = crop_corners(to_crop, side)
        low = np.clip(np.floor(corners.min(0)).astype(int), 0, size)
        high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, low, size)
        to_crop[:, 2] += to_crop[:, :2] @ low
        row["side"], row["step"] = side, _step(to_crop, side)
        row["left"], row["top"] = low
        row["right"], row["bottom"] = high
        row["to_crop"] = _on_blocks(to_crop, int(row["step"])).ravel()
    return rows


def tile_starts(length: int, tile: int, overlap: int) -> NDArray[np.int32]:
    """Where tiles of `tile` pixels begin along a side of `length`: as few as reach over it with at
    least `overlap` pixels shared by neighbours, evenly spread. One, at 0, where one is enough.

    >>> tile_starts(1000, 400, 50).tolist()
    [0, 300, 600]
    """
    if length <= tile:
        return np.zeros(1, np.int32)
    count = -(-(length - overlap) // (tile - overlap))
    return np.round(np.linspace(0, length - tile, count)).astype(np.int32)


def _step(matrix: Matrix, size: int) -> int:
    """The side of the blocks whose means are sampled: the whole pixels that one step of `matrix`
    goes over; single pixels where there is no whole block in `size`."""
    step = int(np.hypot(matrix[0, 0], matrix[1, 0]))
    return step if 2 <= step <= size else 1


def _on_blocks(matrix: Matrix, step: int) -> Matrix:
    """`matrix` with its result counted in blocks of `step` pixels."""
    coarse = matrix / step
    coarse[:, 2] += 0.5 / step - 0.5
    return coarse
