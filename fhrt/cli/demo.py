"""`fhrt demo`: a real photograph, damaged and restored, with nothing to download."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fhrt.faces import Picture


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture to write.")] = Path(
        "fhrt_demo.png"
    ),
    device: Annotated[str, typer.Option(envvar="FHRT_DEVICE", help="auto, cpu, cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="Another damage for another number.")] = 0,
) -> None:
    """Damage scikit-image's portrait of an astronaut, restore it, and show both beside it.

    Writes damaged | restored | original and prints PSNR and SSIM of the face.
    """
    import cv2
    import numpy as np

    from fhrt.damage.degrade import Blind, blind
    from fhrt.errors import InputError
    from fhrt.faces import choose_side, crop, crop_matrix
    from fhrt.pictures import encode_picture, write_atomically
    from fhrt.quality.metrics import psnr, ssim
    from fhrt.restorer import Restorer

    original = _astronaut()
    strong = Blind(blur=(1.6, 1.8), shrink=(2.4, 2.6), noise=(7, 8), quality=(60, 70))
    damaged = blind(original, np.random.default_rng(seed), strong)
    restorer = Restorer(device=device)
    start = time.perf_counter()
    restored = restorer.restore(damaged)
    seconds = time.perf_counter() - start
    if not restored.faces:
        raise InputError("the demo's face was not found: this installation is broken")
    face = restored.faces[0]
    side = choose_side(face.landmarks, 1, restorer.session.sizes)
    matrix = crop_matrix(face.landmarks, side)
    before, after, truth = (
        crop(picture, matrix, side) for picture in (damaged, restored.picture, original)
    )
    gap = np.full((original.shape[0], 8, 3), 255, np.uint8)
    sheet = np.hstack([damaged, gap, restored.picture, gap, original])
    # the face, large, below the whole pictures
    zoomed = [
        cv2.resize(part, (512, 512), interpolation=cv2.INTER_CUBIC)
        for part in (before, after, truth)
    ]
    gap = np.full((512, 8, 3), 255, np.uint8)
    below = np.hstack([zoomed[0], gap, zoomed[1], gap, zoomed[2]])
    line = np.full((8, sheet.shape[1], 3), 255, np.uint8)
    write_atomically(output, encode_picture(np.vstack([sheet, line, below]), output))
    print(f"face: damaged  PSNR {psnr(before, truth):.2f} dB  SSIM {ssim(before, truth):.3f}")
    print(f"face: restored PSNR {psnr(after, truth):.2f} dB  SSIM {ssim(after, truth):.3f}")
    print(f"{seconds:.2f} s on {restorer.session.device}; written to {output}")


def _astronaut() -> Picture:
    """scikit-image's portrait of Eileen Collins (NASA, public domain), 512×512."""
    from fhrt.runtime.session import need

    need("skimage", "demo")
    from skimage.data import astronaut

    picture: Picture = astronaut()  # type: ignore[no-untyped-call]
    return picture
