"""The `landmarks` system: faces roughly aligned, as the detector's landmarks would align them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from fhrt.faces import landmark_crop_matrix
from fhrt.networks.landmarks import SIDE, Landmarks
from fhrt.training.config import Config
from fhrt.training.data import Dropped
from fhrt.training.labelled import Labelled, read_sources, spoil, warp, warp_faces

SMALLEST = 20.0  # pixels of a face; below, the given landmarks are guesses themselves


class LandmarkSystem:
    """Data, network and loss of the landmark network."""

    def __init__(self, data: Path, config: Config) -> None:
        self.size = int(config.options["batch"])
        self.sources = read_sources(data)
        self.dropped: tuple[Dropped, ...] = ()
        self.pools = []
        photos = self.sources.photos
        for pool in (photos["in_the_wild"], photos["portraits"], photos["old"], self.sources.faces):
            self.pools.append([(p, i) for p in pool for i in range(len(p.boxes)) if _usable(p, i)])

    def build(self) -> nn.Module:
        return Landmarks()

    def batch_size(self, step: int) -> int:
        return self.size

    def validation(self) -> None:
        """None: `fhrt eval detector` scores it on pictures of its own."""

    def output(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        found: Tensor = network(batch["picture"].float() / 255)
        return found

    def loss(self, found: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Mean distance of the landmarks, over the distance of the eyes."""
        wanted = batch["landmarks"]
        eyes = (wanted[:, 1] - wanted[:, 0]).norm(dim=1).clamp(min=0.15)
        error = ((found - wanted).square().sum(2) + 1e-6).sqrt().mean(1) / eyes
        return error.mean(), {"error": float(error.detach().mean())}

    def sample(self, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        pool = self.pools[int(rng.choice(4, p=[0.3, 0.15, 0.15, 0.4]))]
        source, i = pool[rng.integers(len(pool))]
        truth = source.landmarks[i]
        # The detector's landmarks: the true ones, moved together, turned, scaled, and each a bit.
        middle = truth.mean(0)
        spread = np.sqrt(((truth - middle) ** 2).sum(1).mean())
        # Half of them as after a first look of this network: the second look starts from there.
        doubt = 1.0 if rng.random() < 0.5 else 0.3
        angle, factor = rng.normal(0, 0.1 * doubt), np.exp(rng.normal(0, 0.12 * doubt))
        turn = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        rough = (truth - middle) @ turn.T + middle + rng.normal(0, 0.15 * doubt * spread, 2)
        rough = rough + rng.normal(0, 0.08 * doubt * spread, (5, 2))
        matrix = landmark_crop_matrix(rough, SIDE)
        if rng.random() < 0.5:
            matrix = np.array([[-1.0, 0, SIDE - 1], [0, 1, 0]]) @ np.vstack([matrix, [0, 0, 1]])
        crop = np.empty((SIDE, SIDE, 3), np.uint8)
        crop[:] = rng.integers(0, 256, 3)
        warp(source, matrix, crop)
        _, places = warp_faces(matrix, source.boxes[i : i + 1], source.landmarks[i : i + 1])
        return {
            "picture": np.ascontiguousarray(spoil(crop, rng).transpose(2, 0, 1)),
            "landmarks": ((places[0] + 0.5) / SIDE).astype(np.float32),
        }


def _usable(source: Labelled, i: int) -> bool:
    size = np.sqrt(np.prod(source.boxes[i, 2:] - source.boxes[i, :2]))
    return bool(not source.ignore[i] and size >= SMALLEST)
