"""The scoring protocols: how picture number i of a folder is damaged, and what is compared.

Files are sorted by name; picture i gets `numpy.random.default_rng(i)`. See PROTOCOLS for the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fhrt.damage.degrade import BLIND_256, BLIND_512, blind
from fhrt.errors import InputError, UsageError
from fhrt.faces import Picture
from fhrt.pictures import read_photo
from fhrt.quality.metrics import Mean, psnr, ssim

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Case:
    """One scored picture, all uint8 RGB: the truth (H, W, 3), what the network is given, and the
    baseline (H, W, 3) that its output is compared with."""

    truth: Picture
    given: Picture
    baseline: Picture


def blind_case(size: int) -> Callable[[Picture, np.random.Generator], Case]:
    ranges = {256: BLIND_256, 512: BLIND_512}[size]

    def make(picture: Picture, rng: np.random.Generator) -> Case:
        damaged = blind(picture, rng, ranges)
        return Case(picture, damaged, damaged)

    return make


def shrink_case(small: int, large: int) -> Callable[[Picture, np.random.Generator], Case]:
    """Pillow bicubic to `large` where the picture is another size, then to `small`; the baseline is
    Pillow bicubic back."""

    def make(picture: Picture, rng: np.random.Generator) -> Case:
        truth = bicubic(picture, large)
        given = bicubic(truth, small)
        return Case(truth, given, bicubic(given, large))

    return make


def clean_case(picture: Picture, rng: np.random.Generator) -> Case:
    return Case(picture, picture, picture)


PROTOCOLS: dict[str, Callable[[Picture, np.random.Generator], Case]] = {
    "blind-256": blind_case(256),  # damage.degrade.BLIND_256
    "blind-512": blind_case(512),  # blur twice as wide, shrink up to 12
    "clean": clean_case,  # nothing done: a good face must come back as it was
    "sr4-256": shrink_case(64, 256),
    "sr4-128": shrink_case(32, 128),
    "sr8-128": shrink_case(16, 128),
}


def bicubic(picture: Picture, side: int) -> Picture:
    if picture.shape[:2] == (side, side):
        return picture
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def cases(folder: Path, protocol: str) -> Iterator[tuple[Path, Case]]:
    """Every picture of a folder, damaged. Raises UsageError for an unknown protocol, InputError
    for a folder without pictures or a picture of the wrong size."""
    if protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol {protocol!r}; there are: {', '.join(PROTOCOLS)}")
    suffixes = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in suffixes)
    if not files:
        raise InputError(f"{folder}: no pictures to score on")
    for i, path in enumerate(files):
        picture = read_photo(path).picture
        wanted = int(protocol.split("-")[1]) if protocol.startswith("blind") else None
        if wanted and picture.shape[:2] != (wanted, wanted):
            height, width = picture.shape[:2]
            raise InputError(f"{path}: {width}×{height}, and {protocol} needs {wanted}×{wanted}")
        yield path, PROTOCOLS[protocol](picture, np.random.default_rng(i))


def score(
    network: Network,
    model: str,
    folder: Path,
    protocol: str,
    see: Callable[[Path, Case, Picture], None] | None = None,
) -> dict[str, Any]:
    """Run a network over a protocol: {model, protocol, n, input, output}, where input and output
    hold psnr and ssim as {mean, se} over the pictures. `see` is shown every picture.

    Equal pictures, whose PSNR is infinite, count as 100 dB. Raises as `cases`, and InputError where
    the network's output has another size than the truth.
    """
    figures: dict[str, dict[str, list[float]]] = {
        side: {"psnr": [], "ssim": []} for side in ("input", "output")
    }
    for path, case in cases(folder, protocol):
        batch = case.given.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
        values = network(batch)[0].transpose(1, 2, 0)
        output = np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
        if output.shape != case.truth.shape:
            raise InputError(f"{model} gives {output.shape[1]}×{output.shape[0]} on {protocol}")
        for side, picture in (("input", case.baseline), ("output", output)):
            figures[side]["psnr"].append(min(100.0, psnr(picture, case.truth)))
            figures[side]["ssim"].append(ssim(picture, case.truth))
        if see is not None:
            see(path, case, output)
    return {
        "model": model,
        "protocol": protocol,
        "n": len(figures["input"]["psnr"]),
        **{
            side: {name: asdict(Mean.of(values)) for name, values in of.items()}
            for side, of in figures.items()
        },
    }
