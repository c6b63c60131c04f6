"""CodeFormer (Zhou et al. 2022): a transformer reads from the damaged face which codes of a
codebook of face parts it should be made of; `w` says how much of what the picture itself shows is
mixed in.

Carries the keys of codeformer.pth. Made to be run: no gradient passes the codebook.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fhrt.errors import ModelError
from fhrt.networks.restoreformer import Codebook, Downsample, Residual, Upsample, norm

WIDTHS = (64, 128, 128, 256, 256, 512)  # at 512, 256, … 16 pixels
CODES, DEPTH = 1024, 256
CELLS, TOKEN, HEADS, LAYERS = 16 * 16, 512, 8, 9
# size: blocks of the encoder and of the generator after which the two are mixed, and their width
FUSED = {"32": (14, 9, 256), "64": (11, 12, 256), "128": (8, 15, 128), "256": (5, 18, 128)}


class CodeFormer(nn.Module):
    """(N, 3, 512, 512) RGB in [0, 1] -> the same shape, not clipped.

    w: fidelity weight in [0, 1]; 0 is made of codes alone, 1 keeps most of the picture. Raises
    ModelError for others.
    """

    def __init__(self, w: float = 0.5) -> None:
        super().__init__()
        if not 0 <= w <= 1:
            raise ModelError(f"codeformer has no fidelity weight w {w}; it lies between 0 and 1")
        self.w = w
        self.position_emb = nn.Parameter(torch.zeros(CELLS, TOKEN))
        self.encoder = Encoder()
        self.quantize = Codebook(CODES, DEPTH)
        self.generator = Generator()
        self.feat_emb = nn.Linear(DEPTH, TOKEN)
        self.ft_layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.idx_pred_layer = nn.Sequential(
            nn.LayerNorm(TOKEN), nn.Linear(TOKEN, CODES, bias=False)
        )
        self.fuse_convs_dict = nn.ModuleDict(
            {size: Fusion(width) for size, (_, _, width) in FUSED.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        picture, _, _ = self.raw(x * 2 - 1, self.w)
        return picture * 0.5 + 0.5

    def raw(self, x: Tensor, w: float, adain: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """As the checkpoint was trained: RGB in [-1, 1] in and out. Gives the picture, the scores
        of the codes (N, 256 cells by row, 1024) and the encoder's features (N, 256, 16, 16).

        adain: the codes take over the mean and the spread of the features.
        """
        features, seen = self.encoder(x)
        tokens = self.feat_emb(features.flatten(2).transpose(1, 2))
        for layer in self.ft_layers:
            tokens = layer(tokens, self.position_emb)
        logits = self.idx_pred_layer(tokens)
        codes = self.quantize.embedding(logits.argmax(2))
        codes = codes.transpose(1, 2).reshape(features.shape)
        if adain:
            codes = adopt(codes, features)
        picture = self.generator(codes, seen if w > 0 else {}, self.fuse_convs_dict, w)
        return picture, logits, features


class Encoder(nn.Module):
    """Picture -> features (N, 256, 16, 16), and what the generator can be mixed with, by size."""

    def __init__(self) -> None:
        super().__init__()
        *outer, deepest = WIDTHS
        blocks: list[nn.Module] = [nn.Conv2d(3, outer[0], 3, padding=1)]
        for before, width in pairwise((outer[0], *outer)):
            blocks += [residual(before, width), residual(width, width), Downsample(width)]
        for width in (outer[-1], deepest, deepest):
            blocks += [residual(width, deepest), Attention(deepest)]
        blocks += [residual(deepest, deepest), norm(deepest)]
        blocks += [nn.Conv2d(deepest, DEPTH, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        sizes = {block: size for size, (block, _, _) in FUSED.items()}
        seen: dict[str, Tensor] = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in sizes:
                seen[sizes[i]] = x
        return x, seen


class Generator(nn.Module):
    """Codes (N, 256, 16, 16) -> RGB in [-1, 1], mixed with what the encoder has seen."""

    def __init__(self) -> None:
        super().__init__()
        *outer, deepest = WIDTHS
        blocks: list[nn.Module] = [nn.Conv2d(DEPTH, deepest, 3, padding=1)]
        blocks += [residual(deepest, deepest), Attention(deepest), residual(deepest, deepest)]
        for _ in range(2):
            blocks += [residual(deepest, deepest), Attention(deepest)]
        for deeper, width in pairwise((deepest, *reversed(outer))):
            blocks += [Upsample(deeper), residual(deeper, width), residual(width, width)]
        blocks += [norm(outer[0]), nn.Conv2d(outer[0], 3, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x: Tensor, seen: dict[str, Tensor], fusions: nn.ModuleDict, w: float
    ) -> Tensor:
        sizes = {block: size for size, (_, block, _) in FUSED.items() if size in seen}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in sizes:
                x = fusions[sizes[i]](seen[sizes[i]], x, w)
        return x


class Layer(nn.Module):
    """A transformer layer, norms first; positions (cells, values) are added to what asks and what
    is asked, not to what is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(TOKEN, HEADS, batch_first=True)
        self.linear1 = nn.Linear(TOKEN, TOKEN * 2)
        self.linear2 = nn.Linear(TOKEN * 2, TOKEN)
        self.norm1 = nn.LayerNorm(TOKEN)
        self.norm2 = nn.LayerNorm(TOKEN)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        values = self.norm1(tokens)
        placed = values + positions
        tokens = tokens + self.self_attn(placed, placed, values, need_weights=False)[0]
        change: Tensor = self.linear2(F.gelu(self.linear1(self.norm2(tokens))))
        return tokens + change


class Fusion(nn.Module):
    """The generator's features, scaled and shifted by what they and the encoder's show together:
    the paper's controllable feature transformation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encode_enc = residual(width * 2, width)
        self.scale, self.shift = (
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(2)
        )

    def forward(self, seen: Tensor, made: Tensor, w: float) -> Tensor:
        both = self.encode_enc(torch.cat([seen, made], 1))
        change: Tensor = made * self.scale(both) + self.shift(both)
        return made + w * change


class Attention(nn.Module):
    """Attention with one head over all positions, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        asked = self.norm(x)
        # (N, one head, positions, values): ONNX has no attention without heads
        q, k, v = (
            part(asked).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v)
        )
        answers = F.scaled_dot_product_attention(q, k, v)
        change: Tensor = self.proj_out(answers.transpose(2, 3).reshape(x.shape))
        return x + change


class Widening(Residual):
    """A residual block between two widths, whose shortcut has another name in this checkpoint."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        del self.nin_shortcut
        self.conv_out = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        change: Tensor = self.conv2(F.silu(self.norm2(hidden)))
        short: Tensor = self.conv_out(x)
        return short + change


def residual(inputs: int, outputs: int) -> Residual:
    return Residual(inputs, outputs) if inputs == outputs else Widening(inputs, outputs)


def adopt(content: Tensor, style: Tensor) -> Tensor:
    """`content` (N, C, H, W) with the mean and the standard deviation of `style` in each channel
    (adaptive instance normalisation, Huang and Belongie 2017)."""
    (spread, mean), (wanted, centre) = (
        ((x.var((2, 3), keepdim=True) + 1e-5).sqrt(), x.mean((2, 3), keepdim=True))
        for x in (content, style)
    )
    return (content - mean) / spread * wanted + centre
