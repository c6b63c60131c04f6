"""AlexNet's convolutions, whose features LPIPS compares (Krizhevsky 2014, as in torchvision)."""

from __future__ import annotations

import torch
from torch import nn

# LPIPS's own scaling of RGB in [-1, 1] (richzhang/PerceptualSimilarity, ScalingLayer).
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class AlexFeatures(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> the five layers after their ReLU, finest first: 64, 192, 384,
    256 and 256 channels. H and W at least 31 (after the second pooling something must be left).

    The state dict has the keys `features.{0,3,6,8,10}` of torchvision's alexnet-owt-7be5be79.pth,
    whose classifier is not needed.
    """

    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1),
            nn.ReLU(),
        )
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def forward(self, picture: torch.Tensor) -> list[torch.Tensor]:
        x = (2 * picture - 1 - self.shift) / self.scale
        found = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found
