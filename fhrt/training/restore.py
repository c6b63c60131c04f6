"""The `restore` system: whole faces degraded blindly, crops of them restored for fidelity.

Faces of 256, 384 and 512 pixels in one batch; the network is told where in the face a crop lies.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from fhrt.damage.degrade import BLIND_256, BLIND_512, Blind, blind
from fhrt.faces import Picture
from fhrt.networks.restore import Restore
from fhrt.quality.protocols import bicubic
from fhrt.training.config import Config
from fhrt.training.data import find_faces, load_faces
from fhrt.training.losses import fidelity_of, psnr
from fhrt.training.pairs import VALIDATION, hold_out, planar

MARGIN = 32  # pixels around a crop that are degraded with it, so that its border is a real one


class RestoreSystem:
    """Data, network and loss of `restore`, and of its adversarial fine-tune.

    options: crops, [[from share of the steps, side, batch], …]; clean, the share of samples with
    hardly any damage; shares of faces of 256, 384 and 512 pixels; fidelity as for pairs.
    """

    def __init__(self, data: Path, config: Config) -> None:
        self.crops: list[tuple[float, int, int]] = [
            (share * config.steps, int(side), int(batch))
            for share, side, batch in config.options["crops"]
        ]
        self.clean = float(config.options["clean"])
        self.shares = config.options.get("shares", [0.65, 0.1, 0.25])
        self.fidelity = fidelity_of(config.options)
        training, held = hold_out(find_faces(data, "train"), config.hold_out)
        pictures, self.dropped = load_faces(training)
        self.large = [_square(p, 512) for p in pictures if min(p.shape[:2]) >= 470]
        self.small = [_square(p, 256) for p in pictures if 250 <= min(p.shape[:2]) < 470]
        few = held[:: max(1, len(held) // VALIDATION)][:VALIDATION]
        self.held = load_faces(few, 256)[0] if few else []

    def build(self) -> nn.Module:
        return Restore()

    def batch_size(self, step: int) -> int:
        return self._crop(step)[1]

    def output(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        values = (batch["input"].float() / 255).contiguous(memory_format=torch.channels_last)
        made: Tensor = network(values, batch["position"])
        return made

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        target = batch["target"].float() / 255
        return self.fidelity(output, target), {"psnr": psnr(output, target)}

    def validation(self) -> dict[str, np.ndarray] | None:
        position = _position(256, 256, 0, 0)
        pairs = [
            planar(blind(face, np.random.default_rng(i), BLIND_256), face) | {"position": position}
            for i, face in enumerate(self.held)
        ]
        return {k: np.stack([pair[k] for pair in pairs]) for k in pairs[0]} if pairs else None

    def _crop(self, step: int) -> tuple[int, int]:
        """Side of the crops and how many of them there are in a step."""
        return next((side, n) for start, side, n in reversed(self.crops) if step >= start)

    def sample(self, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        side = self._crop(step)[0]
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
        shift = rng.normal(0, 0.02, 2) * (size / 2)
        position = _position(side, size, x0 + shift[0], y0 + shift[1])
        return planar(damaged[inside], target[inside]) | {"position": position}

    def _face(self, rng: np.random.Generator) -> tuple[Picture, Blind]:
        """A face of 256, 384 or 512 pixels and the ranges of damage that fit its size."""
        size = int(rng.choice([256, 384, 512], p=self.shares))
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


def _position(side: int, size: int, x0: float, y0: float) -> np.ndarray:
    """float32 (3, side/4, side/4): the planes of `networks.restore.face_position` for a crop of
    `side` pixels whose corner lies at x0, y0 of a face of `size`."""
    cells = (np.arange(side // 4) + 0.5) * 4
    position = np.empty((3, side // 4, side // 4), np.float32)
    position[0] = (cells + x0) * (2 / size) - 1
    position[1] = ((cells + y0) * (2 / size) - 1)[:, None]
    position[2] = 256 / size
    return position


def _square(picture: Picture, size: int) -> Picture:
    """The middle square at `size` pixels."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return bicubic(np.ascontiguousarray(picture[top : top + side, left : left + side]), size)
