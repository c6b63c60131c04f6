"""All bundled systems at a glance: each on its own protocol, and the same people through all.

A system is a recipe that names a protocol. The pictures are those of `folder`/256 (or /512, where
the protocol needs that), or of the folder itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fhrt.faces import Picture
from fhrt.models import Recipe, recipes
from fhrt.pictures import read_photo
from fhrt.quality.measures import measures_for
from fhrt.quality.protocols import PROTOCOLS, Case, case_of, files_of, protocol_of
from fhrt.quality.scoring import Network, rate

PEOPLE = 12
THUMB, GAP, LABEL = 128, 4, 200  # pixels
NIQE_SIDE = 192  # two of its blocks


@dataclass
class System:
    """A recipe, its summary (see `scoring.Rating`), and pairs of given and output by file name."""

    recipe: Recipe
    summary: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, tuple[Picture, Picture]] = field(default_factory=dict)


def systems() -> list[Recipe]:
    """The recipes that name a protocol of PROTOCOLS; detection is scored on other pictures."""
    return [recipe for recipe in recipes().values() if recipe.protocol in PROTOCOLS]


def folder_for(data: Path, protocol: str) -> Path:
    """The folder of `data` whose pictures suit a protocol."""
    inside = data / str(protocol_of(protocol).side or 256)
    return inside if inside.is_dir() else data


def people(data: Path) -> list[str]:
    """The names of the files that the sheet shows, spread evenly over all. Raises InputError."""
    files = files_of(folder_for(data, "clean"))
    places = np.linspace(0, len(files) - 1, min(PEOPLE, len(files))).round().astype(int)
    return [files[i].name for i in places]


def score_systems(
    data: Path,
    open_network: Callable[[Recipe], Network],
    embedder: Path | None = None,
    niqe: Path | None = None,
) -> list[System]:
    """Score every system, one after the other. NIQE is left out where its blocks do not fit."""
    shown, scored = people(data), []
    for recipe in systems():
        folder = folder_for(data, recipe.protocol)
        truth = case_of(files_of(folder)[0], 0, recipe.protocol).truth
        fits = min(truth.shape[:2]) >= NIQE_SIDE
        measures = measures_for(folder, embedder, niqe if fits else None)
        system = System(recipe)

        def keep(path: Path, case: Case, outputs: dict[str, Picture], to: System = system) -> None:
            if path.name in shown:
                to.pairs[path.name] = (thumbnail(case.given), thumbnail(outputs[to.recipe.name]))

        network = open_network(recipe)
        ratings = rate({recipe.name: network}, folder, recipe.protocol, measures, keep)
        system.summary = ratings[0].summary()
        scored.append(system)
    return scored


def cells(scored: Sequence[System]) -> list[list[str]]:
    """One row a system, as words, the heading first; mean ± standard error where there is room."""
    sides = ["input PSNR", "input SSIM", "output PSNR", "output SSIM", "gain dB"]
    more = ["occluded part dB", "rest kept dB", "identity", "NIQE", "steps", "trained on"]
    words = [["system", "protocol", "n", *sides, *more]]
    for system in scored:
        found, recipe = system.summary, system.recipe
        row = [recipe.name, recipe.protocol, str(found["n"])]
        for side in ("input", "output"):
            for metric, decimals in (("psnr", 2), ("ssim", 3)):
                figure = found[side][metric]
                row.append(f"{figure['mean']:.{decimals}f} ± {figure['se']:.{decimals}f}")
        gain = found["gain"]["psnr"]
        row.append(f"{gain['mean']:+.2f} ± {gain['se']:.2f}")
        for metric, decimals in (("psnr_masked", 2), ("", 2), ("identity", 3), ("niqe", 2)):
            pair = [found[side].get(metric) for side in ("input", "output")]
            if not metric and "composite" in found:
                pair = [found["composite"]["psnr"]]
            row.append(" → ".join(f"{f['mean']:.{decimals}f}" for f in pair if f))
        words.append([*row, str(recipe.steps or ""), recipe.trained_on])
    return words


def contact_sheet(scored: Sequence[System], data: Path) -> Picture:
    """Per system a row of what it was given and one of its outputs, last the truth: the same people
    in the same columns, grey where a system's folder lacks one. uint8 RGB."""
    shown = people(data)
    empty = np.full((THUMB, THUMB, 3), 128, np.uint8)
    rows = []
    for system in scored:
        found = [system.pairs.get(name, (empty, empty)) for name in shown]
        name = f"{system.recipe.name}\n{system.recipe.protocol}".upper()
        rows.append(_row(f"{name}\nGIVEN", [given for given, _ in found]))
        rows.append(_row(f"{name}\nOUTPUT", [output for _, output in found]))
    folder = folder_for(data, "clean")
    rows.append(_row("TRUTH", [thumbnail(read_photo(folder / name).picture) for name in shown]))
    return np.vstack(rows)


def thumbnail(picture: Picture) -> Picture:
    """128×128: averaged down, or, what a network is given, enlarged with its pixels visible."""
    how = cv2.INTER_AREA if picture.shape[0] > THUMB else cv2.INTER_NEAREST
    small: Picture = cv2.resize(picture, (THUMB, THUMB), interpolation=how)
    return small


def _row(label: str, pictures: Sequence[Picture]) -> Picture:
    """Pictures side by side, white gaps around them, a label before them."""
    row = Image.new("RGB", (LABEL + len(pictures) * (THUMB + GAP), THUMB + GAP), "white")
    font = ImageFont.load_default(16)
    ImageDraw.Draw(row).multiline_text((8, THUMB // 2), label, "black", font, "lm", 6)
    for i, picture in enumerate(pictures):
        row.paste(Image.fromarray(picture), (LABEL + i * (THUMB + GAP), GAP // 2))
    return np.asarray(row)
