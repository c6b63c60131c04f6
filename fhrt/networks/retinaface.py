"""RetinaFace (Deng et al. 2020), a face detector with anchors, over ResNet-50 or MobileNet 0.25.

Carries the keys of facexlib's detection_Resnet50_Final and detection_mobilenet0.25_Final, once
their prefix "module." is taken off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fhrt.errors import ModelError

ANCHORS = {8: (16, 32), 16: (64, 128), 32: (256, 512)}  # stride: sides of the squares, in pixels
MEAN_BGR = (104.0, 117.0, 123.0)


class RetinaFace(nn.Module):
    """(N, 3, H, W) RGB in [0, 1], any size -> (N, anchors, 15): score in [0, 1]; box x0 y0 x1 y1;
    x and y of five landmarks; in pixels of the input, as facexlib reads them. Overlapping answers
    are still to be thinned out. backbone: resnet50 or mobilenet.
    """

    def __init__(self, backbone: str = "resnet50") -> None:
        super().__init__()
        if backbone not in ("resnet50", "mobilenet"):
            raise ModelError(f"retinaface has no backbone {backbone!r}: resnet50 or mobilenet")
        large = backbone == "resnet50"
        self.body: nn.Module = ResNet50() if large else MobileNet()
        width, slope = (256, 0.0) if large else (64, 0.1)
        self.fpn = Pyramid((512, 1024, 2048) if large else (64, 128, 256), width, slope)
        self.ssh1 = Context(width, slope)
        self.ssh2 = Context(width, slope)
        self.ssh3 = Context(width, slope)
        self.ClassHead = nn.ModuleList(Head(width, 2) for _ in ANCHORS)
        self.BboxHead = nn.ModuleList(Head(width, 4) for _ in ANCHORS)
        self.LandmarkHead = nn.ModuleList(Head(width, 10) for _ in ANCHORS)

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tensor(MEAN_BGR, device=x.device, dtype=x.dtype)[:, None, None]
        boxes, scores, landmarks = self.raw(x.flip(1) * 255 - mean)
        squares = anchors(x.shape[2], x.shape[3], x)
        return decode(boxes, scores, landmarks, squares)

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As the checkpoints were trained: BGR, 0 to 255 minus MEAN_BGR -> boxes (N, anchors, 4),
        probabilities of nothing and of a face (N, anchors, 2) and landmarks (N, anchors, 10), boxes
        and landmarks relative to the anchors."""
        fine, middle, coarse = self.fpn(self.body(x))
        levels = (self.ssh1(fine), self.ssh2(middle), self.ssh3(coarse))
        boxes, scores, landmarks = (
            torch.cat([head(level) for head, level in zip(heads, levels, strict=True)], 1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead)
        )
        return boxes, scores.softmax(2), landmarks


def anchors(height: int, width: int, like: Tensor) -> Tensor:
    """The squares that answers are relative to: (anchors, 3), the centre's x and y and the side, in
    pixels; cell by cell, row by row, stride by stride."""
    every = []
    for stride, sides in ANCHORS.items():
        rows, columns = (height + stride - 1) // stride, (width + stride - 1) // stride
        y = (torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) * stride
        x = (torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) * stride
        grid = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], 2)
        grid = grid.reshape(-1, 1, 2).expand(-1, len(sides), -1)
        side = torch.tensor(sides, device=like.device, dtype=like.dtype)[None, :, None]
        every.append(torch.cat([grid, side.expand(rows * columns, -1, -1)], 2).reshape(-1, 3))
    return torch.cat(every)


def decode(boxes: Tensor, scores: Tensor, landmarks: Tensor, squares: Tensor) -> Tensor:
    """What the heads say of their anchors, in pixels: (N, anchors, 15), see RetinaFace. The factors
    are the "variances" of SSD (Liu et al. 2016): 0.1 for places, 0.2 for the logarithm of sizes."""
    centres, sides = squares[:, :2], squares[:, 2:]
    middle = centres + boxes[..., :2] * 0.1 * sides
    half = sides * torch.exp(boxes[..., 2:] * 0.2) / 2
    points = centres.repeat(1, 5) + landmarks * 0.1 * sides
    return torch.cat([scores[..., 1:], middle - half, middle + half, points], 2)


