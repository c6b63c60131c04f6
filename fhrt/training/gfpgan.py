"""The `gfpgan` system: GFPGAN goes on learning, from weights that are given to it.

Pairs like any other, but the loss also looks at what the U-Net alone makes at every size, so that
it takes the damage away before the generator draws (pyramid restoration, Wang et al. 2021).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fhrt.errors import UsageError
from fhrt.networks.gfpgan import GFPGAN
from fhrt.training.config import Config
from fhrt.training.data import Dropped
from fhrt.training.pairs import PairSystem

Made = tuple[Tensor, list[Tensor]]


class GfpganSystem:
    """options: those of pairs but for `network`; blind damage where they name none. pyramid: weight
    of the loss on the U-Net's pictures in the first step, beside a fidelity of 1; it falls linearly
    to 0 at the share pyramid_until of the steps. Published: 10 up to 0.06 of them, then 0.

    Which parts learn, and at which rate, is said by `rates` of the configuration.
    """

    def __init__(self, data: Path, config: Config) -> None:
        options = self.options = {"network": "gfpgan", "damage": "blind"} | config.options
        self.pairs = PairSystem(data, replace(config, options=options))
        self.weight = float(options.get("pyramid", 0.1))
        self.until = float(options.get("pyramid_until", 0.25)) * config.steps

    @property
    def dropped(self) -> list[Dropped]:
        return self.pairs.dropped

    def build(self) -> nn.Module:
        try:
            network = Observed(**self.options.get("network_options", {}))
        except TypeError as error:
            raise UsageError(f"network_options: {error}") from error
        # not used: the U-Net makes the styles, and weights without a gradient disturb DDP
        network.stylegan_decoder.style_mlp.requires_grad_(False)
        return network

    def batch_size(self, step: int) -> int:
        return self.pairs.batch_size(step)

    def sample(self, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        left = max(0.0, 1 - step / max(1.0, self.until))
        return self.pairs.sample(step, rng) | {"pyramid": np.array(self.weight * left, np.float32)}

    def validation(self) -> dict[str, np.ndarray] | None:
        return self.pairs.validation()

    def output(self, network: nn.Module, batch: dict[str, Tensor]) -> Made:
        values = (batch["input"].float() / 255).contiguous(memory_format=torch.channels_last)
        # the eight faces of a validation pass at once would take twice the memory of a step
        parts = values.chunk(1 if torch.is_grad_enabled() else len(values))
        made: list[Made] = [network(part) for part in parts]
        pictures, alone = zip(*made, strict=True)
        return torch.cat(pictures), [torch.cat(same) for same in zip(*alone, strict=True)]

    def loss(self, output: Made, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        picture, alone = output
        loss, figures = self.pairs.loss(picture, batch)
        distance = pyramid(alone, batch["target"].float() / 255)
        if "pyramid" in batch:
            loss = loss + batch["pyramid"].mean() * distance
        return loss, figures | {"pyramid": float(distance.detach())}


class Observed(GFPGAN):
    """GFPGAN with what its U-Net alone makes as a second output; the same weights."""

    def forward(self, x: Tensor) -> Any:
        """(N, 3, S, S) in [0, 1] -> the same shape, and pictures of 8, 16, … S pixels."""
        image, alone = self.raw(x * 2 - 1)
        return image * 0.5 + 0.5, [rgb * 0.5 + 0.5 for rgb in alone]


def pyramid(pictures: list[Tensor], target: Tensor) -> Tensor:
    """L1 between each picture, (N, 3, s, s) in [0, 1], and the target, (N, 3, S, S), reduced to its
    size by the mean over areas; the sum over the pictures."""
    wanted = (F.interpolate(target, rgb.shape[-2:], mode="area") for rgb in pictures)
    distances = [F.l1_loss(rgb, face) for rgb, face in zip(pictures, wanted, strict=True)]
    return torch.stack(distances).sum()
