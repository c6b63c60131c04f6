"""The discriminator of a run: what it thinks of the generator's pictures, and how it learns."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fhrt.errors import UsageError, known_names
from fhrt.networks.discriminators import DISCRIMINATORS, Judgement
from fhrt.training.config import Adversarial
from fhrt.training.losses import feature_matching, fooled, told_apart

Batch = dict[str, Tensor]


class Critic:
    """A discriminator and its optimiser. Pictures (N, 3, H, W): made ones float in [0, 1], those
    of a batch uint8. Raises UsageError for an unknown discriminator."""

    def __init__(self, config: Adversarial, fabric: Fabric) -> None:
        kind = config.discriminator
        if kind not in DISCRIMINATORS:
            nearest = known_names(kind, DISCRIMINATORS)
            raise UsageError(f"unknown discriminator {kind!r}{nearest}")
        self.config, self.fabric = config, fabric
        network = channels_last(
            DISCRIMINATORS[kind](**{"condition": config.condition} | config.options)
        )
        steps = torch.optim.Adam(network.parameters(), config.learning_rate, (0.5, 0.999))
        self.network, self.optimiser = fabric.setup(network, steps)

    def fool(self, made: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """What the generator adds to its loss for `made`, and a figure for the log."""
        network = bare(self.network)
        network.requires_grad_(False)
        of_real, of_made = self._judge(network, made, batch)
        fooling = fooled(of_made)
        loss = self.config.weight * fooling
        if self.config.feature_matching:
            loss = loss + self.config.feature_matching * feature_matching(of_real, of_made)
        network.requires_grad_(True)
        return loss, {"fooled": float(fooling.detach())}

    def learn(self, made: Tensor, batch: Batch) -> dict[str, float]:
        """One step; returns a figure for the log."""
        loss = told_apart(*self._judge(self.network, made, batch))
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.optimiser.step()
        return {"told_apart": float(loss.detach())}

    def _judge(self, network: nn.Module, made: Tensor, batch: Batch) -> tuple[Judgement, Judgement]:
        """The discriminator on real and on made pictures, in one batch: BatchNorm would bring two
        batches to the same statistics, and with them take away what tells them apart."""
        condition = None
        if self.config.condition:
            condition = _picture(batch["input"]).repeat(2, 1, 1, 1)
        scores, features = network(torch.cat([_picture(batch["target"]), made]), condition)
        real, fake = scores.chunk(2)
        halves = [values.chunk(2) for values in features]
        return (real, [half[0] for half in halves]), (fake, [half[1] for half in halves])


def bare(network: nn.Module) -> nn.Module:
    """The module that Fabric wrapped."""
    inner = getattr(network, "module", network)
    assert isinstance(inner, nn.Module)
    return inner


def channels_last(network: nn.Module) -> nn.Module:
    """nn.Module.to does the same, but stops at weights of five dimensions, which StyleGAN2 has."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return network


def _picture(values: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> float in [0, 1]."""
    return (values.float() / 255).contiguous(memory_format=torch.channels_last)
