"""The faces of every picture of a film, found in every k-th and carried from one to the next.

Between two detections a face moves in a straight line: its box and its landmarks are interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from fhrt.faces import Face, Picture, iou

Found: TypeAlias = tuple[Picture, list[Face]]

SAME = 0.3  # IoU from which two boxes are one face, that of SORT (Bewley et al. 2016)


def follow(
    pictures: Iterable[Picture], detect: Callable[[Picture], list[Face]], every: int = 1
) -> Iterator[Found]:
    """Each picture with its faces. `detect` looks at the first of every `every` pictures and at the
    last of all; the others, `every` − 1 of which are held back, have what `carried` makes of it."""
    before: list[Face] = []
    between: list[Picture] = []
    for number, picture in enumerate(pictures):
        if number % every:
            between.append(picture)
            continue
        faces = detect(picture)
        yield from zip(between, carried(before, faces, len(between)), strict=True)
        yield picture, faces
        before, between = faces, []
    if between:
        *between, last = between
        faces = detect(last)
        yield from zip(between, carried(before, faces, len(between)), strict=True)
        yield last, faces


def carried(before: list[Face], after: list[Face], count: int) -> list[list[Face]]:
    """The faces of `count` pictures that lie evenly between two. A face of both moves in a straight
    line; one of `before` alone stays where it is up to the middle, and one of `after` alone is
    there from then on."""
    pairs = match(before, after)
    gone = [face for i, face in enumerate(before) if i not in {i for i, _ in pairs}]
    new = [face for j, face in enumerate(after) if j not in {j for _, j in pairs}]
    pictures = []
    for number in range(1, count + 1):
        share = number / (count + 1)
        moving = [_between(before[i], after[j], share) for i, j in pairs]
        pictures.append(moving + (gone if share <= 0.5 else new))
    return pictures


def match(before: list[Face], after: list[Face]) -> list[tuple[int, int]]:
    """Which face of `before` is which of `after`: pairs of their numbers, the largest overlaps
    first come, in the order of `before`. Each face is in one pair at most."""
    if not before or not after:
        return []
    overlaps = iou(np.stack([f.box for f in before]), np.stack([f.box for f in after]))
    pairs = []
    for _ in range(min(overlaps.shape)):
        i, j = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        if overlaps[i, j] < SAME:
            break
        pairs.append((int(i), int(j)))
        overlaps[i], overlaps[:, j] = -1, -1
    return sorted(pairs)


def _between(first: Face, second: Face, share: float) -> Face:
    """The face at `share` of the way, 0 to 1, from one to the other."""
    rest = 1 - share
    return Face(
        (rest * first.box + share * second.box).astype(np.float32),
        (rest * first.landmarks + share * second.landmarks).astype(np.float32),
        rest * first.score + share * second.score,
    )
