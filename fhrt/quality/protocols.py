"""The scoring protocols: how picture number i of a folder is damaged, and what is compared.

Files are sorted by name; picture i gets `numpy.random.default_rng(i)`. See PROTOCOLS for the names.
A graded protocol has a strength, `blind-256@0.5`: the same random numbers, half the damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fhrt.damage import occlude
from fhrt.damage.degrade import BLIND_256, BLIND_512, Blind, blind, thermal
from fhrt.errors import InputError, UsageError
from fhrt.faces import Picture
from fhrt.pictures import read_photo

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Case:
    """One scored picture, all uint8 RGB: the truth (H, W, 3), what the network is given, and the
    baseline (H, W, 3) that its output is compared with. mask: bool (H, W), True where the truth is
    occluded, or None."""

    truth: Picture
    given: Picture
    baseline: Picture
    mask: NDArray[np.bool_] | None = None


Damage = Callable[[Picture, np.random.Generator], Case]


@dataclass(frozen=True)
class Protocol:
    """damage: makes the case. side: what a picture must measure, None for any size. graded: the
    damage at another strength than 1, None where strength has no meaning."""

    damage: Damage
    side: int | None = None
    graded: Callable[[float], Damage] | None = None


def blind_case(size: int, strength: float = 1.0) -> Damage:
    """`damage.degrade.blind` with the distance of every range from no damage times `strength`."""
    ranges = {256: BLIND_256, 512: BLIND_512}[size]

    def scaled(ends: tuple[float, float], harmless: float) -> tuple[float, float]:
        low, high = (harmless + strength * (end - harmless) for end in ends)
        return low, high

    ranges = Blind(
        blur=scaled(ranges.blur, 0),
        shrink=scaled(ranges.shrink, 1),
        noise=scaled(ranges.noise, 0),
        quality=scaled(ranges.quality, 100),
    )

    def make(picture: Picture, rng: np.random.Generator) -> Case:
        damaged = blind(picture, rng, ranges)
        return Case(picture, damaged, damaged)

    return make


def shrink_case(small: int, large: int) -> Damage:
    """Pillow bicubic to `large` where the picture is another size, then to `small`; the baseline is
    Pillow bicubic back."""

    def make(picture: Picture, rng: np.random.Generator) -> Case:
        truth = bicubic(picture, large)
        given = bicubic(truth, small)
        return Case(truth, given, bicubic(given, large))

    return make


def thermal_case(picture: Picture, rng: np.random.Generator) -> Case:
    damaged = thermal(picture, rng)
    return Case(picture, damaged, damaged)


def occlusion_case(picture: Picture, rng: np.random.Generator) -> Case:
    occluded, mask = occlude.occlusion_case(picture, rng)
    return Case(picture, occluded, occluded, mask)


def clean_case(picture: Picture, rng: np.random.Generator) -> Case:
    return Case(picture, picture, picture)


PROTOCOLS: dict[str, Protocol] = {
    # damage.degrade.BLIND_256
    "blind-256": Protocol(blind_case(256), 256, partial(blind_case, 256)),
    # blur twice as wide, shrink up to 12
    "blind-512": Protocol(blind_case(512), 512, partial(blind_case, 512)),
    # nothing done: a good face must come back as it was
    "clean": Protocol(clean_case),
    "sr4-256": Protocol(shrink_case(64, 256)),
    "sr4-128": Protocol(shrink_case(32, 128)),
    "sr8-128": Protocol(shrink_case(16, 128)),
    # a simulated thermal camera: weak red and green, a quarter of the size, noise
    "thermal-256": Protocol(thermal_case, 256),
    # something before the face; figures also of the occluded part alone
    "occlusion-256": Protocol(occlusion_case, 256),
}


def bicubic(picture: Picture, side: int) -> Picture:
    if picture.shape[:2] == (side, side):
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def protocol_of(name: str) -> Protocol:
    """The protocol of a name, or of NAME@STRENGTH. Raises UsageError."""
    stem, at, word = name.partition("@")
    if stem not in PROTOCOLS:
        raise UsageError(f"unknown protocol {stem!r}; there are: {', '.join(PROTOCOLS)}")
    found = PROTOCOLS[stem]
    if not at:
        return found
    if found.graded is None:
        graded = ", ".join(key for key, value in PROTOCOLS.items() if value.graded)
        raise UsageError(f"{name}: {stem} has no strength; these have: {graded}")
    try:
        strength = float(word)
    except ValueError:
        strength = 0.0
    if not 0 < strength <= 2:  # beyond 2 the JPEG quality would fall below 1
        raise UsageError(f"{name}: the strength is a number above 0 and at most 2")
    return Protocol(found.graded(strength), found.side)


def files_of(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted by name. Raises InputError where there is none."""
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{folder}: no pictures to score on")
    return files


def case_of(path: Path, index: int, protocol: str) -> Case:
    """Picture number `index` of its folder, damaged. Raises UsageError for an unknown protocol,
    InputError for a picture that cannot be read or has the wrong size."""
    rules = protocol_of(protocol)
    picture = read_photo(path).picture
    height, width = picture.shape[:2]
    if rules.side and (height, width) != (rules.side, rules.side):
        raise InputError(
            f"{path}: {width}×{height}, and {protocol} needs {rules.side}×{rules.side}"
        )
    return rules.damage(picture, np.random.default_rng(index))


def cases(folder: Path, protocol: str) -> Iterator[tuple[Path, Case]]:
    """Every picture of a folder, damaged. Raises UsageError for an unknown protocol, InputError
    for a folder without pictures or a picture of the wrong size."""
    protocol_of(protocol)  # a wrong name is said before a wrong folder
    for index, path in enumerate(files_of(folder)):
        yield path, case_of(path, index, protocol)
