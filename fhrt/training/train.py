"""One trainer for every system: `fhrt train NAME --data DIR [--checkpoint FILE] [--resume]`.

A system (`training/restore.py`, …) gives a network, samples and a loss. Sample j of step i depends
on the seed, i and j alone, whatever the number of devices, and a checkpoint holds networks,
average, optimisers and step: a run that was killed and resumed gives the same numbers as one that
was not.
"""

from __future__ import annotations

import copy
import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fhrt.errors import InputError, UsageError, known_names
from fhrt.runtime.torch import check_fit
from fhrt.training.adversarial import Critic, bare, channels_last
from fhrt.training.checkpoints import (
    read_checkpoint,
    starting_weights,
    write_atomically,
)
from fhrt.training.config import Config, config_of, plain, read_config
from fhrt.training.data import Dropped, summary
from fhrt.training.devices import Devices, faster_precision, open_fabric
from fhrt.training.log import Log, Reports, write_grid
from fhrt.training.muon import Muon
from fhrt.training.perceptual import build_losses

Arrays = dict[str, np.ndarray]
Batch = dict[str, Tensor]


class System(Protocol):
    """What the trainer asks of a system.

    batch_size: samples of a step, over all devices. sample: arrays of one sample. output: what
    `loss` looks at; where it is a picture, or a tuple of a picture and more, the discriminator
    looks at the picture. validation: a batch of faces that training does not see, or None. dropped:
    pictures that could not be used.
    """

    @property
    def dropped(self) -> Sequence[Dropped]: ...
    def build(self) -> nn.Module: ...
    def batch_size(self, step: int) -> int: ...
    def sample(self, step: int, rng: np.random.Generator) -> Arrays: ...
    def output(self, network: nn.Module, batch: Batch) -> Any: ...
    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, float]]: ...
    def validation(self) -> Arrays | None: ...


def systems() -> dict[str, Callable[[Path, Config], System]]:
    """Every kind of system that can be trained, by the name that configurations use."""
    from fhrt.training.detector import DetectorSystem
    from fhrt.training.gfpgan import GfpganSystem
    from fhrt.training.landmarks import LandmarkSystem
    from fhrt.training.pairs import PairSystem
    from fhrt.training.restore import RestoreSystem

    return {
        "restore": RestoreSystem,
        "pairs": PairSystem,
        "gfpgan": GfpganSystem,
        "detector": DetectorSystem,
        "landmarks": LandmarkSystem,
    }


def train(
    name: str,
    data: Path,
    output: Path,
    config: Config | None = None,
    resume: bool = False,
    reports: Reports | None = None,
    devices: Devices | None = None,
    checkpoint: Path | None = None,
) -> Path:
    """Train `name` on `data` into the folder `output`; returns the path of the weights.

    Writes output/checkpoint.pt (everything), output/NAME.pth (the averaged weights), log.csv,
    TensorBoard events, and validation/STEP.png (given | output | truth). resume: go on with
    checkpoint.pt, by the configuration that it holds, whatever `config` is. checkpoint: the weights
    to start from, in place of the configuration's `start`; see `checkpoints.starting_weights`.

    Raises UsageError for an unknown system, InputError where the data or checkpoint.pt is missing
    or is another run's, ModelError for weights to start from that are missing or do not fit.
    """
    reports, devices = reports or Reports(), devices or Devices()
    kept = output / "checkpoint.pt"
    state = read_checkpoint(kept, name) if resume else None
    if state:
        config = config_of(state["config"], str(kept))
    config = config or read_config(name)
    known = systems()
    if config.system not in known:
        raise UsageError(f"unknown system {config.system!r}{known_names(config.system, known)}")
    if kept.exists() and not resume:
        raise UsageError(f"{kept} exists: --resume goes on with it, or choose another folder")
    # before the data, which can take minutes to read
    start = None if state else starting_weights(name, config, output.parent, checkpoint)
    _keep_memory()
    if config.precision == "auto":
        config = replace(config, precision=faster_precision(devices.accelerator))
    fabric = open_fabric(config.precision, devices)
    system = known[config.system](data, config)
    if system.dropped and fabric.is_global_zero:
        reports.say(summary(system.dropped))
    if devices.minutes and not state:
        pace = fabric.broadcast(Run(name, fabric, system, config, output).pace())
        config = replace(config, steps=max(1, int(devices.minutes * 60 / pace)))
        system = known[config.system](data, config)  # what it does by the step depends on them all
    run = Run(name, fabric, system, config, output)
    if state:
        run.load(state)
    elif start:
        run.start_from(*start)
    del state, start  # as large as the network
    run.go(reports)
    return run.weights


