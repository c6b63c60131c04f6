"""ParseNet: which of 19 parts of a face each pixel shows, to paste back along a face's outline.

The parsing network of PSFR-GAN (Chen et al. 2021); carries the keys of facexlib's parsing_parsenet.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

PARTS = 19  # CelebAMask-HQ's, background first


class ParseNet(nn.Module):
    """(N, 3, H, W) RGB in [0, 1], H and W multiples of 16, made for faces of 512 -> logits
    (N, 19, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 256, 256)  # at 1/1, 1/2, 1/4, 1/8 and 1/16 of the size
        steps = list(pairwise(widths))
        self.encoder = nn.Sequential(Conv(3, 64), *(Residual(a, b, down=True) for a, b in steps))
        self.body = nn.Sequential(*(Residual(256, 256) for _ in range(10)))
        self.decoder = nn.Sequential(*(Residual(b, a, up=True) for a, b in reversed(steps)))
        self.out_img_conv = Conv(64, 3)
        self.out_mask_conv = Conv(64, PARTS)

    def forward(self, x: Tensor) -> Tensor:
        parts: Tensor = self.out_mask_conv(self.features(x * 2 - 1))
        return parts

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As the checkpoint was trained: RGB in [-1, 1] -> logits, and the picture again, which is
        only of use in training."""
        features = self.features(x)
        return self.out_mask_conv(features), self.out_img_conv(features)

    def features(self, x: Tensor) -> Tensor:
        deep = self.encoder(x)
        decoded: Tensor = self.decoder(deep + self.body(deep))
        return decoded


class Residual(nn.Module):
    """Two convolutions, added to the input; to half or twice the size where it is said."""

    def __init__(self, inputs: int, outputs: int, down: bool = False, up: bool = False) -> None:
        super().__init__()
        self.shortcut_func: nn.Module = nn.Identity()
        if down or up:
            self.shortcut_func = Conv(inputs, outputs, down, up)
        self.conv1 = Conv(inputs, outputs, up=up, norm=True)
        self.conv2 = Conv(outputs, outputs, down=down, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        short: Tensor = self.shortcut_func(x)
        change: Tensor = self.conv2(F.leaky_relu(self.conv1(x), 0.2))
        return short + change


class Conv(nn.Module):
    """3x3 convolution over mirrored borders, batch norm instead of a bias if `norm`."""

    def __init__(
        self, inputs: int, outputs: int, down: bool = False, up: bool = False, norm: bool = False
    ) -> None:
        super().__init__()
        self.up = up
        self.conv2d = nn.Conv2d(
            inputs,
            outputs,
            3,
            stride=2 if down else 1,
            padding=1,
            padding_mode="reflect",
            bias=not norm,
        )
        self.norm: nn.Module = nn.Identity()
        if norm:  # one level deeper, for the checkpoint's keys
            self.norm = nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(outputs)))

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            x = F.interpolate(x, scale_factor=2.0)
        result: Tensor = self.norm(self.conv2d(x))
        return result
