"""Faces to train on: what is there, in which layout, and reading it.

`find_faces` lists a folder, a zip or a CSV manifest without decoding anything; `load_faces` decodes
with threads and says which pictures could not be used. What names and lists mean: `layouts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from fhrt.errors import InputError, UsageError, known_names
from fhrt.faces import Picture
from fhrt.quality.protocols import bicubic
from fhrt.training.files import SUFFIXES, open_files
from fhrt.training.layouts import LAYOUTS, Source, read_manifest

NOT_ENLARGED = 250 / 256  # the least pixels, as a share of the wanted ones, that count as enough


class Dropped(NamedTuple):
    """A picture that is not used, and why; up to a colon the reason, then what was seen."""

    name: str
    why: str


def find_faces(
    data: Path, split: str | None = "train", size: int | None = None, layout: str = "auto"
) -> list[Source]:
    """The pictures of a folder (searched below, too), a zip or a CSV manifest, sorted by name.

    split: train, val or test; pictures of data that know no splits are all for training; None for
    everything. size: where the data are stored in several sizes, that one. layout: a name of
    LAYOUTS, or auto. Raises UsageError for an unknown layout, InputError where nothing is found.
    """
    if layout not in LAYOUTS and layout != "auto":
        raise UsageError(f"unknown layout {layout!r}{known_names(layout, ['auto', *LAYOUTS])}")
    if data.suffix.lower() == ".csv":
        found = read_manifest(data)
    else:
        files = open_files(data)
        if not files.pictures():
            raise InputError(f"{data}: no pictures in it ({', '.join(sorted(SUFFIXES))})")
        tried = LAYOUTS.values() if layout == "auto" else [LAYOUTS[layout]]
        try:
            found = next((found for of in tried if (found := of(files, size))), [])
        except InputError as error:
            raise InputError(f"{data}: {error}") from error
        if not found:
            raise InputError(f"{data}: no pictures in the layout {layout}")
    chosen = [
        source
        for source in found
        if split in (None, source.split) and (size is None or source.size in (None, size))
    ]
    if not chosen:
        wanted = f"split {split!r}" + (f" of {size} pixels" if size else "")
        there = ", ".join(sorted({source.split for source in found}))
        raise InputError(f"{data}: no pictures of {wanted}; its splits: {there}")
    return sorted(chosen, key=lambda source: source.name)


def load_faces(
    sources: Sequence[Source], size: int | None = None
) -> tuple[list[Picture], list[Dropped]]:
    """Decode with threads: pictures uint8 (H, W, 3) RGB in the order of `sources`, and what could
    not be used.

    size: the middle square by Pillow bicubic to this side; a picture that would have to be enlarged
    is dropped. Raises InputError where none is left.
    """

    def load(source: Source) -> Picture | Dropped:
        try:
            picture = source.read()
            return picture if size is None else _square(picture, size)
        except InputError as error:
            return Dropped(source.name, str(error).removeprefix(f"{source.name}: "))

    with ThreadPoolExecutor() as pool:
        loaded = list(pool.map(load, sources))
    dropped = [item for item in loaded if isinstance(item, Dropped)]
    if dropped and len(dropped) == len(loaded):
        raise InputError(f"nothing to train on: {summary(dropped)}")
    return [item for item in loaded if not isinstance(item, Dropped)], dropped


def summary(dropped: Sequence[Dropped], shown: int = 3) -> str:
    """One line: `3 pictures could not be used: a.jpg (why), …`.

    >>> summary([Dropped("a.jpg", "the file is empty")])
    '1 picture could not be used: a.jpg (the file is empty)'
    """
    few = ", ".join(f"{name} ({why})" for name, why in dropped[:shown])
    more = ", …" if len(dropped) > shown else ""
    return f"{len(dropped)} picture{'s' * (len(dropped) != 1)} could not be used: {few}{more}"


def read_picture(path: Path) -> Picture:
    """uint8 (H, W, 3) RGB. Raises InputError where OpenCV cannot decode the file."""
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if values is None:
        raise InputError(f"{path}: not a picture that can be read")
    picture: Picture = cv2.cvtColor(values, cv2.COLOR_BGR2RGB)
    return picture


def _square(picture: Picture, size: int) -> Picture:
    height, width = picture.shape[:2]
    side = min(height, width)
    if side < size * NOT_ENLARGED:
        raise InputError(f"too small: {width}×{height} pixels, and {size} are needed")
    top, left = (height - side) // 2, (width - side) // 2
    return bicubic(np.ascontiguousarray(picture[top : top + side, left : left + side]), size)
