"""MobileFaceNet (Chen et al. 2018): whose face it is, as 128 values.

The names of the layers, and ReLU where the paper has PReLU, are foamliu/MobileFaceNet's, so that
weights trained there fit.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

# ImageNet's mean and deviation of RGB in [0, 1].
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

# Bottlenecks (table 1 of the paper): expansion, channels, how many, stride of the first.
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class MobileFaceNet(nn.Module):
    """(N, 3, 112, 112) RGB in [0, 1], aligned on the ArcFace template -> (N, 128), of any length;
    the cosine between two tells how alike the faces are."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _convolution(3, 64, 3, stride=2)
        self.dw_conv = nn.Sequential(
            OrderedDict(
                depthwise=nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False),
                bn1=nn.BatchNorm2d(64),
                relu1=nn.ReLU(),
                pointwise=nn.Conv2d(64, 64, 1, bias=False),
                bn2=nn.BatchNorm2d(64),
                relu2=nn.ReLU(),
            )
        )
        blocks, before = [], 64
        for expansion, channels, count, stride in BOTTLENECKS:
            for i in range(count):
                blocks.append(Bottleneck(before, channels, expansion, 1 if i else stride))
                before = channels
        self.features = nn.Sequential(*blocks)
        self.conv2 = _convolution(before, 512, 1)
        self.gdconv = nn.Sequential(  # a weight for each of the 7 x 7 places that are left
            OrderedDict(
                depthwise=nn.Conv2d(512, 512, 7, groups=512, bias=False), bn=nn.BatchNorm2d(512)
            )
        )
        self.conv3 = nn.Conv2d(512, 128, 1)
        self.bn = nn.BatchNorm2d(128)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def forward(self, face: Tensor) -> Tensor:
        x = self.dw_conv(self.conv1((face - self.mean) / self.deviation))
        x = self.gdconv(self.conv2(self.features(x)))
        embedding: Tensor = self.bn(self.conv3(x))
        return embedding.flatten(1)


class Bottleneck(nn.Module):
    """MobileNetV2's (Sandler et al. 2018): widened by 1x1, 3x3 a channel, narrowed by 1x1 without
    activation; added to the input where the shapes allow it."""

    def __init__(self, before: int, after: int, expansion: int, stride: int) -> None:
        super().__init__()
        inside = expansion * before
        self.added = stride == 1 and before == after
        self.conv = nn.Sequential(
            _convolution(before, inside, 1),
            _convolution(inside, inside, 3, stride, groups=inside),
            nn.Conv2d(inside, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.conv(x)
        return x + changed if self.added else changed


def _convolution(
    before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU6(),
    )
