"""`fhrt data prepare`: from photographs to aligned faces that can be trained on and scored with.

find: the main face of each picture, if it is large, sharp and whole enough → split: by person, so
that nobody is in two splits → write: crops, and a table of them. A picture is read twice, so that
memory does not grow with their number.
"""

from __future__ import annotations

import csv
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.detect import DetectFaces
from fhrt.errors import InputError, UsageError
from fhrt.faces import Face, Matrix, Picture, crop, crop_matrix, source_side
from fhrt.pictures import encode_picture
from fhrt.training.data import NOT_ENLARGED, Dropped
from fhrt.training.layouts import LANDMARKS, Source
from fhrt.training.people import Found, grouping, partition, people

MIRRORED = 0.25  # the largest share of a crop that may lie outside its picture
# Variance of the Laplacian of a grey crop of 256 pixels, 0..255; at 512 pixels half as much counts.
# Of 1,994 good training faces none is below 46, 1 % below 100; of the same after a Gaussian blur of
# 1.5 pixels 1 % is above 30. Noise counts as sharpness: noisy blur is not found.
SHARP_256 = 40.0
SUFFIX = {"train": ".webp", "test": ".png"}  # what is scored with loses nothing more
COLUMNS = ["file", "split", "size", "identity", "source", "kind", "tone", *LANDMARKS]
BATCH = 16  # pictures in memory at once

Embed = Callable[[Sequence[Picture], Sequence[NDArray[np.floating[Any]]]], NDArray[np.float32]]


@dataclass(frozen=True)
class Prepared:
    """What was written. counts: pictures by `split/size`. people: by split. grouping: how it was
    told who is who, for the user."""

    counts: dict[str, int]
    people: dict[str, int]
    grouping: str
    dropped: list[Dropped]


