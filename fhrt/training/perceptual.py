"""Losses over what fixed networks see in two pictures: whose face it is, and what is in it.

A configuration asks for them in sections [[perceptual]]; the networks are the user's own files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fhrt.errors import UsageError, known_names
from fhrt.faces import TEMPLATE, TEMPLATE_SIDE, Matrix, similarity
from fhrt.networks.mobilefacenet import MobileFaceNet
from fhrt.networks.vgg import VggFeatures
from fhrt.quality.backbones import find
from fhrt.quality.identity import ARCFACE, SIDE
from fhrt.runtime.torch import load_layers
from fhrt.training.config import Perceptual

Batch = dict[str, Tensor]
Comparison = Callable[[nn.Module, Tensor, Tensor], Tensor]  # network, output, target -> loss
Losses = Callable[[Tensor, Batch], tuple[Tensor, dict[str, float]]]

# SRGAN's: it brings the features' error near that of pixels.
FEATURES = 12.75


def build_losses(sections: Sequence[Perceptual], device: torch.device) -> Losses:
    """One loss of several: (output, batch) -> their weighted sum, and each one's value by its kind.

    output: (N, 3, H, W) in [0, 1]; batch["target"]: the truth, uint8 of that shape. The gradient
    reaches the output alone. Raises UsageError for an unknown kind, or a name that `fhrt models
    pull` does not know; ModelError for a file that is missing or is not of that network. The call
    raises UsageError where there are no pictures, or parts of faces for identity.
    """
    losses = []
    for section in sections:
        if section.kind not in KINDS:
            near = known_names(section.kind, KINDS)
            raise UsageError(f"[[perceptual]]: unknown kind {section.kind!r}{near}")
        build, compare = KINDS[section.kind]
        network, file = build(), section.file
        load_layers(network, Path(file) if file.endswith(".pth") else find(file), section.kind)
        losses.append((section, network.eval().requires_grad_(False).to(device), compare))

    def perceive(output: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        if "target" not in batch:
            raise UsageError("[[perceptual]] compares pictures, and this system makes none")
        target = batch["target"].float() / 255
        total, figures = torch.zeros((), device=output.device), {}
        for section, network, compare in losses:
            if section.kind == "identity":
                _need_whole_faces(batch)
            loss = compare(network, output, target)
            total = total + section.weight * loss
            figures[section.kind] = float(loss.detach())
        return total, figures

    return perceive


def identity_loss(network: nn.Module, output: Tensor, target: Tensor) -> Tensor:
    """1 minus the cosine between the embeddings, the mean over the faces; 0 to 2."""
    with torch.no_grad():
        wanted = network(to_arcface(target))
    return 1 - F.cosine_similarity(network(to_arcface(output)), wanted).mean()


def content_loss(network: nn.Module, output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of features divided by 12.75 (Ledig et al. 2017, VGG5,4). Theirs are
    taken after the activation; before it they say more (Wang et al. 2018, ESRGAN)."""
    with torch.no_grad():
        wanted = network(target)
    return F.mse_loss(network(output), wanted) / FEATURES**2


KINDS: dict[str, tuple[Callable[[], nn.Module], Comparison]] = {
    "identity": (MobileFaceNet, identity_loss),
    "content": (VggFeatures, content_loss),
}


def to_arcface(faces: Tensor) -> Tensor:
    """Aligned crops (N, 3, S, S) -> (N, 3, 112, 112) on the ArcFace template, by the similarity of
    the two templates; differentiable.

    Where it shrinks, each pixel is the mean of several samples, spread evenly over its area.
    """
    count, channels, side, _ = faces.shape
    from_template = _from_arcface(side)
    step = float(np.hypot(*from_template[0, :2])) * side / SIDE  # of the crop's pixels
    finer = max(1, math.ceil(step))
    theta = torch.from_numpy(from_template).to(faces).expand(count, 2, 3)
    size = [count, channels, finer * SIDE, finer * SIDE]
    grid = F.affine_grid(theta, size, align_corners=False)
    return F.avg_pool2d(F.grid_sample(faces, grid, align_corners=False), finer)


def _from_arcface(side: int) -> Matrix:
    """(2, 3): from the 112-pixel ArcFace crop to the aligned crop of `side` pixels, both from -1 to
    1 between their outer edges, as torch's grids have them."""
    aligned = (2 * TEMPLATE * (side / TEMPLATE_SIDE) + 1) / side - 1
    matrix: Matrix = cv2.invertAffineTransform(similarity(aligned, (2 * ARCFACE + 1) / SIDE - 1))
    return matrix


def _need_whole_faces(batch: Batch) -> None:
    """Raises UsageError for samples that are parts of faces (`restore` says where they lie)."""
    height, width = batch["target"].shape[-2:]
    # the third plane of `networks.restore.face_position` is 256 / size of the whole face
    whole = "position" not in batch or bool((batch["position"][:, 2] * width > 255.5).all())
    if height != width or not whole:
        raise UsageError(
            "[[perceptual]] identity looks at whole faces, and these samples are parts of them: "
            "for `restore`, crops of 256 and shares = [1, 0, 0]"
        )
