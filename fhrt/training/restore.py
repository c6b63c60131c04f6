"""The `restore` system: whole faces degraded blindly, crops of them restored for fidelity.

Faces of 256, 384 and 512 pixels in one batch; the network is told where in the face a crop lies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from fhrt.damage.degrade import BLIND_256, BLIND_512, Blind, blind
from fhrt.faces import Picture
from fhrt.networks.restore import Restore
from fhrt.training.data import read_folder

MARGIN = 32  # pixels around a crop that are degraded with it, so that its border is a real one


class RestoreSystem:
    """Data, network and loss of `restore`. `data` holds train/256 and train/512."""

    def __init__(self, data: Path, options: dict[str, Any]) -> None:
        self.crops: list[list[int]] = options["crops"]  # [[from step, side, batch], …]
        self.clean = float(options["clean"])
        self.small = read_folder(data / "faces/train/256")
        self.large = read_folder(data / "faces/train/512")

    def build(self) -> nn.Module:
        return Restore()

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        side, size = next((s, n) for start, s, n in reversed(self.crops) if step >= start)
        parts = [self._sample(side, rng) for _ in range(size)]
        names = ("input", "target", "position")
        return {name: np.stack([part[i] for part in parts]) for i, name in enumerate(names)}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Charbonnier, sqrt(d² + 1e-6) (Lai et al. 2017)."""
        target = batch["target"].float() / 255
        output = network(batch["input"].float() / 255, batch["position"])
        squared = (output - target) ** 2
        loss = torch.sqrt(squared + 1e-6).mean()
        with torch.no_grad():
            psnr = -10 * torch.log10(squared.mean((1, 2, 3)) + 1e-6).mean()
        return loss, {"psnr": float(psnr)}

    def _sample(
        self, side: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        face, ranges = self._face(rng)
        size = face.shape[0]
        x0, y0 = (int(v) for v in rng.integers(0, (size - side) // 4 + 1, 2) * 4)
        left, top = max(0, x0 - MARGIN), max(0, y0 - MARGIN)
        target = face[top : y0 + side + MARGIN, left : x0 + side + MARGIN]
        if rng.random() < 0.5:
            target, x0 = target[:, ::-1], size - side - x0
            left = max(0, size - (left + target.shape[1]))
        target = np.ascontiguousarray(target)
        if rng.random() < self.clean:
            # A good face must come back as it is: hardly any damage, or none.
            weak = Blind(blur=(0.2, 0.6), shrink=(1, 1), noise=(0, 2), quality=(85, 100))
            damaged = target if rng.random() < 0.5 else blind(target, rng, weak)
        else:
            damaged = blind(target, rng, ranges)
        inside = np.s_[y0 - top : y0 - top + side, x0 - left : x0 - left + side]
        # Found landmarks are off by a few per cent of the face: so is the position in training.
        shift_x, shift_y = rng.normal(0, 0.02, 2)
        cells = (np.arange(side // 4) + 0.5) * 4
        x = (cells + x0) * (2 / size) - 1 + shift_x
        y = (cells + y0) * (2 / size) - 1 + shift_y
        position = np.empty((3, side // 4, side // 4), np.float32)
        position[0], position[1], position[2] = x, y[:, None], 256 / size
        return damaged[inside].transpose(2, 0, 1), target[inside].transpose(2, 0, 1), position

    def _face(self, rng: np.random.Generator) -> tuple[Picture, Blind]:
        """A face of 256, 384 or 512 pixels and the ranges of damage that fit its size."""
        size = int(rng.choice([256, 384, 512], p=[0.65, 0.1, 0.25]))
        every = len(self.small) + len(self.large)
        if size == 256:
            at = int(rng.integers(every))
            face = self.small[at] if at < len(self.small) else self.large[at - len(self.small)]
        else:
            face = self.large[int(rng.integers(len(self.large)))]
        if face.shape[0] != size:
            face = cv2.resize(face, (size, size), interpolation=cv2.INTER_AREA)
        middle = Blind(blur=(0.3, 7.5), shrink=(1, 10))
        return face, {256: BLIND_256, 384: middle, 512: BLIND_512}[size]
