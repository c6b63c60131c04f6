"""RestoreFormer (Wang et al. 2022): a face is looked up in a codebook of face parts, and attention
asks the codes with what the picture shows.

Carries the keys of RestoreFormer.pth of the GFPGAN release. Made to be run: no gradient passes the
codebook.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8


class RestoreFormer(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> the same shape, not clipped; H and W multiples of 32, made for
    512.

    widths: channels at 1/1, 1/2, 1/4, … of the size, multiples of 32; the last has attention.
    codes: entries of the codebook, of `depth` values each.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (64, 128, 128, 256, 256, 512),
        codes: int = 1024,
        depth: int = 256,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(widths, depth)
        self.decoder = Decoder(widths, depth)
        self.quantize = Codebook(codes, depth)
        self.quant_conv = nn.Conv2d(depth, depth, 1)
        self.post_quant_conv = nn.Conv2d(depth, depth, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.raw(x * 2 - 1) * 0.5 + 0.5

    def raw(self, x: Tensor) -> Tensor:
        """As the checkpoint was trained: RGB in [-1, 1] in and out."""
        features, early, late = self.encoder(x)
        nearest = self.quantize(self.quant_conv(features))
        restored: Tensor = self.decoder(self.post_quant_conv(nearest), early, late)
        return restored


class Encoder(nn.Module):
    """Picture -> what the codebook is asked for (N, depth, H/32, W/32), and the features before and
    after the attention in the middle, with which the decoder's attention asks."""

    def __init__(self, widths: tuple[int, ...], depth: int) -> None:
        super().__init__()
        *outer, deepest = widths
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for before, width in pairwise((widths[0], *outer)):
            self.down.append(Level(before, width, 2, down=True))
        self.down.append(Level(outer[-1], deepest, 2, attention=True))
        self.mid = Middle(deepest)
        self.norm_out = norm(deepest)
        self.conv_out = nn.Conv2d(deepest, depth, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        early, late = self.mid(x)
        return self.conv_out(F.silu(self.norm_out(late))), early, late


class Decoder(nn.Module):
    """Codes (N, depth, h, w) and the encoder's features -> RGB in [-1, 1], 32 times as large."""

    def __init__(self, widths: tuple[int, ...], depth: int) -> None:
        super().__init__()
        *outer, deepest = widths
        self.conv_in = nn.Conv2d(depth, deepest, 3, padding=1)
        self.mid = Middle(deepest)
        self.up = nn.ModuleList()
        for number, (width, deeper) in enumerate(pairwise(widths)):
            self.up.append(Level(deeper, width, 3, up=number > 0))
        self.up.append(Level(deepest, deepest, 3, up=True, attention=True))
        self.norm_out = norm(outer[0])
        self.conv_out = nn.Conv2d(outer[0], 3, 3, padding=1)

    def forward(self, codes: Tensor, early: Tensor, late: Tensor) -> Tensor:
        _, x = self.mid(self.conv_in(codes), late)
        for level in reversed(self.up):
            x = level(x, early)
        restored: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return restored


class Codebook(nn.Module):
    """Each cell of (N, depth, h, w) becomes the nearest of the codes."""

    def __init__(self, codes: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, depth)

    def forward(self, x: Tensor) -> Tensor:
        codes = self.embedding.weight
        cells = x.permute(0, 2, 3, 1)
        # |cell − code|² but for |cell|², which is the same for all codes
        distance = codes.square().sum(1) - 2 * cells @ codes.T
        nearest: Tensor = self.embedding(distance.argmin(3))
        return nearest.permute(0, 3, 1, 2)


class Level(nn.Module):
    """Residual blocks at one size, each followed by attention where there is some; then to half or
    twice the size where it is said. `asking`: see Attention."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        attention: bool = False,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            Residual(inputs if i == 0 else outputs, outputs) for i in range(blocks)
        )
        self.attn = nn.ModuleList(Attention(outputs) for _ in range(blocks if attention else 0))
        self.downsample = Downsample(outputs) if down else None
        self.upsample = Upsample(outputs) if up else None

    def forward(self, x: Tensor, asking: Tensor | None = None) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x, asking)
        for resample in (self.downsample, self.upsample):
            if resample is not None:
                x = resample(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block; gives the first one's features and its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = Residual(width, width)
        self.attn_1 = Attention(width)
        self.block_2 = Residual(width, width)

    def forward(self, x: Tensor, asking: Tensor | None = None) -> tuple[Tensor, Tensor]:
        early = self.block_1(x)
        return early, self.block_2(self.attn_1(early, asking))


class Attention(nn.Module):
    """Multi-head attention over all positions, added to the input: x asks itself, or, as the paper
    has it for degraded pictures, `asking` asks x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = norm(width)
        self.norm2 = norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, asking: Tensor | None = None) -> Tensor:
        asked = self.norm1(x)
        asking = asked if asking is None else self.norm2(asking)
        # (N, heads, positions, values)
        q, k, v = (
            planes.unflatten(1, (HEADS, -1)).flatten(3).transpose(2, 3)
            for planes in (self.q(asking), self.k(asked), self.v(asked))
        )
        answers = F.scaled_dot_product_attention(q, k, v)
        change: Tensor = self.proj_out(answers.transpose(2, 3).reshape(x.shape))
        return x + change


class Residual(nn.Module):
    """Twice: group norm, SiLU, 3x3 convolution; added to the input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        change: Tensor = self.conv2(F.silu(self.norm2(hidden)))
        short: Tensor = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return short + change


class Downsample(nn.Module):
    """To half the size; padded at the right and the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """To twice the size: nearest neighbour and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0))
        return doubled


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)
