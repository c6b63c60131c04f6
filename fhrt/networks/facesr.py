"""Four generators for faces of 64 pixels enlarged to 256: two published ones and two of our own.

`FaceSRv1` and `FaceSRv2` carry the keys of FaceSR-GAN's checkpoints. Their InstanceNorms take out
the mean of every plane, and with it how bright the picture is; `skip` adds the bicubically enlarged
input, as an option, so that only the detail has to be made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fhrt.networks.restore import face_position, residuals, start_quietly


def enlarged(x: Tensor, scale: float = 4.0) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode="bicubic")


class _Published(nn.Module):
    """3x3 convolutions conv1 … convN, each but the last followed by InstanceNorm and ReLU, with a
    PixelShuffle before the norm of the second and third; tanh at the end.

    (N, 3, H, W) RGB in [0, 1] -> (N, 3, 4H, 4W); values below 0 are the network's, to be clipped.
    width: share of the published number of channels. `outputs` are the channels of a convolution;
    a shuffled one passes a quarter of them on.
    """

    outputs: tuple[int, ...]

    def __init__(self, width: float = 1.0, skip: bool = False) -> None:
        super().__init__()
        self.skip = skip
        before = 3
        for number, channels in enumerate(self.outputs, 1):
            made = round(channels * width) if number < len(self.outputs) else channels
            self.add_module(f"conv{number}", nn.Conv2d(before, made, 3, padding=1))
            before = made // 4 if number in (2, 3) else made

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for number in range(1, len(self.outputs)):
            features = self.get_submodule(f"conv{number}")(features)
            if number in (2, 3):
                features = F.pixel_shuffle(features, 2)
            features = F.relu(F.instance_norm(features))
        output = torch.tanh(self.get_submodule(f"conv{len(self.outputs)}")(features))
        return output + enlarged(x) if self.skip else output


class FaceSRv1(_Published):
    """Seven convolutions; see _Published."""

    outputs = (128, 512, 512, 256, 128, 64, 3)


class FaceSRv2(_Published):
    """Eight convolutions, 384 channels in the middle; see _Published."""

    outputs = (128, 512, 512, 384, 128, 128, 32, 3)


class Upsample(nn.Module):
    """Residual blocks, then twice: nearest-neighbour interpolation and a convolution, which leaves
    no checkerboard (Odena et al. 2016). (N, 3, H, W) in [0, 1] -> (N, 3, 4H, 4W)."""

    def __init__(self, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        self.head = nn.Conv2d(3 + 2, width, 3, padding=1)
        self.body = residuals(width, blocks)
        self.up1 = nn.Conv2d(width, width // 2, 3, padding=1)
        self.up2 = nn.Conv2d(width // 2, width // 4, 3, padding=1)
        self.tail = nn.Conv2d(width // 4, 3, 3, padding=1)
        _start_quiet(self.tail)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(F.leaky_relu(self.head(_placed(x)), 0.1))
        for layer in (self.up1, self.up2):
            features = F.leaky_relu(layer(F.interpolate(features, scale_factor=2.0)), 0.1)
        output: Tensor = self.tail(features)
        return enlarged(x) + output


class Attention(nn.Module):
    """Residual blocks with channel attention (Zhang et al. 2018) at the input's size and at half of
    it, then PixelShuffles. (N, 3, H, W) in [0, 1], H and W even -> (N, 3, 4H, 4W)."""

    def __init__(
        self, widths: tuple[int, int] = (64, 96), blocks: tuple[int, int] = (3, 6)
    ) -> None:
        super().__init__()
        wide, deep = widths
        self.head = nn.Conv2d(3 + 2, wide, 3, padding=1)
        self.before = nn.Sequential(*(_Attentive(wide) for _ in range(blocks[0])))
        self.down = nn.Conv2d(wide, deep, 3, stride=2, padding=1)
        self.body = nn.Sequential(*(_Attentive(deep) for _ in range(blocks[1])))
        self.from_half = nn.Conv2d(deep, 4 * wide, 1)
        self.after = nn.Sequential(*(_Attentive(wide) for _ in range(blocks[0])))
        self.up1 = nn.Conv2d(wide, 2 * wide, 3, padding=1)
        self.tail = nn.Conv2d(wide // 2, 12, 3, padding=1)
        _start_quiet(self.tail)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.before(F.leaky_relu(self.head(_placed(x)), 0.1))
        deep = self.body(F.leaky_relu(self.down(shallow), 0.1))
        features = self.after(shallow + F.pixel_shuffle(self.from_half(deep), 2))
        twice = F.leaky_relu(F.pixel_shuffle(self.up1(features), 2), 0.1)
        return enlarged(x) + F.pixel_shuffle(self.tail(twice), 2)


class _Attentive(nn.Module):
    """Two convolutions, each channel of their result weighed by what the whole picture holds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.squeeze = nn.Conv2d(width, width // 8, 1)
        self.weigh = nn.Conv2d(width // 8, width, 1)
        start_quietly(self.conv1, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.leaky_relu(self.conv1(x), 0.1))
        mean = change.mean((2, 3), keepdim=True)
        return x + change * torch.sigmoid(self.weigh(F.relu(self.squeeze(mean)))) * 2


def _placed(x: Tensor) -> Tensor:
    """The picture around zero, with two planes that tell each pixel where in the face it is."""
    height, width = x.shape[2:]
    position = face_position(4 * height, 4 * width, x)[:, :2]
    return torch.cat([x - 0.5, position.expand(x.shape[0], -1, -1, -1)], 1)


def _start_quiet(tail: nn.Conv2d) -> None:
    """An untrained network returns the enlarged input."""
    nn.init.zeros_(tail.weight)
    nn.init.zeros_(tail.bias)  # type: ignore[arg-type]
