"""Systems that learn from pairs: a good face, and what the network is given of it.

One class serves every generator; the configuration names the network, its options and the damage.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fhrt.damage.degrade import (
    BLIND_256,
    BLIND_512,
    Blind,
    blind,
    colour_cast,
    low_light,
    motion_blur,
    thermal,
    uneven_blur,
)
from fhrt.damage.occlude import occlude
from fhrt.errors import UsageError, known_names
from fhrt.faces import TEMPLATE, TEMPLATE_SIDE, Picture
from fhrt.networks import build
from fhrt.quality.protocols import bicubic
from fhrt.training.config import Config
from fhrt.training.data import find_faces, load_faces
from fhrt.training.layouts import Source
from fhrt.training.losses import fidelity_of, psnr

Pair = tuple[Picture, Picture]  # what the network is given, and the truth
Damage = Callable[[Picture, np.random.Generator], Pair]

VALIDATION = 8  # faces that a validation pass looks at


def shrink(options: dict[str, Any]) -> Damage:
    """Pillow bicubic to `small` pixels, as the protocols sr4-256, sr4-128 and sr8-128 do."""
    small = int(options["small"])

    def make(face: Picture, rng: np.random.Generator) -> Pair:
        return bicubic(face, small), face

    return make


def occluded(options: dict[str, Any]) -> Damage:
    """All occlusions of `damage.occlude`, around the template's landmarks moved a little."""

    def make(face: Picture, rng: np.random.Generator) -> Pair:
        size = face.shape[0]
        landmarks = TEMPLATE * (size / TEMPLATE_SIDE) + rng.normal(0, 0.01 * size, 2)
        return occlude(face, landmarks + rng.normal(0, 0.006 * size, (5, 2)), rng)[0], face

    return make


def blindly(options: dict[str, Any]) -> Damage:
    """The blind damage of the protocol blind-256, from 512 pixels on of blind-512, with the ranges
    that the options give in place of its own."""
    usual = BLIND_512 if int(options.get("size", 256)) >= 512 else BLIND_256
    named = {f.name: tuple(options[f.name]) for f in fields(Blind) if f.name in options}
    ranges = replace(usual, **named)

    def make(face: Picture, rng: np.random.Generator) -> Pair:
        return blind(face, rng, ranges), face

    return make


def alone(damage: Callable[[Picture, np.random.Generator], Picture]) -> Callable[..., Damage]:
    """A damage of `damage.degrade` by itself, without options."""

    def options_of(options: dict[str, Any]) -> Damage:
        return lambda face, rng: (damage(face, rng), face)

    return options_of


# without options of a configuration
PLAIN: dict[str, Callable[[dict[str, Any]], Damage]] = {
    "motion-blur": alone(motion_blur),
    "uneven-blur": alone(uneven_blur),
    "colour-cast": alone(colour_cast),
    "low-light": alone(low_light),
    "thermal": alone(thermal),
    "blind": blindly,
}
DAMAGES: dict[str, Callable[[dict[str, Any]], Damage]] = {
    "shrink": shrink,
    "occlude": occluded,
    **PLAIN,
}


class PairSystem:
    """options: network and network_options, damage and its options, size of the truth in pixels,
    batch, fidelity (a name of `losses.FIDELITY`; charbonnier)."""

    def __init__(self, data: Path, config: Config) -> None:
        options = self.options = config.options
        damage = options["damage"]
        if damage not in DAMAGES:
            raise UsageError(f"unknown damage {damage!r}{known_names(damage, DAMAGES)}")
        self.damage, self.fidelity = DAMAGES[damage](options), fidelity_of(options)
        training, held = hold_out(find_faces(data, "train"), config.hold_out)
        size = int(options["size"])
        self.faces, self.dropped = load_faces(training, size)
        few = held[:: max(1, len(held) // VALIDATION)][:VALIDATION]
        self.held = load_faces(few, size)[0] if few else []

    def build(self) -> nn.Module:
        return build(self.options["network"], **self.options.get("network_options", {}))

    def batch_size(self, step: int) -> int:
        return int(self.options["batch"])

    def sample(self, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        face = self.faces[int(rng.integers(len(self.faces)))]
        if rng.random() < 0.5:
            face = np.ascontiguousarray(face[:, ::-1])
        return planar(*self.damage(face, rng))

    def validation(self) -> dict[str, np.ndarray] | None:
        pairs = [
            planar(*self.damage(face, np.random.default_rng(i))) for i, face in enumerate(self.held)
        ]
        return {k: np.stack([pair[k] for pair in pairs]) for k in pairs[0]} if pairs else None

    def output(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        values = (batch["input"].float() / 255).contiguous(memory_format=torch.channels_last)
        made: Tensor = network(values)
        return made

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        target = batch["target"].float() / 255
        return self.fidelity(output, target), {"psnr": psnr(output, target)}


def hold_out(sources: list[Source], share: float) -> tuple[list[Source], list[Source]]:
    """Training and validation: of the people (or pictures, where nobody is named) about `share`,
    chosen by a checksum of the name, so that what is added later moves nobody."""
    held = [zlib.crc32((s.identity or s.name).encode()) < share * 2**32 for s in sources]
    kept = [s for s, out in zip(sources, held, strict=True) if not out]
    return kept, [s for s, out in zip(sources, held, strict=True) if out]


def planar(given: Picture, truth: Picture) -> dict[str, np.ndarray]:
    """Two pictures (H, W, 3) as the arrays of a sample, (3, H, W)."""
    return {
        name: np.ascontiguousarray(picture.transpose(2, 0, 1))
        for name, picture in (("input", given), ("target", truth))
    }
