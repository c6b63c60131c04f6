"""The official networks in numbers: key lists, seeded weights and the outputs that go with them.

../shared/reference/README.md says what is in the files and how the weights are drawn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the reference vectors (../shared/reference) are not here"
)


def keys(name: str) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the official checkpoint."""
    return {key: tuple(shape) for key, shape, _ in _listed(name)["tensors"]}


def seeded(name: str) -> dict[str, Tensor]:
    """The state dict that the vectors were computed with (README, section 2)."""
    listed = _listed(name)
    made: dict[str, Tensor] = {}
    for i, (key, shape, _) in enumerate(listed["tensors"]):
        mode, a, b = listed["recipe"][i]
        if mode == "int0":
            made[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        drawn = np.random.default_rng([20260101, i]).standard_normal(shape, np.float32)
        if mode == "abs":
            drawn = np.abs(drawn)
        made[key] = torch.from_numpy(np.asarray(np.float32(a) + np.float32(b) * drawn))
    return made


@dataclass(frozen=True)
class Vector:
    """What the official network gave. Arrays are parts of tensors; `meta` says which."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    def input(self, prefix: str = "") -> Tensor:
        if prefix + "input" in self.arrays:
            return torch.from_numpy(self.arrays[prefix + "input"])
        picture = cv2.imread(str(REFERENCE / "images" / "astronaut.png"))[..., ::-1]
        whole = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32)) / 127.5 - 1
        assert np.array_equal(whole[:, :, ::16, ::16], self.arrays["input_sample"])
        return whole

    def named(self, prefix: str = "") -> list[str]:
        """The arrays that have a tolerance, thus come out of the network."""
        stated = self.meta["arrays"]
        return [n for n in self.arrays if n.startswith(prefix) and "tol" in stated.get(n, ())]

    def deviation(self, name: str, tensor: Tensor) -> tuple[float, float]:
        """Largest difference from the array `name`, and the tolerance."""
        stated = self.meta["arrays"][name]
        assert list(tensor.shape) == stated["full_shape"]
        part = tensor[tuple(slice(*bounds) for bounds in stated["slices"])].numpy()
        return float(np.abs(part - self.arrays[name]).max()), stated["tol"]


def vector(name: str) -> Vector:
    with np.load(REFERENCE / "vectors" / f"{name}.npz") as file:
        arrays = dict(file)
    return Vector(arrays, json.loads(str(arrays.pop("meta"))))


class Watched:
    """Keeps the first value that each named submodule of `network` returns."""

    def __init__(self, network: nn.Module, paths: set[str]) -> None:
        self.seen: dict[str, Tensor] = {}
        for path in paths:
            network.get_submodule(path).register_forward_hook(self._keep(path))

    def _keep(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.seen.setdefault(path, output.clone())

        return hook


def _listed(name: str) -> dict[str, Any]:
    listed: dict[str, Any] = json.loads((REFERENCE / "keys" / f"{name}.json").read_text())
    return listed
