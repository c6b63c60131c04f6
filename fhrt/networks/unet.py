"""The U-Net of pix2pix (Isola et al. 2017) for pictures of 256: an occluded face to a whole one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEPTH = 8  # halvings: 256 pixels to one


class UNet(nn.Module):
    """(N, 3, 256, 256) RGB in [0, 1] -> the same shape.

    width: channels of the first level, 64 as published; each level has twice the one before, at
    most eight times the first. 4x4 convolutions of stride 2, BatchNorm but at both ends, dropout
    of one half in the three innermost levels on the way up, skip connections.
    keep: a fourth output says, from 0 to 1, how much of each pixel is to be replaced, and the rest
    comes from the input as it is. Without it, as published, all of the picture is drawn anew.
    """

    def __init__(self, width: int = 64, keep: bool = True) -> None:
        super().__init__()
        self.keep = keep
        widths = [width * min(2**level, 8) for level in range(DEPTH)]
        self.down, self.down_norm = nn.ModuleList(), nn.ModuleList()
        self.up, self.up_norm = nn.ModuleList(), nn.ModuleList()
        for level, channels in enumerate(widths):
            outermost, innermost = level == 0, level == DEPTH - 1
            before = 3 if outermost else widths[level - 1]
            after = (4 if keep else 3) if outermost else widths[level - 1]
            self.down.append(nn.Conv2d(before, channels, 4, stride=2, padding=1))
            self.down_norm.append(
                nn.Identity() if outermost or innermost else nn.BatchNorm2d(channels)
            )
            taken = channels if innermost else 2 * channels
            self.up.append(nn.ConvTranspose2d(taken, after, 4, stride=2, padding=1))
            self.up_norm.append(nn.Identity() if outermost else nn.BatchNorm2d(after))
        self.dropout = nn.Dropout(0.5)
        for module in self.modules():  # as published
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        features = 2 * x - 1
        kept: list[Tensor] = []
        for level, (layer, norm) in enumerate(zip(self.down, self.down_norm, strict=True)):
            features = norm(layer(features if level == 0 else F.leaky_relu(features, 0.2)))
            kept.append(features)
        for level in reversed(range(DEPTH)):
            if level < DEPTH - 1:
                features = torch.cat([features, kept[level]], 1)
            features = self.up_norm[level](self.up[level](F.relu(features)))
            if DEPTH - 4 <= level < DEPTH - 1:
                features = self.dropout(features)
        drawn = (torch.tanh(features[:, :3]) + 1) / 2
        if not self.keep:
            return drawn
        return x + torch.sigmoid(features[:, 3:]) * (drawn - x)
