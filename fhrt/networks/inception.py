"""Inception-v3 as FID uses it (Szegedy et al. 2015; Heusel et al. 2017).

The weights are pytorch-fid's port of TensorFlow's inception-2015-12-05. They were trained with
three things that differ from torchvision's network of the same keys: average pooling leaves its
padding out, the very last block pools by maximum, and there are 1008 classes (not used here).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SIDE = 299


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation (eps 0.001), ReLU."""

    def __init__(
        self,
        ins: int,
        outs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


def average(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class Mixed35(nn.Module):
    """At 35×35: 1×1, 5×5, twice 3×3, and pooling."""

    def __init__(self, ins: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(ins, 64)
        self.branch5x5_1 = Convolution(ins, 48)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(ins, 64)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(ins, pool)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        parts = [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double]
        return torch.cat([*parts, self.branch_pool(average(x))], 1)


class To17(nn.Module):
    """35×35 -> 17×17, 288 -> 768 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = Convolution(288, 384, 3, 2)
        self.branch3x3dbl_1 = Convolution(288, 64)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class Mixed17(nn.Module):
    """At 17×17, 768 channels: 1×1, 7×7 and twice 7×7 in rows and columns, and pooling."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)

        def flat(ins: int, outs: int) -> Convolution:
            return Convolution(ins, outs, row, padding=(0, 3))

        def tall(ins: int, outs: int) -> Convolution:
            return Convolution(ins, outs, column, padding=(3, 0))

        self.branch1x1 = Convolution(768, 192)
        self.branch7x7_1 = Convolution(768, inner)
        self.branch7x7_2 = flat(inner, inner)
        self.branch7x7_3 = tall(inner, 192)
        self.branch7x7dbl_1 = Convolution(768, inner)
        self.branch7x7dbl_2 = tall(inner, inner)
        self.branch7x7dbl_3 = flat(inner, inner)
        self.branch7x7dbl_4 = tall(inner, inner)
        self.branch7x7dbl_5 = flat(inner, 192)
        self.branch_pool = Convolution(768, 192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(average(x))], 1)


class To8(nn.Module):
    """17×17 -> 8×8, 768 -> 1280 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(768, 192)
        self.branch3x3_2 = Convolution(192, 320, 3, 2)
        self.branch7x7x3_1 = Convolution(768, 192)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Convolution(192, 192, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        parts = [self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(seven)]
        return torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)


class Mixed8(nn.Module):
    """At 8×8, to 2048 channels; `largest` pools by maximum, as the last block of these weights."""

    def __init__(self, ins: int, largest: bool) -> None:
        super().__init__()
        self.largest = largest
        self.branch1x1 = Convolution(ins, 320)
        self.branch3x3_1 = Convolution(ins, 384)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Convolution(ins, 448)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Convolution(ins, 192)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pooled = F.max_pool2d(x, 3, 1, 1) if self.largest else average(x)
        return torch.cat([*parts, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 2048). Any size: enlarged or shrunk to 299 without
    antialiasing and brought to [-1, 1], as pytorch-fid does, so that figures compare with its own.

    The state dict is that of pt_inception-2015-12-05-6726825d.pth without its last layer, `fc`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = Mixed35(192, 32)
        self.Mixed_5c = Mixed35(256, 64)
        self.Mixed_5d = Mixed35(288, 64)
        self.Mixed_6a = To17()
        self.Mixed_6b = Mixed17(128)
        self.Mixed_6c = Mixed17(160)
        self.Mixed_6d = Mixed17(160)
        self.Mixed_6e = Mixed17(192)
        self.Mixed_7a = To8()
        self.Mixed_7b = Mixed8(1280, largest=False)
        self.Mixed_7c = Mixed8(2048, largest=True)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = 2 * F.interpolate(picture, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
        features: torch.Tensor = self.Mixed_7c(self.Mixed_7b(x)).mean((2, 3))
        return features
