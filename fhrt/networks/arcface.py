"""ArcFace's ResNet-18: whose face it is, as 512 values of a grey picture.

The network that GFPGAN's identity loss compares faces with (Wang et al. 2021); carries the keys of
arcface_resnet18.pth, once their prefix "module." is gone. Trained with the additive angular margin
of Deng et al. 2019, which is no part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 128
LUMA = (0.2989, 0.587, 0.114)  # of R, G and B (ITU-R BT.601), rounded as GFPGAN has them
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels, stride of the first of two blocks


class ArcFace(nn.Module):
    """(N, 3, H, W) RGB in [0, 1], faces aligned on the FFHQ template that fill the picture ->
    (N, 512), of any length; the cosine between two tells how alike the faces are.

    For a trained network in eval mode, frozen: the dropout of its training is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv3(1, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU()
        before = 64
        for i, (channels, stride) in enumerate(STAGES, start=1):
            blocks = Block(before, channels, stride), Block(channels, channels)
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            before = channels
        self.bn4 = nn.BatchNorm2d(before)
        self.fc5 = nn.Linear(before * (SIDE // 16) ** 2, 512)
        self.bn5 = nn.BatchNorm1d(512)

    def forward(self, faces: Tensor) -> Tensor:
        return self.raw(grey(faces * 2 - 1))

    def raw(self, x: Tensor) -> Tensor:
        """As the checkpoint was trained: grey (N, 1, 128, 128) in [-1, 1] -> (N, 512)."""
        x = F.max_pool2d(self.prelu(self.bn1(self.conv1(x))), 2)
        for i in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{i}")(x)
        embedding: Tensor = self.bn5(self.fc5(self.bn4(x).flatten(1)))
        return embedding


class Block(nn.Module):
    """The improved residual unit of Deng et al. (arXiv 1801.07698v1): batch norm before the first
    convolution too, and the stride in the second. Without squeeze and excitation."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(before)
        self.conv1 = _conv3(before, before)
        self.bn1 = nn.BatchNorm2d(before)
        self.prelu = nn.PReLU()  # one slope, after the first convolution and after the sum
        self.conv2 = _conv3(before, after, stride)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        change = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        result: Tensor = self.prelu(self.downsample(x) + self.bn2(self.conv2(change)))
        return result


def grey(faces: Tensor) -> Tensor:
    """RGB (N, 3, H, W) -> the (N, 1, 128, 128) that `ArcFace.raw` takes, in the same range.

    Bilinear without a filter against aliasing, as GFPGAN's identity loss shrinks them.
    """
    weights = torch.tensor(LUMA).to(faces)[:, None, None]
    luma = (faces * weights).sum(1, keepdim=True)
    return F.interpolate(luma, (SIDE, SIDE), mode="bilinear", align_corners=False)


def _conv3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
