"""Discriminators. Each maps a picture (N, 3, H, W) in [0, 1], and a condition of the same shape or
None, to scores (logits) and the features on the way, which feature matching compares."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Judgement = tuple[Tensor, list[Tensor]]


class _Discriminator(nn.Module):
    """Layers one after the other; the outputs of all but the last are the features."""

    def __init__(self, layers: list[nn.Module], condition: bool) -> None:
        super().__init__()
        self.layers, self.condition = nn.ModuleList(layers), condition

    def forward(self, picture: Tensor, condition: Tensor | None = None) -> Judgement:
        values = 2 * picture - 1
        if self.condition:
            assert condition is not None
            values = torch.cat([2 * condition - 1, values], 1)
        features = []
        for layer in self.layers:
            values = layer(values)
            features.append(values)
        return features[-1], features[:-1]


class Strided(_Discriminator):
    """FaceSR-GAN's: four strided convolutions, BatchNorm but in the first, then fully connected
    layers of 1024 and 1. `cells`: what is left of height and width is averaged to cells x cells
    before them (16, for pictures of 256, leaves all as published)."""

    def __init__(self, condition: bool = False, width: int = 32, cells: int = 4) -> None:
        widths = [3 + 3 * condition, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = [
            _block(a, b, 4, 2, norm=i > 0) for i, (a, b) in enumerate(pairwise(widths))
        ]
        layers.append(_Dense(widths[-1], cells))
        super().__init__(layers, condition)


class Vgg(_Discriminator):
    """SRGAN's (Ledig et al. 2017): eight 3x3 convolutions, every second of stride 2, then fully
    connected layers of 1024 and 1."""

    def __init__(self, condition: bool = False, width: int = 64, cells: int = 4) -> None:
        before = 3 + 3 * condition
        layers: list[nn.Module] = []
        for level in range(4):
            for stride in (1, 2):
                after = width * 2**level
                layers.append(_block(before, after, 3, stride, norm=len(layers) > 0))
                before = after
        layers.append(_Dense(before, cells))
        super().__init__(layers, condition)


class Patch(_Discriminator):
    """pix2pix's PatchGAN (Isola et al. 2017): one score a patch of 70 x 70 pixels."""

    def __init__(self, condition: bool = True, width: int = 64) -> None:
        layers = [
            _block(3 + 3 * condition, width, 4, 2, norm=False),
            _block(width, 2 * width, 4, 2),
            _block(2 * width, 4 * width, 4, 2),
            _block(4 * width, 8 * width, 4, 1),
            nn.Conv2d(8 * width, 1, 4, padding=1),
        ]
        super().__init__(layers, condition)


class _Dense(nn.Module):
    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.hidden = nn.Linear(channels * cells * cells, 1024)
        self.score = nn.Linear(1024, 1)

    def forward(self, x: Tensor) -> Tensor:
        flat = F.adaptive_avg_pool2d(x, self.cells).flatten(1)
        score: Tensor = self.score(F.leaky_relu(self.hidden(flat), 0.2))
        return score


def _block(before: int, after: int, kernel: int, stride: int, norm: bool = True) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, stride, padding=1, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(after))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2))


DISCRIMINATORS: dict[str, Callable[..., _Discriminator]] = {
    "strided": Strided,
    "vgg": Vgg,
    "patch": Patch,
}
