"""What is measured of each scored picture: PSNR, SSIM, and on demand NIQE and identity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from fhrt.faces import Picture
from fhrt.quality.metrics import psnr, ssim
from fhrt.quality.protocols import Case

MOST = 100.0  # dB; equal pictures, whose PSNR is infinite, count as this


@dataclass(frozen=True)
class Measure:
    """A figure of a picture of a case, which the file names. of_truth: it compares with nothing, so
    that the truth has a figure too."""

    name: str
    of: Callable[[Path, Picture, Case], float]
    of_truth: bool = False


def _psnr_masked(path: Path, picture: Picture, case: Case) -> float:
    if case.mask is None or not case.mask.any():
        return MOST
    return min(MOST, psnr(picture[case.mask], case.truth[case.mask]))


PSNR = Measure("psnr", lambda path, picture, case: min(MOST, psnr(picture, case.truth)))
SSIM = Measure("ssim", lambda path, picture, case: ssim(picture, case.truth))
MASKED = Measure("psnr_masked", _psnr_masked)  # inside the mask, for cases that have one


def measures_for(
    folder: Path, embedder: Path | None = None, niqe: Path | None = None
) -> list[Measure]:
    """PSNR and SSIM, and what the files of a user allow beside them."""
    found = [PSNR, SSIM]
    if embedder is not None:
        found.append(identity_measure(embedder, folder))
    if niqe is not None:
        found.append(niqe_measure(niqe))
    return found


def niqe_measure(parameters: Path) -> Measure:
    """NIQE against the natural pictures whose parameters the file holds; needs no truth."""
    from fhrt.quality.niqe import niqe

    return Measure("niqe", lambda path, picture, case: niqe(picture, parameters), of_truth=True)


def identity_measure(model: Path, folder: Path) -> Measure:
    """Cosine of the embeddings of a picture and of its truth, 1 for the same, both cut out by the
    landmarks of the folder's pictures. Raises ModelError or UsageError for a wrong model file."""
    from fhrt.quality.identity import Embedder, landmarks_of

    embedder = Embedder(model)
    landmarks = cache(partial(landmarks_of, folder))  # by the side of the picture
    truths: dict[Path, np.ndarray] = {}  # of the current file only: several pictures share it

    def embed(path: Path, picture: Picture) -> np.ndarray:
        vector: np.ndarray = embedder.embed([picture], [landmarks(picture.shape[1])[path.name]])[0]
        return vector

    def identity(path: Path, picture: Picture, case: Case) -> float:
        if path not in truths:
            truths.clear()
            truths[path] = embed(path, case.truth)
        return float(embed(path, picture) @ truths[path])

    return Measure("identity", identity)
