"""Pictures with boxes and landmarks, and their recomposition into new ones.

`photos.csv` gives boxes and landmarks of whole photographs, `faces.csv` the landmarks of aligned
faces, whose boxes follow from the landmarks as they do on the photographs.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from fhrt.errors import InputError
from fhrt.faces import Picture
from fhrt.quality.detection import read_table
from fhrt.training.data import read_picture

TEXTURES = 40  # made-up pictures without a face, beside the photographed ones
MIRRORED = [1, 0, 2, 4, 3]  # left and right change places in a mirrored face


@dataclass(frozen=True)
class Labelled:
    """A picture at 1, 1/2 and 1/4 of its size, and its faces in pixels of the first.

    boxes (n, 4) x0 y0 x1 y1; landmarks (n, 5, 2); ignore (n,), faces too doubtful to be asked for.
    """

    mips: tuple[Picture, Picture, Picture]
    boxes: np.ndarray
    landmarks: np.ndarray
    ignore: np.ndarray


@dataclass(frozen=True)
class Sources:
    """The training pictures by kind: photographs with faces, without any, and aligned faces."""

    photos: dict[str, list[Labelled]]
    empty: list[Labelled]
    faces: list[Labelled]


def read_sources(data: Path) -> Sources:
    """Read `data`/photos/train and `data`/faces/train. Raises InputError where they are missing."""
    rows = read_table(data / "photos/train/photos.csv")
    listing = data / "faces/faces.csv"
    if not listing.is_file():
        raise InputError(f"{listing}: no such table of aligned faces")
    with ThreadPoolExecutor() as pool:
        photos = list(pool.map(lambda f: _photo(data / "photos/train" / f, rows[f]), rows))
    kinds: dict[str, list[Labelled]] = defaultdict(list)
    for name, photo in zip(rows, photos, strict=True):
        kinds["none" if len(photo.boxes) == 0 else name.split("/")[0]].append(photo)
    empty = kinds.pop("none")
    for i in range(TEXTURES):
        picture = _texture(400, np.random.default_rng(i))
        empty.append(replace(empty[0], mips=_mips(picture)))

    boxes = np.concatenate([p.boxes[p.ignore == 0] for p in photos])
    landmarks = np.concatenate([p.landmarks[p.ignore == 0] for p in photos])
    large = boxes[:, 2] - boxes[:, 0] > 50
    shape = fit_boxes(landmarks[large], boxes[large])
    with listing.open(newline="", encoding="utf-8") as file:
        aligned = [row for row in csv.DictReader(file) if row["split"] == "train"]
    with ThreadPoolExecutor() as pool:
        faces = list(pool.map(lambda row: _face(data / "faces", row, shape), aligned))
    return Sources(dict(kinds), empty, faces)


def landmark_frame(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 5, 2) -> the middle of eyes and mouth corners (n, 2), and the distance (n,) of the eyes'
    middle from the mouth's: a place and a size that hardly depend on how the head is turned."""
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    return (eyes + mouth) / 2, np.maximum(np.linalg.norm(eyes - mouth, axis=1), 1e-3)