class Head(nn.Module):
    """(N, width, H, W) -> (N, anchors, values), the two anchors of a cell after each other."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(width, 2 * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.conv1x1(x)
        return answers.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class Pyramid(nn.Module):
    """Features at strides 8, 16 and 32, the coarser added to the finer (Lin et al. 2017)."""

    def __init__(self, inputs: tuple[int, int, int], width: int, slope: float) -> None:
        super().__init__()
        self.output1 = conv(inputs[0], width, 1, slope=slope)
        self.output2 = conv(inputs[1], width, 1, slope=slope)
        self.output3 = conv(inputs[2], width, 1, slope=slope)
        self.merge1 = conv(width, width, slope=slope)
        self.merge2 = conv(width, width, slope=slope)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = features
        coarse = self.output3(coarse)
        middle = self.output2(middle)
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[2:]))
        fine = self.output1(fine)
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[2:]))
        return fine, middle, coarse


class Context(nn.Module):
    """What is around a face: chains of one, two and three 3x3 convolutions (Najibi et al. 2017)."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        self.conv3X3 = conv(width, width // 2)
        self.conv5X5_1 = conv(width, width // 4, slope=slope)
        self.conv5X5_2 = conv(width // 4, width // 4)
        self.conv7X7_2 = conv(width // 4, width // 4, slope=slope)
        self.conv7x7_3 = conv(width // 4, width // 4)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv5X5_1(x)
        seen = [self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))]
        return F.relu(torch.cat(seen, 1))


class MobileNet(nn.Module):
    """MobileNet (Howard et al. 2017) at a quarter of its width; features at strides 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            conv(3, 8, stride=2, slope=0.1),
            separable(8, 16),
            separable(16, 32, 2),
            separable(32, 32),
            separable(32, 64, 2),
            separable(64, 64),
        )
        same = (separable(128, 128) for _ in range(5))
        self.stage2 = nn.Sequential(separable(64, 128, 2), *same)
        self.stage3 = nn.Sequential(separable(128, 256, 2), separable(256, 256))

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.stage1(x)
        middle = self.stage2(fine)
        return [fine, middle, self.stage3(middle)]


class ResNet50(nn.Module):
    """ResNet-50 (He et al. 2016), strides in the 3x3 convolutions; features at 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = bottlenecks(64, 64, 3, 1)
        self.layer2 = bottlenecks(256, 128, 4, 2)
        self.layer3 = bottlenecks(512, 256, 6, 2)
        self.layer4 = bottlenecks(1024, 512, 3, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        fine = self.layer2(self.layer1(x))
        middle = self.layer3(fine)
        return [fine, middle, self.layer4(middle)]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, added to the input; (N, 4·width, H/stride, W/stride)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module | None = None
        if inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        change = F.relu(self.bn1(self.conv1(x)))
        change = F.relu(self.bn2(self.conv2(change)))
        change = self.bn3(self.conv3(change))
        return F.relu(change + (x if self.downsample is None else self.downsample(x)))


def bottlenecks(inputs: int, width: int, count: int, stride: int) -> nn.Sequential:
    rest = (Bottleneck(4 * width, width, 1) for _ in range(count - 1))
    return nn.Sequential(Bottleneck(inputs, width, stride), *rest)


def conv(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, slope: float | None = None
) -> nn.Sequential:
    """Convolution and batch norm; leaky ReLU where there is a slope, of 0 a ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if slope is not None:
        layers.append(nn.LeakyReLU(slope))
    return nn.Sequential(*layers)


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution of each channel for itself, then 1x1 across the channels."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(0.1),
        *conv(inputs, outputs, 1, slope=0.1),
    )
