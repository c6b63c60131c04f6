"""SRResNet, the generator of SRGAN (Ledig et al. 2017), for aligned faces: 32 -> 128, 16 -> 128.

As the paper draws it, but for a skip from the bicubically enlarged input to the output (`skip`):
with it the network learns only what interpolation lacks.
"""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Convolution, BatchNorm, PReLU, convolution, BatchNorm, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.act = nn.PReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))
        return x + change


class SRResNet(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 3, scale·H, scale·W); scale a power of two."""

    def __init__(
        self, scale: int = 4, width: int = 64, blocks: int = 16, skip: bool = True
    ) -> None:
        super().__init__()
        self.scale, self.skip = scale, skip
        self.head = nn.Sequential(nn.Conv2d(3, width, 9, padding=4), nn.PReLU())
        self.body = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.join = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        doublings = (
            (nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())
            for _ in range(scale.bit_length() - 1)
        )
        self.up = nn.Sequential(*chain.from_iterable(doublings))
        self.tail = nn.Conv2d(width, 3, 9, padding=4)
        if skip:
            nn.init.zeros_(self.tail.weight)  # an untrained network interpolates
            nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x - 0.5)
        output: Tensor = self.tail(self.up(shallow + self.join(self.body(shallow))))
        if self.skip:
            return output + F.interpolate(x, scale_factor=float(self.scale), mode="bicubic")
        return output + 0.5
