"""LPIPS v0.1 with AlexNet: how unlike two pictures look to a network's features.

Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of deep features as a
perceptual metric" (2018). Lower is better, 0 for equal pictures. Both files are the user's own:
torchvision's AlexNet and the authors' five linear layers; see `fhrt models pull`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import InputError, ModelError
from fhrt.faces import Picture
from fhrt.runtime.session import need

Floats = NDArray[np.float64]

CHANNELS = (64, 192, 384, 256, 256)
SMALLEST = 31  # pixels; below, AlexNet's second pooling has nothing left


class Lpips:
    """The distance between two pictures; called with both."""

    def __init__(self, backbone: Path, linear: Path, device: str = "cpu") -> None:
        """backbone: alexnet-owt-7be5be79.pth. linear: alex.pth of lpips/weights/v0.1, or an .npz of
        its arrays. Raises ModelError for wrong files, RuntimeMissing without torch."""
        need("torch", "train")
        from fhrt.runtime.torch import TorchFeatures

        self._features = TorchFeatures("alexnet", backbone, device)
        self._weights = linear_layers(linear)

    def __call__(self, a: Picture, b: Picture) -> float:
        """LPIPS of two uint8 RGB pictures (H, W, 3) of one shape, 31 pixels and more a side."""
        return float(self.layers(a, b).sum())

    def layers(self, a: Picture, b: Picture) -> Floats:
        """(5,): what each layer adds to the distance. Raises InputError for other shapes."""
        if a.shape != b.shape or min(a.shape[:2]) < SMALLEST:
            raise InputError(
                f"LPIPS compares pictures of one size, {SMALLEST} pixels and more a side, "
                f"not {a.shape[1]}×{a.shape[0]} with {b.shape[1]}×{b.shape[0]}"
            )
        batch = np.stack([a, b]).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        found = zip(self._weights, self._features(batch), strict=True)
        return np.array([_distance(weights, *features) for weights, features in found])


def _distance(weights: Floats, a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Weights (C,) and features (C, h, w) -> the weighted squared difference of their directions,
    averaged over the positions."""
    x, y = _directions(a), _directions(b)
    return float(np.tensordot(weights, (x - y) ** 2, 1).mean())


def _directions(features: NDArray[np.float32]) -> Floats:
    """(C, h, w) scaled to length 1 over the channels."""
    values = features.astype(np.float64)
    result: Floats = values / (np.sqrt((values**2).sum(0)) + 1e-10)
    return result


def linear_layers(path: Path) -> list[Floats]:
    """The five weight vectors, (C,) each, of the keys `lin0.model.1.weight` and on, in an .npz also
    of `alex/lin0.model.1.weight` or `lin0`. Raises ModelError."""
    if path.suffix == ".npz":
        try:
            with np.load(path) as file:
                arrays = {key.removeprefix("alex/"): file[key] for key in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path}: no linear layers of LPIPS: {error}") from error
    else:
        from fhrt.runtime.torch import load_weights

        arrays = {key: value.numpy() for key, value in load_weights(path).items()}
    found = []
    for i, channels in enumerate(CHANNELS):
        array = arrays.get(f"lin{i}.model.1.weight", arrays.get(f"lin{i}"))
        if array is None or array.size != channels:
            raise ModelError(f"{path}: no linear layers of LPIPS-Alex: lin{i} is missing or wrong")
        found.append(array.reshape(-1).astype(np.float64))
    return found
