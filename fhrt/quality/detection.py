"""Scores of a face detector against `photos.csv`: recall, landmark error, false faces.

A row of the table is a face: file, box x y w h, landmarks x0 y0 … x4 y4, ignore. Faces with
ignore = 1 count neither as hits nor as misses nor as false alarms; a picture without a face has one
row with an empty box.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from fhrt.errors import InputError
from fhrt.faces import Face, Picture, iou

SIZES = (16, 24, 32, 64, 128, 10_000)  # ends of the classes of face size, root of the box's area
IOU = 0.5


@dataclass(frozen=True)
class FoundFace:
    """One labelled face: its kind of picture, its size in pixels, the score of the box that found
    it (0 where none did), the landmarks' mean error over the eye distance (nan likewise), and that
    distance in pixels."""

    kind: str
    size: float
    score: float
    error: float
    eyes: float = 1.0


@dataclass(frozen=True)
class DetectionScores:
    """All labelled faces, and the scores of the false faces in pictures that show none."""

    faces: tuple[FoundFace, ...]
    false_scores: tuple[float, ...]
    empty_pictures: int

    def threshold(self, allowed: int = 1) -> float:
        """The least threshold with at most `allowed` false faces in the pictures without any."""
        ordered = sorted(self.false_scores, reverse=True)
        return float(np.nextafter(ordered[allowed], 1)) if len(ordered) > allowed else 0.0

    def recall(self, kind: str, threshold: float, sizes: tuple[float, float] = (24, 1e9)) -> float:
        """Share of the faces of a kind of picture, and of a class of size, that were found."""
        chosen = self._of(kind, sizes)
        return float(np.mean([f.score >= threshold for f in chosen])) if chosen else float("nan")

    def landmark_error(self, kind: str, threshold: float) -> float:
        """Mean over found faces of 24 px and more of the landmarks' error over the eye distance."""
        errors = [f.error for f in self._of(kind, (24, 1e9)) if f.score >= threshold]
        return float(np.mean(errors)) if errors else float("nan")

    def pooled_landmark_error(self, kind: str, threshold: float) -> float:
        """The same faces' mean error over their mean eye distance, both in pixels: in a profile the
        eyes are a few pixels apart, and one such face outweighs fifty in a mean of ratios."""
        found = [f for f in self._of(kind, (24, 1e9)) if f.score >= threshold]
        eyes = sum(f.eyes for f in found)
        return sum(f.error * f.eyes for f in found) / eyes if eyes else float("nan")

    def table(self, threshold: float) -> list[dict[str, object]]:
        """One row a kind of picture and class of size: n, recall, landmark error."""
        rows: list[dict[str, object]] = []
        for kind in sorted({face.kind for face in self.faces}):
            for low, high in pairwise(SIZES):
                chosen = self._of(kind, (low, high))
                hits = [f for f in chosen if f.score >= threshold]
                if chosen:
                    errors = [f.error for f in hits]
                    rows.append(
                        {
                            "kind": kind,
                            "size": f"{low}-{high}" if high < SIZES[-1] else f"{low}+",
                            "n": len(chosen),
                            "recall": len(hits) / len(chosen),
                            "landmark_error": float(np.mean(errors)) if errors else float("nan"),
                        }
                    )
        return rows

    def _of(self, kind: str, sizes: tuple[float, float]) -> list[FoundFace]:
        return [f for f in self.faces if f.kind == kind and sizes[0] <= f.size < sizes[1]]


def read_table(path: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of `photos.csv` by file. Raises InputError where it is missing."""
    if not path.is_file():
        raise InputError(f"{path}: no such table of faces")
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["file"]].append(row)
    return dict(rows)


def score_detector(
    detect: Callable[[Picture], list[Face]], folder: Path, read: Callable[[Path], Picture]
) -> DetectionScores:
    """Run `detect` over every picture of `folder`/photos.csv. Raises InputError without a table."""
    rows = read_table(folder / "photos.csv")
    faces: list[FoundFace] = []
    false_scores: list[float] = []
    empty = 0
    for name, labelled in rows.items():
        found = detect(read(folder / name))
        labelled = [row for row in labelled if row["w"]]
        if not labelled:
            empty += 1
            false_scores += [face.score for face in found]
        faces += _match(name.split("/")[0], labelled, found)
    return DetectionScores(tuple(faces), tuple(false_scores), empty)


def _match(kind: str, rows: Iterable[dict[str, str]], found: list[Face]) -> list[FoundFace]:
    """Pair labelled with found faces one to one, the largest overlap first."""
    truth = [row for row in rows if row["ignore"] == "0"]
    if not truth:
        return []
    boxes = np.array([[float(row[k]) for k in "xywh"] for row in truth])
    boxes[:, 2:] += boxes[:, :2]
    overlap = np.zeros((len(truth), len(found)))
    if found:
        overlap[:] = iou(boxes, np.stack([face.box for face in found]))
    pair: dict[int, int] = {}
    while overlap.size and overlap.max() >= IOU:
        i, j = divmod(int(overlap.argmax()), len(found))
        pair[i] = j
        overlap[i, :] = overlap[:, j] = 0
    matched = []
    for i, row in enumerate(truth):
        size = float(np.sqrt(float(row["w"]) * float(row["h"])))
        if i not in pair:
            matched.append(FoundFace(kind, size, 0.0, float("nan")))
            continue
        face = found[pair[i]]
        points = np.array([[float(row[f"x{k}"]), float(row[f"y{k}"])] for k in range(5)])
        eyes = max(float(np.linalg.norm(points[1] - points[0])), 1e-6)
        error = float(np.linalg.norm(face.landmarks - points, axis=1).mean()) / eyes
        matched.append(FoundFace(kind, size, face.score, error, eyes))
    return matched
