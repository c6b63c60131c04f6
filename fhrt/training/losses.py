"""Losses between pictures, (N, 3, H, W) in [0, 1], and those of a discriminator's judgement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fhrt.errors import UsageError, known_names
from fhrt.networks.discriminators import Judgement


def charbonnier(output: Tensor, target: Tensor) -> Tensor:
    """Mean of sqrt(d² + 1e-6) (Lai et al. 2017)."""
    return torch.sqrt((output - target) ** 2 + 1e-6).mean()


def psnr(output: Tensor, target: Tensor) -> float:
    """Mean over the pictures, in dB; a picture without error counts as 100 dB."""
    with torch.no_grad():
        error = ((output.clamp(0, 1) - target) ** 2).mean((1, 2, 3))
        return float(-10 * torch.log10(error + 1e-10).mean())


def negative_psnr(output: Tensor, target: Tensor) -> Tensor:
    """What `fhrt eval` averages, minus the PSNR of each picture, over 100 dB. Where much is unknown
    it asks for the mean of what could be there; an absolute error asks for the median."""
    error = ((output - target) ** 2).mean((1, 2, 3))
    return torch.log10(error + 1e-7).mean() / 10


FIDELITY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "charbonnier": charbonnier,
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "psnr": negative_psnr,
}


def fidelity_of(options: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that a configuration's option `fidelity` names. Raises UsageError."""
    name = options.get("fidelity", "charbonnier")
    if name not in FIDELITY:
        raise UsageError(f"unknown fidelity {name!r}{known_names(name, FIDELITY)}")
    return FIDELITY[name]


def fooled(judgement: Judgement) -> Tensor:
    """The generator's loss: the score of its picture should be that of a real one (the
    non-saturating form of Goodfellow et al. 2014, binary cross-entropy with logits)."""
    return F.softplus(-judgement[0]).mean()


def told_apart(real: Judgement, made: Judgement) -> Tensor:
    """The discriminator's loss: binary cross-entropy over real and made pictures."""
    return (F.softplus(-real[0]).mean() + F.softplus(made[0]).mean()) / 2


def feature_matching(real: Judgement, made: Judgement) -> Tensor:
    """L1 between the discriminator's features of both, the mean over its layers (Wang et al.
    2018)."""
    pairs = zip(real[1], made[1], strict=True)
    distances = [F.l1_loss(b, a.detach()) for a, b in pairs]
    return torch.stack(distances).mean()