def fit_boxes(landmarks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Least squares (11, 4) from landmarks to boxes, both in the landmarks' own frame."""
    middle, size = landmark_frame(landmarks)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - middle
    wanted = np.concatenate([centres, boxes[:, 2:] - boxes[:, :2]], 1) / size[:, None]
    fit: np.ndarray = np.linalg.lstsq(_frame_features(landmarks), wanted, rcond=None)[0]
    return fit


def boxes_of(landmarks: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """(n, 5, 2) landmarks -> (n, 4) boxes by the fit of `fit_boxes`."""
    middle, size = landmark_frame(landmarks)
    found = (_frame_features(landmarks) @ shape) * size[:, None]
    centres, sides = found[:, :2] + middle, np.maximum(found[:, 2:], 1.0)
    return np.concatenate([centres - sides / 2, centres + sides / 2], 1)


def warp_faces(
    matrix: np.ndarray, boxes: np.ndarray, landmarks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and landmarks under a similarity (2, 3); left and right stay as seen.

    A turned box is the one around the turned ellipse that the box encloses.
    """
    points = landmarks @ matrix[:, :2].T + matrix[:, 2]
    if np.linalg.det(matrix[:, :2]) < 0:
        points = points[:, MIRRORED]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.sqrt(half**2 @ (matrix[:, :2] ** 2).T)
    return np.concatenate([centres - half, centres + half], 1), points


def warp(source: Labelled, matrix: np.ndarray, canvas: Picture) -> None:
    """Draw the picture onto the canvas in place; pixels that it does not cover stay."""
    factor = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    level = int(np.clip(np.floor(-np.log2(factor)), 0, 2))  # shrink from a mip, against aliasing
    scaled = matrix.copy()
    step = 2**level
    scaled[:, 2] += matrix[:, :2] @ np.full(2, (step - 1) / 2)  # pixel centres at integers
    scaled[:, :2] *= step
    cv2.warpAffine(
        source.mips[level],
        scaled,
        (canvas.shape[1], canvas.shape[0]),
        dst=canvas,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def spoil(picture: Picture, rng: np.random.Generator) -> Picture:
    """Grey, light, colour cast, blur, noise and JPEG, each now and then; uint8 (H, W, 3) RGB."""
    if rng.random() < 0.3:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        tint = rng.uniform(0.85, 1.0, 3) if rng.random() < 0.3 else np.ones(3)
        picture = np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        gain = rng.uniform(0.6, 1.4) * (rng.uniform(0.85, 1.15, 3) if rng.random() < 0.5 else 1.0)
        levels = np.arange(256)[:, None] / 255
        curve = levels ** np.exp(rng.normal(0, 0.25)) * gain * np.ones(3) + rng.normal(0, 0.04)
        table = np.clip(curve * 255, 0, 255).astype(np.uint8)
        picture = cv2.LUT(picture, table[None])
    if rng.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.8))
    if rng.random() < 0.3:
        noise = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(2, 20))
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.uniform(20, 90))
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        picture = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return picture


def _texture(side: int, rng: np.random.Generator) -> Picture:
    """What in small looks a little like a face and is none: pebbles, print, or cloudy noise."""
    kind = rng.integers(3)
    colours = np.clip(rng.integers(0, 256, (2, 1)) + rng.normal(0, 12, (2, 3)), 0, 255)
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = colours[0]
    if kind == 0:
        large = rng.uniform(3, 24)
        for _ in range(int(min(900, 1.5 * (side / large) ** 2))):
            centre = tuple(int(v) for v in rng.integers(0, side, 2))
            axes = tuple(int(v) for v in np.maximum(rng.normal(large, large / 3, 2), 1))
            shade = np.clip(colours[1] * rng.uniform(0.3, 1.4), 0, 255)
            cv2.ellipse(picture, centre, axes, rng.uniform(0, 180), 0, 360, shade.tolist(), -1)
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, large / 4 + 0.3))
    elif kind == 1:
        size = rng.uniform(0.25, 1.2)
        fonts = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
        font, ink = int(rng.choice(fonts)), colours[1].tolist()
        for y in np.arange(size * 12, side + size * 24, size * rng.uniform(26, 40)):
            words = "".join(chr(c) for c in rng.choice([32, *range(97, 123)], 80))
            place = (int(rng.integers(-40, 20)), int(y))
            cv2.putText(
                picture, words, place, font, size, ink, int(rng.integers(1, 3)), cv2.LINE_AA
            )
    else:
        field = np.zeros((side, side, 3), np.float32)
        for step in (1, 2, 4, 8, 16, 32):
            cells = side // step + 2
            noise = rng.standard_normal((cells, cells, 1 if rng.random() < 0.7 else 3), np.float32)
            noise = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
            field += noise.reshape(side, side, -1) * np.float32(rng.exponential(25))
        picture = np.clip(picture + field, 0, 255).astype(np.uint8)
    return picture


def _frame_features(landmarks: np.ndarray) -> np.ndarray:
    middle, size = landmark_frame(landmarks)
    places = (landmarks - middle[:, None]) / size[:, None, None]
    return np.concatenate([places.reshape(-1, 10), np.ones((len(places), 1))], 1)


def _mips(picture: Picture) -> tuple[Picture, Picture, Picture]:
    half = cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return picture, half, cv2.resize(half, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _landmarks(row: dict[str, str]) -> list[list[float]]:
    return [[float(row[f"x{i}"]), float(row[f"y{i}"])] for i in range(5)]


def _photo(path: Path, rows: list[dict[str, str]]) -> Labelled:
    rows = [row for row in rows if row["w"]]
    corners = [[float(row[key]) for key in "xywh"] for row in rows]
    boxes = np.array(corners, np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    landmarks = np.array([_landmarks(row) for row in rows], np.float64).reshape(-1, 5, 2)
    ignore = np.array([row["ignore"] == "1" for row in rows], bool)
    return Labelled(_mips(read_picture(path)), boxes, landmarks, ignore)


def _face(folder: Path, row: dict[str, str], shape: np.ndarray) -> Labelled:
    picture = read_picture(folder / row["file"])
    landmarks = np.array([_landmarks(row)])
    if picture.shape[0] > 256:  # a mosaic never shows a face larger than this
        picture = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
        landmarks = (landmarks + 0.5) / 2 - 0.5
    return Labelled(_mips(picture), boxes_of(landmarks, shape), landmarks, np.zeros(1, bool))
