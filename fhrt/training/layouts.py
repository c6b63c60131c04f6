"""Layouts: what the names and lists of a dataset mean, who is shown and what is for training."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import InputError
from fhrt.faces import Picture
from fhrt.pictures import read_photo
from fhrt.training.files import Files, read_file

LANDMARKS = [f"{axis}{i}" for i in range(5) for axis in "xy"]  # columns of a table


@dataclass(frozen=True, eq=False)
class Source:
    """A picture that can be read later.

    name: as the data calls it, with slashes. split: train, or what the data says. identity: the
    data's name of the person, or None. landmarks: (5, 2) in pixels of the picture, or None. size:
    the side in pixels that the data says it has, or None.
    """

    name: str
    load: Callable[[], bytes] = field(repr=False)
    split: str = "train"
    identity: str | None = None
    landmarks: NDArray[np.float64] | None = None
    size: int | None = None

    def read(self) -> Picture:
        """uint8 (H, W, 3) RGB, upright. Raises InputError for what cannot be read."""
        return read_photo(self.load(), self.name).picture


def _source(files: Files, name: str, **known: Any) -> Source:
    return Source(name, partial(files.read, name), **known)


def _faces(files: Files, size: int | None) -> list[Source]:
    """What `fhrt data prepare` writes: [faces/]SPLIT/SIZE/* with people and landmarks in
    [faces/]faces.csv."""
    place = re.compile(r"((?:faces/)?)(train|val|test)/(\d+)/[^/]+")
    found = []
    rows: dict[str, dict[str, str]] = {}
    for table in {"faces.csv", "faces/faces.csv"}.intersection(files.names):
        folder = table.removesuffix("faces.csv")
        rows |= {folder + (row.get("file") or ""): row for row in _table(files.read(table), table)}
    for name in files.pictures():
        if match := place.fullmatch(name):
            row = rows.get(name, {})
            known = {"identity": row.get("identity") or None, "landmarks": _landmarks(row, name)}
            found.append(_source(files, name, split=match[2], size=int(match[3]), **known))
    return found


def _ffhq(files: Files, size: int | None) -> list[Source]:
    """Flickr-Faces-HQ: images1024x1024/00000/00000.png, or thumbnails128x128/… for sizes up to 128.
    Its authors appointed the first 60,000 for training, the others for validation."""
    place = re.compile(r"(?:.*/)?(images1024x1024|thumbnails128x128)/(?:\d{5}/)?(\d{5})\.\w+")
    kinds: dict[str, list[Source]] = {}
    for name in files.pictures():
        if match := place.fullmatch(name):
            split = "train" if int(match[2]) < 60_000 else "val"
            kinds.setdefault(match[1], []).append(_source(files, name, split=split))
    order = ["images1024x1024", "thumbnails128x128"]
    if size is not None and size <= 128:
        order.reverse()
    return next((kinds[kind] for kind in order if kind in kinds), [])


def _celeba(files: Files, size: int | None) -> list[Source]:
    """CelebA: img_align_celeba/*.jpg, list_eval_partition.txt, identity_CelebA.txt. Raises
    InputError without the partition: without it the test pictures would be trained on."""
    place = re.compile(r"(?:.*/)?img_align_celeba/(\d{6}\.\w+)")
    pictures = [(name, match[1]) for name in files.pictures() if (match := place.fullmatch(name))]
    if not pictures:
        return []
    parts = _list(files, "list_eval_partition")
    people = _list(files, "identity_CelebA")
    if not parts:
        raise InputError(
            "CelebA without list_eval_partition.txt; --layout folder takes every picture"
        )
    splits = {"0": "train", "1": "val", "2": "test"}
    # A picture that the partition does not know is nobody's to train on.
    return [
        _source(
            files, name, split=splits.get(parts.get(short, ""), "none"), identity=people.get(short)
        )
        for name, short in pictures
    ]


def _lfw(files: Files, size: int | None) -> list[Source]:
    """Labeled Faces in the Wild: Person_Name/Person_Name_0001.jpg; other pictures are nobody's."""
    place = re.compile(r"(?:.*/)?([^/]+)/\1_\d{4}\.\w+")
    names = files.pictures()
    people = {name: match[1] for name in names if (match := place.fullmatch(name))}
    return [_source(files, name, identity=people.get(name)) for name in names] if people else []


def _folder(files: Files, size: int | None) -> list[Source]:
    return [_source(files, name) for name in files.pictures()]


# Tried in this order where none is named: the first that finds its own names.
LAYOUTS: dict[str, Callable[[Files, int | None], list[Source]]] = {
    "faces": _faces,
    "ffhq": _ffhq,
    "celeba": _celeba,
    "lfw": _lfw,
    "folder": _folder,
}


def read_manifest(path: Path) -> list[Source]:
    """A CSV with a column `file`, relative to it; split, identity, size, x0 … y4 where known."""
    try:
        rows = _table(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    found = []
    for number, row in enumerate(rows, 2):
        name, size = row.get("file") or "", row.get("size") or ""
        if not name or (size and not size.isdecimal()):
            what = f"size {size!r} is no whole number" if name else "no value in the column `file`"
            raise InputError(f"{path}: line {number}: {what}")
        found.append(
            Source(
                name,
                partial(read_file, path.parent, name),
                row.get("split") or "train",
                row.get("identity") or None,
                _landmarks(row, f"{path}: line {number}"),
                int(size) if size else None,
            )
        )
    if not found:
        raise InputError(f"{path}: a table without rows")
    return found


def _table(content: bytes, name: str) -> list[dict[str, str]]:
    try:
        return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{name}: not a CSV table in UTF-8") from error


def _landmarks(row: dict[str, str], where: str) -> NDArray[np.float64] | None:
    values = [row.get(column) or "" for column in LANDMARKS]
    if not all(values):
        return None
    try:
        points = np.array(values, np.float64).reshape(5, 2)
    except ValueError as error:
        raise InputError(f"{where}: landmarks that are no numbers") from error
    if not np.isfinite(points).all():
        raise InputError(f"{where}: landmarks that are no numbers")
    return points


def _list(files: Files, stem: str) -> dict[str, str]:
    """A list of CelebA, two words a line, by the first; empty where it is not there."""
    named = [n for n in files.names if n.rpartition("/")[2] in (f"{stem}.txt", f"{stem}.csv")]
    if not named:
        return {}
    words: Iterable[list[str]] = (
        line.replace(",", " ").split()
        for line in files.read(named[0]).decode("utf-8", "replace").splitlines()
    )
    return {pair[0]: pair[1] for pair in words if len(pair) == 2}
