"""The landmark network: a second look at a found face, roughly aligned, for exact landmarks."""

from __future__ import annotations

from torch import Tensor, nn

from fhrt.networks.detector import Residual, conv

SIDE = 96  # pixels of the crop that the network looks at


class Landmarks(nn.Module):
    """(N, 3, 96, 96) RGB in [0, 1] -> (N, 5, 2): x and y of the landmarks, 0 to 1 over the crop."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 12, stride=2),
            conv(12, 20, stride=2),
            Residual(20),
            conv(20, 32, stride=2),
            Residual(32),
            conv(32, 40, stride=2),
            conv(40, 40),
        )
        # Where a feature lies is what is asked for, so nothing is pooled away.
        self.out = nn.Linear(40 * (SIDE // 16) ** 2, 10)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        places: Tensor = self.out(self.features(x - 0.5).flatten(1))
        return places.reshape(-1, 5, 2)
