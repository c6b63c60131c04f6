"""FID: how far apart two sets of pictures are, as Gaussians of a network's features.

Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium"
(2017). Lower is better. A figure means something only beside others over as many pictures, from
the same network: a few hundred pictures give a FID far above that of thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import InputError, ModelError, UsageError
from fhrt.faces import Picture
from fhrt.runtime.session import need, parse_device

Floats = NDArray[np.float64]
Features = Callable[[Picture], Floats]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """mean (d,) and covariance (d, d), divided by n - 1, of n feature vectors."""

    mean: Floats
    covariance: Floats
    n: int

    @staticmethod
    def of(features: NDArray[np.floating]) -> Gaussian:
        """Of the rows of (n, d). Raises InputError for fewer than two."""
        if features.ndim != 2 or len(features) < 2:
            raise InputError("a covariance needs the features of two pictures and more")
        rows = features.astype(np.float64)
        return Gaussian(rows.mean(0), np.atleast_2d(np.cov(rows, rowvar=False)), len(rows))


def frechet(a: Gaussian, b: Gaussian) -> float:
    """|μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½), Dowson and Landau (1982). Raises UsageError where the
    features have other lengths.

    The trace of (Σ₁Σ₂)^½ is the sum of the singular values of Σ₁^½ Σ₂^½: symmetric roots only, and
    covariances of fewer pictures than features, which are singular, need no offset.
    """
    if a.mean.shape != b.mean.shape:
        raise UsageError(f"features of {a.mean.size} and of {b.mean.size} values: two networks")
    shared = float(np.linalg.norm(_root(a.covariance) @ _root(b.covariance), "nuc"))
    away = float(((a.mean - b.mean) ** 2).sum())
    return away + float(np.trace(a.covariance) + np.trace(b.covariance)) - 2 * shared


def _root(covariance: Floats) -> Floats:
    """The symmetric root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    # What is only rounding is 0: its root would be larger by eight orders of magnitude.
    values[values < max(values[-1], 0) * len(values) * np.finfo(np.float64).eps] = 0
    root: Floats = (vectors * np.sqrt(values)) @ vectors.T
    return root


def fid(real: Iterable[Picture], made: Iterable[Picture], features: Features) -> float:
    """Fréchet distance between two sets of uint8 RGB pictures, by one feature network."""
    return frechet(*(Gaussian.of(np.stack([features(p) for p in of])) for of in (real, made)))


def open_features(path: Path, device: str = "cpu") -> Features:
    """A function picture -> (d,) features, from the user's own file.

    .pth: the Inception of pytorch-fid (pt_inception-2015-12-05-6726825d.pth), 2048 values; needs
    torch. .onnx: any network from float32 (1, 3, H, W) RGB in [0, 1] to (1, d); the picture is
    resized to H and W where the file says them. Raises ModelError for anything else.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; `fhrt models pull inception` fetches it")
    run = _onnx(path, device) if path.suffix == ".onnx" else _torch(path, device)

    def features(picture: Picture) -> Floats:
        batch = picture.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
        return run(np.ascontiguousarray(batch)).reshape(-1).astype(np.float64)

    return features


def _torch(path: Path, device: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    need("torch", "train")
    from fhrt.runtime.torch import TorchFeatures

    network = TorchFeatures("inception", path, device)
    return lambda batch: network(batch)[0]


def _onnx(path: Path, device: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    need("onnxruntime", "cpu")
    from fhrt.runtime.onnx import open_graph

    graph, _ = open_graph(path, *parse_device(device))
    given, made = graph.get_inputs()[0], graph.get_outputs()[0]
    if len(given.shape) != 4 or given.shape[1] != 3 or len(made.shape) < 2:
        raise ModelError(f"{path}: takes {given.shape}, and a feature network (1, 3, H, W)")
    sides = given.shape[3], given.shape[2]

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if all(isinstance(side, int) for side in sides) and batch.shape[:1:-1] != sides:
            resized = cv2.resize(batch[0].transpose(1, 2, 0), sides)
            batch = np.ascontiguousarray(resized.transpose(2, 0, 1)[None])
        found: NDArray[np.float32] = graph.run(None, {given.name: batch})[0]
        return found

    return run