def prepare(
    sources: Sequence[Source],
    output: Path,
    detect: DetectFaces,
    sizes: Sequence[int] = (256, 512),
    embed: Embed | None = None,
    test_share: float = 0.1,
    seed: int = 0,
    enlarge: bool = False,
    report: Callable[[int], None] | None = None,
) -> Prepared:
    """Write output/faces/SPLIT/SIZE/*, output/faces/faces.csv and output/dropped.csv.

    For training each face is written once, at the largest of `sizes` that it fills; for testing at
    every one. embed: pictures and landmarks -> (n, d) unit vectors, asked where the data do not
    name everybody. test_share: of the people; where the data have splits of their own, those are
    kept and it is not used. enlarge: sizes that a face does not fill, too. `report` is called with
    the number of pictures looked at. Raises UsageError for an output folder that is not empty,
    InputError where no face is left or nothing can be written.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UsageError(f"{output}: is not an empty folder; choose another with -o")
    if embed is not None and all(source.identity for source in sources):
        embed = None
    created = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=output) as beside:
            found, dropped = find(sources, detect, sorted(sizes), embed, enlarge, report)
            if not found:
                raise InputError(f"no face is left: {reasons(dropped)}")
            groups = people(found)
            splits = partition(groups, test_share, seed)
            rows = _write_faces(groups, splits, Path(beside) / "faces")
            _write_table(Path(beside) / "faces/faces.csv", COLUMNS, rows)
            _write_table(Path(beside) / "dropped.csv", ["file", "why"], sorted(dropped))
            for name in ("dropped.csv", "faces"):  # the faces last, and all at once
                (Path(beside) / name).rename(output / name)
    except OSError as error:
        raise InputError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        if created and output.is_dir() and not any(output.iterdir()):
            output.rmdir()
    counts = Counter(f"{row[1]}/{row[2]}" for row in rows)
    return Prepared(dict(sorted(counts.items())), Counter(splits), grouping(found), dropped)


def find(
    sources: Sequence[Source],
    detect: DetectFaces,
    sizes: Sequence[int],
    embed: Embed | None = None,
    enlarge: bool = False,
    report: Callable[[int], None] | None = None,
) -> tuple[list[Found], list[Dropped]]:
    """The usable faces, one a picture, and the pictures that have none, with the reason."""

    def read(source: Source) -> Picture | InputError:
        try:
            return source.read()
        except InputError as error:
            return error

    found: list[Found] = []
    dropped: list[Dropped] = []
    seen: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(sources), BATCH):
            batch = sources[start : start + BATCH]
            for source, picture in zip(batch, pool.map(read, batch), strict=True):
                if isinstance(picture, InputError):
                    why = str(picture).removeprefix(f"{source.name}: ")
                    dropped.append(Dropped(source.name, f"unreadable: {why}"))
                    continue
                pixels = repr(picture.shape).encode() + picture.tobytes()
                digest = hashlib.sha256(pixels).hexdigest()
                if digest in seen:
                    dropped.append(Dropped(source.name, f"duplicate: of {seen[digest]}"))
                    continue
                seen[digest] = source.name
                face = _look(source, picture, detect, sizes, enlarge)
                if isinstance(face, str):
                    dropped.append(Dropped(source.name, face))
                else:
                    landmarks, fits = face
                    vector = None if embed is None else embed([picture], [landmarks])[0]
                    found.append(Found(source, landmarks, digest, fits, vector))
            if report is not None:
                report(start + len(batch))
    return found, dropped


def main_face(faces: Sequence[Face], picture: Picture) -> Face:
    """The largest face; one in a corner counts for little, one in the middle for its whole area."""
    height, width = picture.shape[:2]
    middle = np.array([width - 1, height - 1]) / 2

    def weight(face: Face) -> float:
        low, high = face.box[:2], face.box[2:]
        distance = float(np.linalg.norm((low + high) / 2 - middle) / np.hypot(height, width))
        return float(np.prod(high - low)) * max(0.0, 1 - 2 * distance)

    return max(faces, key=weight)


def outside(picture: Picture, matrix: Matrix, side: int) -> float:
    """The share, 0 to 1, of a crop that lies outside the picture; 1 for a crop without area."""
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    inverse = cv2.invertAffineTransform(matrix)
    quad = (corners * side - 0.5) @ inverse[:, :2].T + inverse[:, 2]
    frame = corners * [width, height] - 0.5
    area = float(cv2.contourArea(quad.astype(np.float32)))
    shared = cv2.intersectConvexConvex(quad.astype(np.float32), frame.astype(np.float32))[0]
    return 1 - float(shared) / area if area >= 1 else 1.0


def sharpness(face: Picture) -> float:
    """Variance of the Laplacian of a square grey crop, as it would be about at 256 pixels."""
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()) * len(face) / 256


def reasons(dropped: Iterable[Dropped]) -> str:
    """How many for each reason, the most frequent first.

    >>> reasons([Dropped("a", "no face"), Dropped("b", "too small: 9"), Dropped("c", "no face")])
    '2 no face, 1 too small'
    """
    counts = Counter(why.split(":")[0] for _, why in dropped)
    return ", ".join(f"{n} {why}" for why, n in counts.most_common())


def _look(
    source: Source, picture: Picture, detect: DetectFaces, sizes: Sequence[int], enlarge: bool
) -> tuple[NDArray[np.floating[Any]], list[int]] | str:
    """Landmarks and the sizes that the face fills, or why it cannot be used."""
    if source.landmarks is not None:
        landmarks: NDArray[np.floating[Any]] = source.landmarks
    elif faces := detect(picture):
        landmarks = main_face(faces, picture).landmarks
    else:
        return "no face"
    smallest = crop_matrix(landmarks, sizes[0])
    beyond = outside(picture, smallest, sizes[0])
    if beyond > MIRRORED:
        return f"cut off: {beyond:.0%} of the crop is outside the picture"
    covered = source_side(smallest, sizes[0])
    fits = [side for side in sizes if enlarge or covered >= side * NOT_ENLARGED]
    if not fits:
        least = sizes[0] * NOT_ENLARGED
        return f"too small: covers {covered:.0f} pixels of the {least:.0f} that {sizes[0]} needs"
    sharp = []
    for side in fits:
        real = max(16, min(side, int(covered)))  # an enlarged face is no more blurred than it was
        measured = sharpness(crop(picture, crop_matrix(landmarks, real), real))
        if measured >= SHARP_256:
            sharp.append(side)
    return (landmarks, sharp) if sharp else f"blurred: sharpness {measured:.0f} of {SHARP_256:.0f}"


def _write_faces(
    groups: Sequence[Sequence[Found]], splits: Sequence[str], folder: Path
) -> list[list[str]]:
    """The crops below `folder`; the rows of faces.csv."""
    jobs = []
    for person, (group, split) in enumerate(zip(groups, splits, strict=True)):
        for number, face in enumerate(group):
            for side in face.sizes[-1:] if split == "train" else face.sizes:
                name = f"{split}/{side}/{person:05d}_{number:02d}{SUFFIX[split]}"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                jobs.append((face, side, person, split, name))

    def write(job: tuple[Found, int, int, str, str]) -> list[str]:
        face, side, person, split, name = job
        matrix = crop_matrix(face.landmarks, side)
        picture = crop(face.source.read(), matrix, side)
        (folder / name).write_bytes(encode_picture(picture, folder / name))
        points = face.landmarks @ matrix[:, :2].T + matrix[:, 2]
        spread = np.ptp(picture.astype(np.int16), axis=2).mean()
        tone = "grey" if spread < 2 else "colour"  # a grey JPEG has a little colour
        known = [name, split, str(side), str(person), face.source.name, "unknown", tone]
        return known + [f"{value:.1f}" for value in points.reshape(-1)]

    with ThreadPoolExecutor() as pool:
        return list(pool.map(write, jobs))


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *rows])
