"""GFPGAN v1 "clean" (Wang et al. 2021): a U-Net steers a StyleGAN2 generator through spatial
feature transforms. Carries the keys of GFPGANCleanv1-NoCE-C2, GFPGANv1.3 and GFPGANv1.4.

Unlike the official `enhance`, which draws noise at every call, it is deterministic: the noise is
that stored in the checkpoint.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GFPGAN(nn.Module):
    """(N, 3, S, S) RGB in [0, 1] -> the same shape, not clipped; S is out_size and no other.

    out_size: a power of two, 8 and up. channel_multiplier: of the features at 64 pixels and finer.
    narrow: share of the published widths. style: values of a style code.
    """

    def __init__(
        self,
        out_size: int = 512,
        channel_multiplier: float = 2,
        narrow: float = 1.0,
        style: int = 512,
    ) -> None:
        super().__init__()
        sizes = [2**power for power in range(2, out_size.bit_length())]  # 4, 8, … out_size
        widths = [round(narrow * min(512, channel_multiplier * 16384 / s)) for s in sizes[4:]]
        widths = [round(narrow * 512)] * len(sizes[:4]) + widths
        # the U-Net has half of the generator's width: SFT changes half of the channels
        at = [width // 2 for width in widths]
        levels = range(1, len(sizes))

        self.conv_body_first = nn.Conv2d(3, at[-1], 1)
        self.conv_body_down = nn.ModuleList(Halving(at[i], at[i - 1]) for i in reversed(levels))
        self.final_conv = nn.Conv2d(at[0], at[0], 3, padding=1)
        self.final_linear = nn.Linear(at[0] * 16, 2 * len(sizes) * style)
        self.conv_body_up = nn.ModuleList(Doubling(at[i - 1], at[i]) for i in levels)
        self.toRGB = nn.ModuleList(nn.Conv2d(at[i], 3, 1) for i in levels)
        self.stylegan_decoder = Generator(sizes, widths, style)
        self.condition_scale = nn.ModuleList(_condition(at[i], 1.0) for i in levels)
        self.condition_shift = nn.ModuleList(_condition(at[i], 0.0) for i in levels)
        self.style = style

    def forward(self, x: Tensor) -> Tensor:
        image, _ = self.raw(x * 2 - 1)
        return image * 0.5 + 0.5

    def raw(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As the checkpoints were trained: RGB in [-1, 1] in and out. Beside the picture, what the
        U-Net alone makes of it at 8, 16, … S pixels, which a training loss can look at."""
        features = F.leaky_relu(self.conv_body_first(x), 0.2)
        skips: list[Tensor] = []
        for down in self.conv_body_down:
            features = down(features)
            skips.append(features)
        features = F.leaky_relu(self.final_conv(features), 0.2)
        styles = self.final_linear(features.flatten(1)).unflatten(1, (-1, self.style))

        conditions: list[tuple[Tensor, Tensor]] = []
        rgbs: list[Tensor] = []
        for i, up in enumerate(self.conv_body_up):
            features = up(features + skips.pop())
            conditions.append(
                (self.condition_scale[i](features), self.condition_shift[i](features))
            )
            rgbs.append(self.toRGB[i](features))
        return self.stylegan_decoder(styles, conditions), rgbs


