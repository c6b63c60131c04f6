"""Is it still the same person: the cosine between the embeddings of two pictures of a face.

Both pictures are aligned by the same five landmarks, those of the undamaged one, so that what is
compared is the face and not how well a detector copes with the damage. The network is the user's
own file; see `fhrt models pull`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fhrt.errors import InputError, ModelError, UsageError, known_names
from fhrt.faces import TEMPLATE, TEMPLATE_SIDE, Picture, crop, similarity
from fhrt.runtime.onnx import open_graph
from fhrt.runtime.session import need, parse_device

Floats = NDArray[np.float32]
Landmarks = NDArray[np.floating[Any]]

SIDE = 112
# Left eye, right eye, nose, left and right mouth corner on a 112-pixel crop: the template of
# ArcFace (Deng et al. 2019), which InsightFace, OpenCV's SFace and MobileFaceNet share.
ARCFACE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)

# Mean and deviation of RGB in 0 to 255 that a family of networks wants taken off.
NORMALISATIONS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # MobileFaceNet (foamliu)
    "arcface": ((127.5,) * 3, (127.5,) * 3),  # InsightFace's packs: buffalo_l, antelopev2, …
    "none": ((0.0,) * 3, (1.0,) * 3),  # SFace, MXNet's exports: it is done inside the graph
}


class Embedder:
    """A face recognition network in ONNX: (1, 3, 112, 112) RGB -> (1, d)."""

    def __init__(
        self, path: Path, normalisation: str = "auto", device: str = "cpu", threads: int = 0
    ) -> None:
        """Open a file. normalisation: a name of NORMALISATIONS, or auto (see `normalisation_of`).

        Raises UsageError for an unknown normalisation or one that cannot be told, ModelError for a
        file that is no such network.
        """
        if normalisation not in ("auto", *NORMALISATIONS):
            near = known_names(normalisation, ("auto", *NORMALISATIONS))
            raise UsageError(f"unknown normalisation {normalisation!r}{near}")
        need("onnxruntime", "cpu")
        if not path.is_file():
            raise ModelError(f"{path}: no such file; see `fhrt models pull` for networks")
        self._graph, self.device = open_graph(path, *parse_device(device), threads)
        given, made = self._graph.get_inputs()[0], self._graph.get_outputs()[0]
        self._input = given.name
        if list(given.shape[1:]) != [3, SIDE, SIDE]:
            raise ModelError(f"{path}: takes {given.shape}, and a face network (n, 3, 112, 112)")
        if normalisation == "auto":
            normalisation = normalisation_of(path, given.name, made.shape[-1])
        self.normalisation = normalisation
        mean, deviation = NORMALISATIONS[normalisation]
        self._mean = np.array(mean, np.float32)
        self._deviation = np.array(deviation, np.float32)

    def embed(
        self, pictures: Sequence[Picture], landmarks: Sequence[Landmarks] | None = None
    ) -> Floats:
        """(n, d) unit vectors of n faces.

        pictures: uint8 RGB (H, W, 3). landmarks: (5, 2) a picture, in its pixels; None where the
        pictures are aligned crops of 112×112 already. Raises InputError for other sizes.
        """
        if landmarks is not None:
            pictures = [align(p, five) for p, five in zip(pictures, landmarks, strict=True)]
        vectors = [self._vector(picture) for picture in pictures]
        return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)

    def _vector(self, picture: Picture) -> Floats:
        """One at a time: most of these files are made for a batch of one."""
        if picture.shape != (SIDE, SIDE, 3):
            raise InputError(f"an aligned face has 112×112×3 values, not {picture.shape}")
        values = (picture.astype(np.float32) - self._mean) / self._deviation
        batch = np.ascontiguousarray(values.transpose(2, 0, 1)[None])
        vector: Floats = self._graph.run(None, {self._input: batch})[0].reshape(-1)
        return vector / max(float(np.linalg.norm(vector)), 1e-12)


def normalisation_of(path: Path, input_name: str, length: int) -> str:
    """Which normalisation a file wants, from what can be seen of it; in this order:

    1. An input called `data` is MXNet's, whose face networks subtract and divide inside the graph:
       RGB as it is, 0 to 255.
    2. "sface" in the file's name: the same; it is what `cv2.FaceRecognizerSF` feeds the file.
    3. "mobilefacenet" in the file's name and 128 values: ImageNet's mean and deviation.
    4. 512 values: ArcFace, (x - 127.5) / 127.5, as InsightFace feeds its files.

    Raises UsageError for anything else: a wrong guess gives figures that look right.
    """
    name = path.name.lower()
    if input_name == "data" or "sface" in name:
        return "none"
    if "mobilefacenet" in name and length == 128:
        return "imagenet"
    if length == 512:
        return "arcface"
    raise UsageError(
        f"{path}: how its input is normalised cannot be told from a file of {length} values; "
        f"name it: {', '.join(NORMALISATIONS)}"
    )


def align(picture: Picture, landmarks: Landmarks) -> Picture:
    """uint8 (112, 112, 3): the face on the ArcFace template, by a least-squares similarity."""
    return crop(picture, similarity(landmarks, ARCFACE), SIDE)


def cosine(a: Floats, b: Floats) -> NDArray[np.float64]:
    """(..., d) and (..., d) -> (...): the cosine of the angle between vectors, -1 to 1. Vectors of
    any length; 0 where one of them is 0."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    result: NDArray[np.float64] = (x * y).sum(-1) / np.maximum(lengths, 1e-12)
    return result


def landmarks_of(folder: Path, side: int | None = None) -> dict[str, NDArray[np.float64]]:
    """The (5, 2) landmarks of every picture of a folder, by file name.

    They come from the nearest `faces.csv` in the folder or above it: a row a picture, `file` as
    seen from the table's folder, x0 y0 … x4 y4 in pixels. A picture without a row is taken for an
    aligned crop and gets the FFHQ template at its size. side: give them as they lie after the
    picture was resized to so many pixels. Raises InputError for a picture or a table that cannot
    be read, and for one that is neither square nor in the table.
    """
    rows = _table(folder.resolve())
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp", ".bmp"):
            continue
        try:
            with Image.open(path) as image:  # reads the head of the file only
                width, height = image.size
        except OSError as error:
            raise InputError(f"{path}: no picture: {error}") from error
        if path.name not in rows and width != height:
            raise InputError(f"{path}: not square, and no faces.csv tells where its face is")
        points = rows.get(path.name, TEMPLATE * (width / TEMPLATE_SIDE))
        if side is not None and side != width:
            points = (points + 0.5) * (side / width) - 0.5
        found[path.name] = points
    return found


def _table(folder: Path) -> dict[str, NDArray[np.float64]]:
    """The rows of the nearest faces.csv that lie in the folder, by file name; {} without one."""
    for above in (folder, *folder.parents):
        path = above / "faces.csv"
        if not path.is_file():
            continue
        inside = folder.relative_to(above)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return {
                    Path(row["file"]).name: np.array(
                        [[float(row[f"x{i}"]), float(row[f"y{i}"])] for i in range(5)]
                    )
                    for row in csv.DictReader(file)
                    if Path(row["file"]).parent == inside
                }
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: no table of faces: {error!r}") from error
    return {}