class Run:
    """The state of one training, and its loop."""

    def __init__(
        self, name: str, fabric: Fabric, system: System, config: Config, output: Path
    ) -> None:
        self.name, self.fabric, self.system, self.config = name, fabric, system, config
        self.output, self.weights = output, output / f"{name}.pth"
        self.first = 0
        torch.manual_seed(config.seed)
        network = channels_last(system.build())
        groups = learning(network, config.rates)
        self.shares = list(groups)
        parts: list[Any] = [{"params": weights} for weights in groups.values()]
        optimiser = Muon(parts, config.learning_rate, config.weight_decay)
        self.network, self.optimiser = fabric.setup(network, optimiser)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.critic = Critic(config.adversarial, fabric) if config.adversarial else None
        self.perceive = build_losses(config.perceptual, fabric.device)

    def go(self, reports: Reports) -> None:
        """The loop, from the step where the run stands to its last."""
        config = self.config
        self.output.mkdir(parents=True, exist_ok=True)
        log = Log(self.output, self.first, reports.figures if self.fabric.is_global_zero else None)
        if not self.first:
            self.save(0)  # from here on a killed run can be resumed
        batches = self._batches(config.steps)
        for step in range(self.first, config.steps):
            with log.timed("waiting"):
                batch = next(batches)
            with log.timed("working"):
                log.add(**self.step(step, batch))
            done, last = step + 1, step + 1 == config.steps
            if last or _every(config.validate_every, done):
                log.add(**self.validate(done))
            if last or _every(config.log_every, done):
                log.write(done, rate=config.rate(step))
            if last or _every(config.checkpoint_every, done):
                self.save(done)
            if self.fabric.is_global_zero:
                reports.progress(done, config.steps)
        log.close()

    def step(self, step: int, batch: Batch) -> dict[str, float]:
        """One step of the generator, and one of the discriminator where there is one."""
        config = self.config
        # Dropout draws from this; a step draws the same whether or not the run was resumed.
        torch.manual_seed((config.seed * 1_000_003 + step) * 1_009 + self.fabric.global_rank)
        for group, share in zip(self.optimiser.param_groups, self.shares, strict=True):
            group["lr"] = share * config.rate(step)
        output = self.system.output(self.network, batch)
        loss, figures = self.system.loss(output, batch)
        figures = {"loss": float(loss.detach())} | figures
        picture = _shown(output)
        if self.critic:
            wanted, of_it = self.critic.fool(picture, batch)
            loss, figures = loss + wanted, figures | of_it
        if config.perceptual:
            wanted, of_it = self.perceive(picture, batch)
            loss, figures = loss + wanted, figures | of_it
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimiser.step()
        if self.critic:
            figures |= self.critic.learn(picture.detach(), batch)
        # A short run would be averaged with its own start: the decay grows into its final value.
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            ours = self.average.state_dict()
            for key, value in bare(self.network).state_dict().items():
                if value.is_floating_point():
                    ours[key].lerp_(value, 1 - decay)
                else:
                    ours[key].copy_(value)
        return figures | {"norm": float(norm)}

    def validate(self, step: int) -> dict[str, float]:
        """The averaged network on faces that training does not see: figures, and a picture."""
        arrays = self.system.validation() if self.fabric.is_global_zero else None
        if arrays is None:
            return {}
        batch = self._to_device(arrays)
        with torch.inference_mode():
            output = self.system.output(self.average, batch)
            _, figures = self.system.loss(output, batch)
        picture = _shown(output)
        if isinstance(picture, Tensor) and "target" in batch:
            path = self.output / "validation" / f"{step:06}.png"
            write_grid(path, batch["input"], picture, batch["target"])
        return {f"validation_{key}": value for key, value in figures.items()}

    def save(self, step: int) -> None:
        """The checkpoint and the weights, each written whole or not at all."""
        if self.fabric.is_global_zero:
            state = {
                "name": self.name,
                "config": plain(self.config),
                "step": step,
                "network": bare(self.network).state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "random": torch.get_rng_state(),
            }
            if self.critic:
                state["critic"] = bare(self.critic.network).state_dict()
                state["critic_optimiser"] = self.critic.optimiser.state_dict()
            write_atomically(self.output / "checkpoint.pt", state)
            weights = {key: v.contiguous() for key, v in self.average.state_dict().items()}
            write_atomically(self.weights, weights)
        self.fabric.barrier()

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint (`read_checkpoint`) stopped. Raises InputError."""
        try:
            bare(self.network).load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.critic:
                bare(self.critic.network).load_state_dict(state["critic"])
                self.critic.optimiser.load_state_dict(state["critic_optimiser"])
        except (KeyError, RuntimeError, ValueError) as error:
            line = str(error).splitlines()[0]
            where = self.output / "checkpoint.pt"
            raise InputError(f"{where}: does not fit the configuration: {line}") from error
        torch.set_rng_state(state["random"].cpu())
        self.first = state["step"]

    def start_from(self, origin: Path, values: dict[str, Tensor]) -> None:
        """Begin with weights that come from `origin`. Raises ModelError where they do not fit."""
        for network in (bare(self.network), self.average):
            check_fit(network, values, origin)
            network.load_state_dict(values)

    def pace(self, steps: int = 8) -> float:
        """Seconds of a step, the median after two to warm up. The run is spoilt by it."""
        times = []
        for step, batch in enumerate(self._batches(steps)):
            begun = time.monotonic()
            self.step(step, batch)
            times.append(time.monotonic() - begun)
        return float(np.median(times[2:]))

    def _batches(self, steps: int) -> Iterator[Batch]:
        """Batches from the first step on, made by threads a few steps ahead."""
        config, rank, world = self.config, self.fabric.global_rank, self.fabric.world_size

        def make(step: int) -> Arrays:
            size = self.system.batch_size(step)
            if size % world:
                raise UsageError(f"a batch of {size} cannot be shared by {world} devices")
            mine = [
                self.system.sample(step, np.random.default_rng([config.seed, step, number]))
                for number in range(rank, size, world)
            ]
            return {key: np.stack([sample[key] for sample in mine]) for key in mine[0]}

        with ThreadPoolExecutor(config.data_threads) as pool:
            ahead = 2 * config.data_threads + 1
            waiting: list[Future[Arrays]] = []
            upcoming = self.first
            for _ in range(self.first, steps):
                while upcoming < steps and len(waiting) < ahead:
                    waiting.append(pool.submit(make, upcoming))
                    upcoming += 1
                yield self._to_device(waiting.pop(0).result())

    def _to_device(self, arrays: Arrays) -> Batch:
        return {key: torch.from_numpy(v).to(self.fabric.device) for key, v in arrays.items()}


def learning(network: nn.Module, rates: dict[str, float]) -> dict[float, list[nn.Parameter]]:
    """The parameters that learn, by their share of the learning rate: that of the longest name in
    `rates` that is theirs or of a part around them, else 1. Those of share 0 are frozen. Raises
    UsageError for a name of no part, or where nothing is left."""
    of_name = dict(network.named_parameters())
    for part in rates:
        if not any(f"{name}.".startswith(f"{part}.") for name in of_name):
            parts = dict.fromkeys(name.partition(".")[0] for name in of_name)
            raise UsageError(f"[rates]: the network has no {part!r}{known_names(part, parts)}")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in of_name.items():
        around = [part for part in rates if f"{name}.".startswith(f"{part}.")]
        share = rates[max(around, key=len)] if around else 1.0
        if not share:
            weight.requires_grad_(False)
        elif weight.requires_grad:
            groups.setdefault(share, []).append(weight)
    if not groups:
        raise UsageError("[rates]: every part is frozen, and nothing could learn")
    return groups


def _shown(output: Any) -> Any:
    """The picture that the discriminator looks at, of what a system makes."""
    return output[0] if isinstance(output, tuple) else output


def _every(count: int, done: int) -> bool:
    return count > 0 and done % count == 0


def _keep_memory() -> None:
    """Let glibc keep what is freed. By default each step's large blocks go back to the system and
    come again page by page: half of a step's time on a virtual machine. Elsewhere a no-op."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mmap_max, trim_threshold = -4, -1  # malloc.h
            mallopt(mmap_max, 0)
            mallopt(trim_threshold, 2**31 - 1)
