"""What a training run is made of: a TOML of `training/configs`, or one of the user's own."""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from fhrt.errors import UsageError, known_names

CONFIGS = Path(__file__).parent / "configs"
SCHEDULES = ("linear", "cosine", "exponential")
PRECISIONS = ("auto", "fp32", "bf16")
Section = TypeVar("Section")


@dataclass(frozen=True)
class Adversarial:
    """A discriminator beside the generator, and what its judgement weighs against fidelity.

    weight: of the adversarial loss, binary cross-entropy with logits, beside a fidelity of 1.
    feature_matching: of the L1 distance of the discriminator's features (Wang et al. 2018).
    condition: the discriminator also sees what the generator was given.
    """

    discriminator: str
    weight: float
    learning_rate: float = 2e-4
    feature_matching: float = 0.0
    condition: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Perceptual:
    """A loss over what a fixed network sees in a picture; see `perceptual.KINDS`.

    kind: identity or content. weight: beside a fidelity of 1. file: the network's weights, a .pth
    file or a name of `fhrt models pull`.
    """

    kind: str
    weight: float
    file: str


@dataclass(frozen=True)
class Config:
    """A training run.

    system: a name of `train.systems`. start: weights to start from, a name of `fhrt models` or a
    path. batch sizes are those of all devices together. schedule: how the learning rate falls to
    (nearly) zero over the last `decay` share of the steps, after `warmup` steps of rising. rates:
    by the name of a part of the network, its share of the learning rate; 0 freezes it. ema: decay
    of the average of the weights, which is what is kept. clip: largest gradient norm.
    precision: auto, fp32 or bf16. hold_out: share of the people that only validation sees. A value
    of 0 for checkpoint_every, validate_every or log_every means: at the end only. options: the
    system's own.
    """

    system: str
    steps: int
    learning_rate: float
    start: str = ""
    warmup: int = 200
    schedule: str = "linear"
    decay: float = 0.4
    weight_decay: float = 1e-4
    ema: float = 0.999
    clip: float = 1.0
    precision: str = "auto"
    seed: int = 0
    data_threads: int = 1
    hold_out: float = 0.02
    checkpoint_every: int = 500
    validate_every: int = 500
    log_every: int = 100
    adversarial: Adversarial | None = None
    perceptual: tuple[Perceptual, ...] = ()
    rates: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part, share in self.rates.items():
            if not isinstance(share, (int, float)) or not 0 <= share < math.inf:
                raise UsageError(f"[rates]: {part} = {share!r} is no share of the learning rate")
        for word, known in ((self.schedule, SCHEDULES), (self.precision, PRECISIONS)):
            if word not in known:
                raise UsageError(f"unknown word {word!r}{known_names(word, known)}")

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        rising = (step + 1) / max(1, self.warmup)
        left = min(1.0, (self.steps - step) / max(1.0, self.steps * self.decay))
        falling = {
            "linear": left,
            "cosine": (1 - math.cos(math.pi * left)) / 2,
            "exponential": 0.01 ** (1 - left),
        }[self.schedule]
        return float(self.learning_rate * min(1.0, rising, falling))


def read_config(name: str, path: Path | None = None) -> Config:
    """The TOML of a run. Raises UsageError for an unknown name, key or word."""
    if path is None and name not in names():
        raise UsageError(f"no training configuration {name!r}{known_names(name, names())}")
    path = path or CONFIGS / f"{name}.toml"
    if not path.is_file():
        raise UsageError(f"{path}: no such configuration")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: no TOML: {error}") from error
    return config_of(values, str(path))


def config_of(values: dict[str, Any], origin: str) -> Config:
    """A Config from plain values, as a TOML or a checkpoint holds them."""
    values = dict(values)
    if values.get("adversarial"):
        values["adversarial"] = _section(
            Adversarial, values["adversarial"], f"{origin}: [adversarial]"
        )
    sections, where = values.get("perceptual", ()), f"{origin}: [[perceptual]]"
    if not isinstance(sections, (list, tuple)):
        raise UsageError(f"{where} is a list of sections, in double brackets")
    values["perceptual"] = tuple(_section(Perceptual, section, where) for section in sections)
    return _section(Config, values, origin)


def plain(config: Config) -> dict[str, Any]:
    """The inverse of `config_of`."""
    return asdict(config)


def names() -> list[str]:
    """The bundled configurations."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def _section(kind: type[Section], values: dict[str, Any], origin: str) -> Section:
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise UsageError(f"{origin}: unknown key {key!r}{known_names(key, known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(f"{origin}: {error}") from error
