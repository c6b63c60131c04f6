"""`fhrt data preview`: good faces beside what the networks would be given of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fhrt.errors import InputError, UsageError, known_names
from fhrt.faces import Picture
from fhrt.quality.protocols import bicubic
from fhrt.training.config import names, read_config
from fhrt.training.data import load_faces
from fhrt.training.layouts import Source
from fhrt.training.pairs import DAMAGES, PLAIN

CELL = 256  # pixels a picture on the sheet
HEAD = 24  # pixels of the line above the columns


@dataclass(frozen=True)
class Column:
    """A damage as a configuration uses it. size: side of the face. damage: face uint8
    (size, size, 3), generator -> what the network is given, and the truth."""

    name: str
    size: int
    damage: Callable[[Picture, np.random.Generator], tuple[Picture, Picture]]


def columns(damage: str | None = None, config: str | None = None) -> list[Column]:
    """The damages without options and those of the bundled configurations; those of one name, or of
    one configuration, where it is given. Raises UsageError for unknown names."""
    if damage is not None and damage not in DAMAGES:
        raise UsageError(f"unknown damage {damage!r}{known_names(damage, DAMAGES)}")
    made = []
    if config is None:
        plain = [name for name in PLAIN if damage in (None, name)]
        made += [Column(name, 256, PLAIN[name]({})) for name in plain]
    seen: set[tuple[object, ...]] = set()  # several configurations damage in the same way
    for name in [config] if config else names():
        options = read_config(name).options
        if config is None and options.get("size", 0) > 256:
            continue  # smaller faces would be dropped
        kind = options.get("damage")
        alike = (kind, options.get("size"), options.get("small"))
        if kind in DAMAGES and damage in (None, kind) and alike not in seen:
            seen.add(alike)
            made.append(Column(f"{kind}, {name}", int(options["size"]), DAMAGES[kind](options)))
    if not made:
        user = f"configuration {config!r}" if config else "bundled configuration"
        raise UsageError(f"no {user} uses {damage or 'a damage of pairs'}")
    return made


def sheet(sources: Sequence[Source], shown: Sequence[Column], count: int, seed: int) -> Picture:
    """uint8 (H, W, 3): a row for each of `count` faces, chosen by the seed: the face, then what
    each damage gives of it. Small inputs are shown with their pixels as squares. Raises InputError
    where no face can be read."""
    order = np.random.default_rng(seed).permutation(len(sources))
    faces: list[Picture] = []
    largest = max(column.size for column in shown)
    why = "no pictures to show"
    for at in order:
        if len(faces) == count:
            break
        try:
            faces += load_faces([sources[at]], largest)[0]
        except InputError as error:
            why = str(error)  # the next one may be good
    if not faces:
        raise InputError(why)
    rows = [_heads(["good face", *(column.name for column in shown)])]
    for number, face in enumerate(faces):
        cells = [face]
        for column in shown:
            rng = np.random.default_rng([seed, number])
            cells.append(column.damage(bicubic(face, column.size), rng)[0])
        rows.append(np.hstack([_cell(cell) for cell in cells]))
    return np.vstack(rows)


def _cell(picture: Picture) -> Picture:
    how = cv2.INTER_NEAREST if picture.shape[0] < CELL else cv2.INTER_AREA
    cell: Picture = cv2.resize(picture[..., :3], (CELL, CELL), interpolation=how)
    return cell


def _heads(names: Sequence[str]) -> Picture:
    line = Image.new("RGB", (CELL * len(names), HEAD), "white")
    draw, font = ImageDraw.Draw(line), ImageFont.load_default(14)
    for at, name in enumerate(names):
        draw.text((at * CELL + 6, HEAD // 2), name, "black", font, anchor="lm")
    return np.asarray(line)
