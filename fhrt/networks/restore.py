"""`restore`: blind restoration of an aligned face, a residual U-Net from 1/4 to 1/16 of the size.

The picture is unshuffled by 4 first (Shi et al. 2016, space to depth), so that no convolution runs
at full resolution: on a CPU those cost most and learn least. Aligned faces have their parts in
known places, so three planes tell each position where in the face it lies and how large a pixel is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def face_position(height: int, width: int, like: Tensor) -> Tensor:
    """Planes (1, 3, height/4, width/4): x and y from -1 to 1 over the crop, and 256 / size."""
    rows, columns = height // 4, width // 4
    y = (torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) * (2.0 / rows) - 1.0
    x = (torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) * (2.0 / columns) - 1.0
    scale = torch.ones(rows, columns, device=like.device, dtype=like.dtype) * (64.0 / rows)
    return torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns), scale])[None]


class Residual(nn.Module):
    """Two 3x3 convolutions around one activation, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        start_quietly(self.conv1, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.leaky_relu(self.conv1(x), 0.1))
        return x + change


def start_quietly(first: nn.Conv2d, last: nn.Conv2d) -> None:
    """Weights of a residual branch that adds little at first: the sum of many must not blow up."""
    nn.init.kaiming_normal_(first.weight, 0.1)
    nn.init.kaiming_normal_(last.weight, 0.1)
    with torch.no_grad():
        last.weight.mul_(0.2)


def residuals(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(channels) for _ in range(count)))


class Restore(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> the same shape; H and W multiples of 16.

    widths: channels at 1/4, 1/8 and 1/16. blocks: residual blocks at 1/4 and 1/8 going down, at
    1/16, and at 1/8 and 1/4 coming up.
    """

    def __init__(
        self,
        widths: tuple[int, int, int] = (64, 96, 128),
        blocks: tuple[int, int, int, int, int] = (1, 2, 5, 2, 2),
    ) -> None:
        super().__init__()
        w4, w8, w16 = widths
        self.head = nn.Conv2d(48 + 3, w4, 3, padding=1)
        self.down4 = residuals(w4, blocks[0])
        self.to8 = nn.Conv2d(w4, w8, 3, stride=2, padding=1)
        self.down8 = residuals(w8, blocks[1])
        self.to16 = nn.Conv2d(w8, w16, 3, stride=2, padding=1)
        self.body = residuals(w16, blocks[2])
        self.from16 = nn.Conv2d(w16, 4 * w8, 1)
        self.up8 = residuals(w8, blocks[3])
        self.from8 = nn.Conv2d(w8, 4 * w4, 1)
        self.up4 = residuals(w4, blocks[4])
        self.tail = nn.Conv2d(w4, 48, 3, padding=1)
        nn.init.zeros_(self.tail.weight)  # an untrained network returns its input
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        """position: (N or 1, 3, H/4, W/4) where x is only a part of a face (in training)."""
        if position is None:
            position = face_position(x.shape[2], x.shape[3], x)
        position = position.expand(x.shape[0], -1, -1, -1)
        features = torch.cat([_unshuffled(x - 0.5, 4), position], 1)
        at4 = self.down4(F.leaky_relu(self.head(features), 0.1))
        at8 = self.down8(F.leaky_relu(self.to8(at4), 0.1))
        at16 = self.body(F.leaky_relu(self.to16(at8), 0.1))
        up8 = self.up8(at8 + F.pixel_shuffle(self.from16(at16), 2))
        up4 = self.up4(at4 + F.pixel_shuffle(self.from8(up8), 2))
        return x + F.pixel_shuffle(self.tail(up4), 4)


def _unshuffled(x: Tensor, factor: int) -> Tensor:
    """F.pixel_unshuffle in two steps, each of which moves one axis: ONNX Runtime has fast code for
    either, and takes a tenth of the whole network's time where both are one transposition."""
    batch, channels, height, width = x.shape
    rows, columns = height // factor, width // factor
    x = x.reshape(batch, channels, rows, factor, columns * factor).transpose(2, 3)
    x = x.reshape(batch, channels, factor, rows * columns, factor).transpose(3, 4)
    return x.reshape(batch, channels * factor**2, rows, columns)
