"""One trainer for every system: `fhrt train NAME --data DIR [--config FILE] [--resume]`.

A system (`training/restore.py`, …) gives a network, batches and a loss. Batch number i depends on
the seed and i alone, and a checkpoint holds network, average, optimiser and step: a run that was
killed and resumed gives the same numbers as one that was not.
"""

from __future__ import annotations

import csv
import ctypes
import os
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fhrt.errors import InputError, UsageError, known_names
from fhrt.training.muon import Muon

CONFIGS = Path(__file__).parent / "configs"


class System(Protocol):
    """What the trainer asks of a system."""

    def build(self) -> nn.Module: ...
    def batch(self, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]: ...
    def loss(
        self, network: nn.Module, batch: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, float]]: ...


@dataclass(frozen=True)
class Config:
    """A training run. The learning rate warms up, stays, and falls linearly to zero at the end.

    decay: the share of the steps, at the end, over which the rate falls. ema: decay of the average
    of the weights, which is what is kept. clip: largest gradient norm. options: the system's own.
    """

    system: str
    steps: int
    learning_rate: float
    warmup: int = 200
    decay: float = 0.4
    weight_decay: float = 1e-4
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    data_threads: int = 1
    checkpoint_every: int = 500
    log_every: int = 100
    options: dict[str, Any] = field(default_factory=dict)

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        rising = (step + 1) / max(1, self.warmup)
        falling = (self.steps - step) / max(1.0, self.steps * self.decay)
        return self.learning_rate * min(1.0, rising, falling)


def read_config(name: str, path: Path | None = None) -> Config:
    """The TOML of a run. Raises UsageError for an unknown name or key."""
    path = path or CONFIGS / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in CONFIGS.glob("*.toml"))
        raise UsageError(f"no training configuration {path}{known_names(name, known)}")
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    known_keys = [f.name for f in fields(Config)]
    for key in values:
        if key not in known_keys:
            raise UsageError(f"{path}: unknown key {key!r}{known_names(key, known_keys)}")
    return Config(**values)


def systems() -> dict[str, Callable[[Path, dict[str, Any]], System]]:
    """Every system that can be trained, by name."""
    from fhrt.training.detector import DetectorSystem
    from fhrt.training.landmarks import LandmarkSystem
    from fhrt.training.restore import RestoreSystem

    return {"restore": RestoreSystem, "detector": DetectorSystem, "landmarks": LandmarkSystem}


def train(
    name: str,
    data: Path,
    output: Path,
    config: Config | None = None,
    resume: bool = False,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> Path:
    """Train system `name` on `data` into the folder `output`; returns the path of the weights.

    Writes output/checkpoint.pt (everything), output/NAME.pth (the averaged weights) and
    output/log.csv. `report` is called with the step and its figures every `log_every` steps.
    Raises UsageError for an unknown system, InputError where the data or the checkpoint is missing.
    """
    config = config or read_config(name)
    known = systems()
    if config.system not in known:
        raise UsageError(f"unknown system {config.system!r}{known_names(config.system, known)}")
    output.mkdir(parents=True, exist_ok=True)
    checkpoint, weights = output / "checkpoint.pt", output / f"{name}.pth"
    if checkpoint.exists() and not resume:
        raise UsageError(f"{checkpoint} exists: --resume goes on with it, or choose another folder")
    if resume and not checkpoint.exists():
        raise InputError(f"{checkpoint}: nothing to resume")

    _keep_memory()
    torch.manual_seed(config.seed)
    system = known[config.system](data, config.options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = system.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {key: value.clone() for key, value in network.state_dict().items()}
    optimiser = Muon(network.parameters(), config.learning_rate, config.weight_decay)
    first = 0
    if resume:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        average, first = state["average"], state["step"]

    def save(step: int) -> None:
        write_atomically(
            checkpoint,
            {
                "config": asdict(config),
                "step": step,
                "network": network.state_dict(),
                "average": average,
                "optimiser": optimiser.state_dict(),
            },
        )
        write_atomically(weights, {key: value.contiguous() for key, value in average.items()})

    log = _Log(output / "log.csv", report)
    started = time.monotonic()
    for step, arrays in _prefetched(system, config, first):
        for group in optimiser.param_groups:
            group["lr"] = config.rate(step)
        batch = {key: torch.from_numpy(value).to(device) for key, value in arrays.items()}
        loss, figures = system.loss(network, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimiser.step()
        # A short run would be averaged with its own start: the decay grows into its final value.
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, value in network.state_dict().items():
                if value.is_floating_point():
                    average[key].lerp_(value, 1 - decay)
                else:
                    average[key].copy_(value)
        log.add(loss=float(loss.detach()), norm=float(norm), **figures)
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            seconds = (time.monotonic() - started) / (done - first)
            log.write(done, rate=config.rate(step), seconds_a_step=seconds)
        if done % config.checkpoint_every == 0 or done == config.steps:
            save(done)
    return weights


def _keep_memory() -> None:
    """Let glibc keep what is freed. By default each step's large blocks go back to the system and
    come again page by page: half of a step's time on a virtual machine. Elsewhere a no-op."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mmap_max, trim_threshold = -4, -1  # malloc.h
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, 2**31 - 1)


def write_atomically(path: Path, state: dict[str, Any]) -> None:
    """torch.save beside the path, flushed to the disk, then renamed onto it."""
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _prefetched(
    system: System, config: Config, first: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Batches from step `first` on, made by threads a few steps ahead."""

    def make(step: int) -> dict[str, np.ndarray]:
        return system.batch(step, np.random.default_rng([config.seed, step]))

    with ThreadPoolExecutor(config.data_threads) as pool:
        ahead = 2 * config.data_threads + 1
        waiting: list[Future[dict[str, np.ndarray]]] = []
        upcoming = first
        for step in range(first, config.steps):
            while upcoming < config.steps and len(waiting) < ahead:
                waiting.append(pool.submit(make, upcoming))
                upcoming += 1
            yield step, waiting.pop(0).result()


class _Log:
    """Means of the figures since the last line, to a CSV file and a callback."""

    def __init__(self, path: Path, report: Callable[[int, dict[str, float]], None] | None) -> None:
        self.path, self.report = path, report
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, **figures: float) -> None:
        self.count += 1
        for key, value in figures.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def write(self, step: int, **extra: float) -> None:
        line = {key: value / self.count for key, value in self.sums.items()} | extra
        fresh = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", *line])
            writer.writerow([step, *(f"{value:.6g}" for value in line.values())])
        if self.report:
            self.report(step, line)
        self.sums, self.count = {}, 0
