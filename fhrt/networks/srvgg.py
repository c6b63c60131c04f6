"""SRVGGNetCompact, Real-ESRGAN's small upscaler: a plain chain of convolutions at the input's size.

Carries the keys of realesr-general-x4v3 and realesr-general-wdn-x4v3 (layers=32) and of
realesr-animevideov3 (layers=16).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SRVGG(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 3, scale·H, scale·W), not clipped.

    layers: convolutions between the first and the last.
    """

    def __init__(self, scale: int = 4, layers: int = 32, width: int = 64) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width))
        for _ in range(layers):
            self.body.extend([nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)])
        self.body.append(nn.Conv2d(width, 3 * scale**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        detail = F.pixel_shuffle(self.body(x), self.scale)
        return detail + F.interpolate(x, scale_factor=float(self.scale))


def blend(
    denoising: dict[str, Tensor], gentle: dict[str, Tensor], strength: float
) -> dict[str, Tensor]:
    """Weights between two of one network (deep network interpolation, Wang et al. 2019).

    Real-ESRGAN's denoise strength: 1 gives `denoising` (realesr-general-x4v3), 0 gives `gentle`
    (realesr-general-wdn-x4v3, which keeps noise).
    """
    return {key: strength * denoising[key] + (1 - strength) * gentle[key] for key in denoising}
