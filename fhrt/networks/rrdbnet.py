"""RRDBNet, the generator of ESRGAN (Wang et al. 2018) as Real-ESRGAN trained it (2021).

Carries the keys of RealESRGAN_x4plus, RealESRGAN_x2plus (scale=2) and, with blocks=6,
RealESRGAN_x4plus_anime_6B.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RRDBNet(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 3, scale·H, scale·W), not clipped; scale 1, 2 or 4.

    The network enlarges by 4; for less the picture is unshuffled first, so H and W must be
    multiples of 2 at scale 2 and of 4 at scale 1. growth: channels that a convolution of a dense
    block adds.
    """

    def __init__(self, scale: int = 4, blocks: int = 23, width: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.unshuffle = 4 // scale
        self.conv_first = nn.Conv2d(3 * self.unshuffle**2, width, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(x, self.unshuffle)
        features = self.conv_first(x)
        features = features + self.conv_body(self.body(features))
        for layer in (self.conv_up1, self.conv_up2):
            features = F.leaky_relu(layer(F.interpolate(features, scale_factor=2.0)), 0.2)
        output: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(features), 0.2))
        return output


class RRDB(nn.Module):
    """Residual in residual: three dense blocks, a fifth of whose result is added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = Dense(width, growth)
        self.rdb2 = Dense(width, growth)
        self.rdb3 = Dense(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + change * 0.2


class Dense(nn.Module):
    """Five convolutions, each over the input and the results of all before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)
        with torch.no_grad():  # quiet at the start, as ESRGAN's are: 69 of these follow each other
            for layer in self.children():
                assert isinstance(layer, nn.Conv2d)
                nn.init.kaiming_normal_(layer.weight).mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        known = x
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            known = torch.cat([known, F.leaky_relu(layer(known), 0.2)], 1)
        change: Tensor = self.conv5(known)
        return x + change * 0.2
