"""The face detector: one anchor-free pass, box, five landmarks and a score for every cell.

Full 3x3 convolutions, strides 8, 16 and 32 with a top-down path (Lin et al. 2017), one head for all
three, distances to the sides of the box as in FCOS (Tian et al. 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(self.conv1(x))))


class Detector(nn.Module):
    """(N, 3, H, W) RGB in [0, 1], H and W multiples of 32 -> one map a stride, (N, 15, H/s, W/s).

    Channels: score (a logit while training, then in [0, 1]); the distances, in strides, from the
    cell's centre to the left, top, right and bottom of the box; x and y of five landmarks, in
    strides from the cell's centre. The centre of cell (i, j) is pixel (s·(j + ½) − ½, …).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, stride=2), conv(16, 24, stride=2), conv(24, 24))
        self.at8 = nn.Sequential(conv(24, 48, stride=2), Residual(48))
        self.at16 = nn.Sequential(conv(48, 64, stride=2), Residual(64))
        self.at32 = nn.Sequential(conv(64, 80, stride=2), Residual(80))
        self.side32 = conv(80, 48, 1)
        self.side16 = conv(64, 48, 1)
        self.smooth16 = conv(48, 48)
        self.smooth8 = conv(48, 48)
        self.head = conv(48, 48)
        self.out = nn.Conv2d(48, 15, 1)
        with torch.no_grad():
            self.out.bias[0] = -4.0  # type: ignore[index]  # faces are rare: start from "no face"

    def forward(self, x: Tensor) -> list[Tensor]:
        at8 = self.at8(self.stem(x - 0.5))
        at16 = self.at16(at8)
        top32 = self.side32(self.at32(at16))
        top16 = self.smooth16(self.side16(at16) + F.interpolate(top32, scale_factor=2.0))
        top8 = self.smooth8(at8 + F.interpolate(top16, scale_factor=2.0))
        return [self._answers(features) for features in (top8, top16, top32)]

    def _answers(self, features: Tensor) -> Tensor:
        out = self.out(self.head(features))
        score, sides, landmarks = out.split([1, 4, 10], 1)
        if not self.training:
            score = torch.sigmoid(score)
        # softplus keeps the sides positive; the factors bring all outputs to about the same size
        return torch.cat([score, F.softplus(sides) * 2.0, landmarks * 2.0], 1)
