"""VGG19's convolutions, whose features a content loss compares (Simonyan and Zisserman 2015, as in
torchvision)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# ImageNet's mean and deviation of RGB in [0, 1], which torchvision trained it with.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

# Channels of the 3x3 convolutions; between two rows the picture is halved.
LAYERS = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


class VggFeatures(nn.Module):
    """(N, 3, H, W) RGB in [0, 1] -> (N, 512, H/16, W/16): the fourth convolution of the fifth row,
    conv5_4, before its activation. H and W at least 16.

    The state dict has the keys `features.{0,2,5,…,34}` of torchvision's vgg19-dcbb9e9d.pth, whose
    classifier is not needed.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for row in LAYERS:
            for channels in row:
                # in place: the activation's input is not needed again, and it is large
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU(inplace=True)]
                before = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-2])
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        features: Tensor = self.features((picture - self.mean) / self.deviation)
        return features
