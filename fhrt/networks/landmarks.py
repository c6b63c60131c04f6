"""The landmark network: a second look at a found face, roughly aligned, for exact landmarks.

A heat map a landmark, whose centre of mass is the answer (integral regression, Sun et al. 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fhrt.networks.detector import Residual, conv

SIDE = 112  # pixels of the crop that the network looks at
CELLS = SIDE // 4


class Landmarks(nn.Module):
    """(N, 3, 112, 112) RGB in [0, 1] -> (N, 5, 2): x and y of the landmarks, 0 to 1 over the crop,
    left eye, right eye, nose, left and right mouth corner as seen in the picture."""

    line: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.at4 = nn.Sequential(conv(3, 16, stride=2), conv(16, 24, stride=2), Residual(24))
        self.at8 = nn.Sequential(conv(24, 40, stride=2), Residual(40))
        self.at16 = nn.Sequential(conv(40, 40, stride=2), conv(40, 40))
        self.side8 = conv(40, 24, 1)
        self.side16 = conv(40, 40, 1)
        self.head = nn.Sequential(Residual(24), nn.Conv2d(24, 5, 1))
        line = (torch.arange(CELLS, dtype=torch.float32) + 0.5) / CELLS
        self.register_buffer("line", line, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        at4 = self.at4(x - 0.5)
        at8 = self.at8(at4)
        top8 = at8 + F.interpolate(self.side16(self.at16(at8)), scale_factor=2.0)
        heat = self.head(at4 + F.interpolate(self.side8(top8), scale_factor=2.0))
        share = torch.softmax(heat.flatten(2), 2).reshape(-1, 5, CELLS, CELLS)
        places = [(share.sum(2) * self.line).sum(2), (share.sum(3) * self.line).sum(2)]
        return torch.stack(places, 2)
