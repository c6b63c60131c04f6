"""Detectors behind one function: picture -> list[Face].

The bundled one looks at the picture three times, small for large faces and large for small ones,
and a second network refines the landmarks of every found face. A YuNet file of the user's own works
too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import ModelError
from fhrt.faces import Face, Picture, crop, landmark_crop_matrix
from fhrt.layout import fill_planes, to_batch
from fhrt.models import recipe
from fhrt.runtime.session import need, parse_device

DetectFaces = Callable[[Picture], list[Face]]

# Of the bundled detector: two false faces in the 130 training pictures without any, four finds
# there that are faces, real or drawn, left out.
THRESHOLD = 0.58
OVERLAP = 0.4  # IoU above which two boxes are one face
STRIDES = (8, 16, 32)
# The long side, in pixels, of the picture as it is looked at: for faces that fill it, for most, and
# for small ones. Never enlarged: that gives more false faces, 13 instead of 8 at a score of 0.55
# in the training pictures without any, for twice the time.
LOOKS = (160, 320, 1280)


def open_detector(
    path: Path | None = None, device: str = "auto", threads: int = 0, threshold: float | None = None
) -> DetectFaces:
    """The bundled detector, or the YuNet ONNX file at `path`.

    threshold: least score, 0 to 1; None for the detector's own. Raises ModelError for a file that
    cannot be used, RuntimeMissing for a device that cannot be had.
    """
    if path is not None:
        return YuNet(path, 0.6 if threshold is None else threshold)
    return BundledDetector(device, threads, THRESHOLD if threshold is None else threshold)


class BundledDetector:
    """The two networks of fhrt's own, in ONNX Runtime: finder and refiner."""

    def __init__(self, device: str, threads: int, threshold: float) -> None:
        need("onnxruntime", "cpu")
        from fhrt.runtime.onnx import open_graph

        kind, index = parse_device(device)
        self.threshold = threshold
        self.finder, _ = open_graph(recipe("detector").onnx_path(), kind, index, threads)
        refiner = recipe("landmarks")
        self._refine_side = refiner.sizes[0]
        self.refiner, _ = open_graph(refiner.onnx_path(), kind, index, threads)

    def __call__(self, picture: Picture) -> list[Face]:
        """Faces in uint8 (H, W, 3) RGB, best score first."""
        long_side = max(picture.shape[:2])
        scales = [min(1.0, look / long_side) for look in LOOKS]
        every = merge(
            np.concatenate([self._look(picture, s) for s in sorted(set(scales))]), OVERLAP
        )
        landmarks = self._refine(picture, every[:, 5:].reshape(-1, 5, 2))
        return [
            Face(row[1:5].astype(np.float32), points.astype(np.float32), float(row[0]))
            for row, points in zip(every, landmarks, strict=True)
        ]

    def _look(self, picture: Picture, scale: float) -> NDArray[np.float32]:
        """One pass at `scale`: (n, 15) score, box, landmarks in pixels of the picture."""
        rows, columns = (max(1, round(side * scale)) for side in picture.shape[:2])
        scaled = picture
        if scale < 1:
            scaled = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
        canvas = np.empty((1, 3, -(-rows // 32) * 32, -(-columns // 32) * 32), np.float32)
        canvas[:, :, rows:] = canvas[:, :, :, columns:] = 0.5
        fill_planes(scaled, canvas[0, :, :rows, :columns])
        maps = self.finder.run(None, {"input": canvas})
        found = np.concatenate(
            [decode(m[0], s, self.threshold) for m, s in zip(maps, STRIDES, strict=True)]
        )
        # pixel centres at integers: x = (X + ½) / scale − ½
        factor = np.array([picture.shape[1] / columns, picture.shape[0] / rows], np.float32)
        found[:, 1:] = (found[:, 1:] + 0.5) * np.tile(factor, 7) - 0.5
        return found

    def _refine(self, picture: Picture, landmarks: NDArray[np.float32]) -> NDArray[np.float64]:
        """Landmarks (n, 5, 2) after the second network's look at each face, twice: the second look
        is at a crop that the first has straightened."""
        side = self._refine_side
        for _ in range(2):
            if not len(landmarks):
                break
            matrices = [landmark_crop_matrix(points, side) for points in landmarks]
            batch = to_batch([crop(picture, m, side) for m in matrices])
            places = self.refiner.run(None, {"input": batch})[0] * side - 0.5
            inverse = [cv2.invertAffineTransform(m) for m in matrices]
            landmarks = np.stack(
                [p @ m[:, :2].T + m[:, 2] for p, m in zip(places, inverse, strict=True)]
            )
        return landmarks.astype(np.float64)


class YuNet:
    """A YuNet ONNX file through cv2.FaceDetectorYN."""

    def __init__(self, path: Path, threshold: float) -> None:
        if not path.is_file():
            raise ModelError(f"{path}: no such detector file")
        try:
            self._network = cv2.FaceDetectorYN.create(
                str(path), "", (320, 320), threshold, 0.3, 5000
            )
        except cv2.error as error:
            raise ModelError(f"{path}: OpenCV cannot load it as a YuNet detector") from error

    def __call__(self, picture: Picture) -> list[Face]:
        """Faces in uint8 (H, W, 3) RGB, best score first."""
        scale = min(1.0, LOOKS[-1] / max(picture.shape[:2]))
        scaled = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if scale < 1:
            scaled = cv2.resize(scaled, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self._network.setInputSize((scaled.shape[1], scaled.shape[0]))
        rows = self._network.detect(scaled)[1]
        if rows is None:
            return []
        rows = rows[np.argsort(-rows[:, 14])]
        rows[:, 2:4] += rows[:, :2]
        rows[:, :14] = (rows[:, :14] + 0.5) / scale - 0.5
        return [Face(r[:4].copy(), r[4:14].reshape(5, 2).copy(), float(r[14])) for r in rows]


def decode(answers: NDArray[np.float32], stride: int, threshold: float) -> NDArray[np.float32]:
    """(15, h, w) of `networks.detector` -> (n, 15) score, box, landmarks in pixels of its input."""
    row, column = np.nonzero(answers[0] >= threshold)
    values = answers[:, row, column].T.astype(np.float32)
    centres = (np.stack([column, row], 1).astype(np.float32) + 0.5) * stride - 0.5
    found = np.empty_like(values)
    found[:, 0] = values[:, 0]
    found[:, 1:3] = centres - values[:, 1:3] * stride
    found[:, 3:5] = centres + values[:, 3:5] * stride
    found[:, 5:] = np.tile(centres, 5) + values[:, 5:] * stride
    return found


def merge(found: NDArray[np.float32], overlap: float) -> NDArray[np.float32]:
    """Greedy non-maximum suppression over (n, 15), best score first."""
    boxes = found[:, 1:5].copy()
    boxes[:, 2:] -= boxes[:, :2]
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), found[:, 0].tolist(), 0.0, overlap)
    best: NDArray[np.float32] = found[np.asarray(kept, int).reshape(-1)]
    return best