class Halving(nn.Module):
    """Residual block to half the size. (N, inputs, H, W) -> (N, outputs, H/2, W/2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # bilinear interpolation at half the size reads the middle of four pixels: their mean
        change = F.avg_pool2d(F.leaky_relu(self.conv1(x), 0.2), 2)
        short: Tensor = self.skip(F.avg_pool2d(x, 2))
        return short + F.leaky_relu(self.conv2(change), 0.2)


class Doubling(nn.Module):
    """Residual block to twice the size. (N, inputs, H, W) -> (N, outputs, 2H, 2W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        change = _doubled(F.leaky_relu(self.conv1(x), 0.2))
        # the 1x1 convolution before the interpolation: the same result for a quarter of the work
        return _doubled(self.skip(x)) + F.leaky_relu(self.conv2(change), 0.2)


class Generator(nn.Module):
    """StyleGAN2 (Karras et al. 2020) without its blur filters, a level of two convolutions a size.

    styles (N, 2·sizes, style); conditions: scale and shift (N, width/2, s, s) for each size from 8
    on -> (N, 3, S, S) in [-1, 1].
    """

    def __init__(self, sizes: list[int], widths: list[int], style: int) -> None:
        super().__init__()
        # The mapping network is in the checkpoints, but the U-Net makes its codes without it.
        self.style_mlp = nn.Sequential(nn.Identity())
        for _ in range(8):
            self.style_mlp.extend([nn.Linear(style, style), nn.LeakyReLU(0.2)])
        self.constant_input = nn.ParameterDict({"weight": torch.randn(1, widths[0], 4, 4)})
        self.style_conv1 = StyledConv(widths[0], widths[0], style)
        self.to_rgb1 = ToRGB(widths[0], style)
        self.style_convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        self.noises = nn.Module()
        self.noises.register_buffer("noise0", torch.randn(1, 1, 4, 4))
        for i, size in enumerate(sizes[1:]):
            before, width = widths[i : i + 2]
            self.style_convs.append(StyledConv(before, width, style, enlarge=True))
            self.style_convs.append(StyledConv(width, width, style))
            self.to_rgbs.append(ToRGB(width, style))
            for number in (2 * i + 1, 2 * i + 2):
                self.noises.register_buffer(f"noise{number}", torch.randn(1, 1, size, size))

    def forward(self, styles: Tensor, conditions: list[tuple[Tensor, Tensor]]) -> Tensor:
        noises = [self.noises.get_buffer(f"noise{i}") for i in range(2 * len(conditions) + 1)]
        x = self.constant_input["weight"].expand(styles.shape[0], -1, -1, -1)
        x = self.style_conv1(x, styles[:, 0], noises[0])
        rgb: Tensor = self.to_rgb1(x, styles[:, 1])
        for level, (scale, shift) in enumerate(conditions):
            i = 2 * level + 1
            x = self.style_convs[i - 1](x, styles[:, i], noises[i])
            # spatial feature transform (Wang et al. 2018) of the second half of the channels; the
            # first is left to the generator's own idea of a face
            own, steered = x.chunk(2, 1)
            x = torch.cat([own, steered * scale + shift], 1)
            x = self.style_convs[i](x, styles[:, i + 1], noises[i + 1])
            rgb = self.to_rgbs[level](x, styles[:, i + 2], rgb)
        return rgb


class ModulatedConv(nn.Module):
    """Convolution whose weights a style code scales: by input channel, and then, if `demodulate`,
    each output channel back to the variance of its input (Karras et al. 2020, section 2.2), times
    √2 for the leaky ReLU that follows.

    Written with scaled features instead of scaled weights: the same product, but one set of weights
    for the whole batch, which every runtime has a fast convolution for. Demodulation takes the size
    of the style out again, so it is brought to 1 first, and the features stay in fp16's range.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, style: int, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.demodulate = demodulate
        self.demodulation = Demodulation()
        scale = 1 / math.sqrt(inputs * size**2)
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, size, size) * scale)
        self.modulation = nn.Linear(style, inputs)
        nn.init.ones_(self.modulation.bias)

    def forward(self, x: Tensor, style: Tensor, enlarge: bool = False) -> Tensor:
        weight = self.weight[0]
        scale: Tensor = self.modulation(style)
        largest = scale.abs().amax(1, keepdim=True)
        if self.demodulate:
            scale = scale / largest
        x = x * scale[:, :, None, None]
        if enlarge:
            x = _doubled(x)
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            x = x * self.demodulation(weight, scale, largest).to(x.dtype)[:, :, None, None]
        return x


class Demodulation(nn.Module):
    """The gain (N, outputs) that undoes what the weight (outputs, inputs, k, k) and the style scale
    (N, inputs), which was divided by `largest` (N, 1), did to the variance; times √2.

    A module of its own because it has to stay fp32: fp16 has no room for these squares, and the
    work is next to nothing.
    """

    def forward(self, weight: Tensor, scale: Tensor, largest: Tensor) -> Tensor:
        squares = weight.float().square().sum((2, 3))
        # a sum and no product of matrices, which TensorRT-RTX has no fp32 one of for Turing
        energy = (scale.float().square()[:, None] * squares).sum(2)
        energy = energy + (1e-4 / largest.float()).square()
        return math.sqrt(2) * torch.rsqrt(energy)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style: int, enlarge: bool = False) -> None:
        super().__init__()
        self.enlarge = enlarge
        self.weight = nn.Parameter(torch.zeros(1))  # strength of the noise
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))
        self.modulated_conv = ModulatedConv(inputs, outputs, 3, style)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        x = self.modulated_conv(x, style, self.enlarge)
        return F.leaky_relu(x + (self.weight * noise + self.bias), 0.2)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, and bias; added to the coarser picture."""

    def __init__(self, inputs: int, style: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.modulated_conv = ModulatedConv(inputs, 3, 1, style, demodulate=False)

    def forward(self, x: Tensor, style: Tensor, coarser: Tensor | None = None) -> Tensor:
        rgb: Tensor = self.modulated_conv(x, style) + self.bias
        return rgb if coarser is None else rgb + _doubled(coarser)


def _condition(width: int, start: float) -> nn.Sequential:
    """The scales or shifts of a level; untrained they are about `start`."""
    last = nn.Conv2d(width, width, 3, padding=1)
    nn.init.constant_(last.bias, start)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), last)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")
