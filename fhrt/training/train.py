"""One trainer for every system: `fhrt train NAME --data DIR [--config FILE] [--resume]`.

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from fhrt.errors import InputError, UsageError, known_names
from fhrt.networks.discriminators import DISCRIMINATORS, Judgement
from fhrt.runtime.torch import load_weights
from fhrt.training.checkpoints import read_checkpoint, write_atomically
from fhrt.training.config import Config, config_of, plain, read_config, start_weights
from fhrt.training.data import Dropped, summary
from fhrt.training.log import Log, write_grid
from fhrt.training.losses import feature_matching, fooled, told_apart
from fhrt.training.muon import Muon
from fhrt.training.perceptual import build_losses

Arrays = dict[str, np.ndarray]
Batch = dict[str, Tensor]


class System(Protocol):
    """What the trainer asks of a system.

    batch_size: samples of a step, over all devices. sample: arrays of one sample. output: what
    `loss` and, where it is a picture, the discriminator look at. validation: a batch of faces that
    training does not see, or None. dropped: pictures that could not be used.
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
    from fhrt.training.landmarks import LandmarkSystem
    from fhrt.training.pairs import PairSystem
    from fhrt.training.restore import RestoreSystem

    return {
        "restore": RestoreSystem,
        "pairs": PairSystem,
        "detector": DetectorSystem,
        "landmarks": LandmarkSystem,
    }


@dataclass(frozen=True)
class Devices:
    """Where to train: accelerator auto, cpu or cuda; devices and nodes as Lightning Fabric counts
    them. minutes: instead of the configuration's steps, as many as fit."""

    accelerator: str = "auto"
    count: int = 1
    nodes: int = 1
    minutes: float | None = None


@dataclass(frozen=True)
class Reports:
    """What a run tells its caller: figures every `log_every` steps; each step done, and of how
    many; lines that a user should read."""

    figures: Callable[[int, dict[str, float]], None] = lambda step, figures: None
    progress: Callable[[int, int], None] = lambda step, steps: None
    say: Callable[[str], None] = lambda line: None


def train(
    name: str,
    data: Path,
    output: Path,
    config: Config | None = None,
    resume: bool = False,
    reports: Reports = Reports(),
    devices: Devices = Devices(),
) -> Path:
    """Train `name` on `data` into the folder `output`; returns the path of the weights.

    Writes output/checkpoint.pt (everything), output/NAME.pth (the averaged weights), log.csv,
    TensorBoard events, and validation/STEP.png (given | output | truth). resume: go on with the
    checkpoint, by the configuration that it holds, whatever `config` is.

    Raises UsageError for an unknown system, InputError where the data or the checkpoint is missing
    or is another run's.
    """
    checkpoint = output / "checkpoint.pt"
    state = read_checkpoint(checkpoint, name) if resume else None
    if state:
        config = config_of(state["config"], str(checkpoint))
    config = config or read_config(name)
    known = systems()
    if config.system not in known:
        raise UsageError(f"unknown system {config.system!r}{known_names(config.system, known)}")
    if checkpoint.exists() and not resume:
        raise UsageError(f"{checkpoint} exists: --resume goes on with it, or choose another folder")
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
    run = Run(name, fabric, system, config, output)
    if state:
        run.load(state)
    elif config.start:
        run.start_from(start_weights(config.start, output.parent))
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
        network = system.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimiser = Muon(network.parameters(), config.learning_rate, config.weight_decay)
        self.network, self.optimiser = fabric.setup(network, optimiser)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.critic: nn.Module | None = None
        if adversarial := config.adversarial:
            kind = adversarial.discriminator
            if kind not in DISCRIMINATORS:
                nearest = known_names(kind, DISCRIMINATORS)
                raise UsageError(f"unknown discriminator {kind!r}{nearest}")
            options = {"condition": adversarial.condition} | adversarial.options
            critic = DISCRIMINATORS[kind](**options)
            steps = torch.optim.Adam(critic.parameters(), adversarial.learning_rate, (0.5, 0.999))
            self.critic, self.critic_optimiser = fabric.setup(
                critic.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
                steps,
            )
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
        for group in self.optimiser.param_groups:
            group["lr"] = config.rate(step)
        output = self.system.output(self.network, batch)
        loss, figures = self.system.loss(output, batch)
        figures = {"loss": float(loss.detach())} | figures
        if config.adversarial:
            wanted, of_it = self._fool(output, batch)
            loss, figures = loss + wanted, figures | of_it
        if config.perceptual:
            wanted, of_it = self.perceive(output, batch)
            loss, figures = loss + wanted, figures | of_it
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimiser.step()
        if config.adversarial:
            figures |= self._tell_apart(output.detach(), batch)
        # A short run would be averaged with its own start: the decay grows into its final value.
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            ours = self.average.state_dict()
            for key, value in _state(self.network).items():
                if value.is_floating_point():
                    ours[key].lerp_(value, 1 - decay)
                else:
                    ours[key].copy_(value)
        return figures | {"norm": float(norm)}

    def _fool(self, output: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        adversarial, critic = self.config.adversarial, _bare(self.critic)
        assert adversarial is not None
        critic.requires_grad_(False)
        real, made = self._judge(critic, output, batch)
        fooling = fooled(made)
        loss = adversarial.weight * fooling
        if adversarial.feature_matching:
            loss = loss + adversarial.feature_matching * feature_matching(real, made)
        critic.requires_grad_(True)
        return loss, {"fooled": float(fooling.detach())}

    def _tell_apart(self, output: Tensor, batch: Batch) -> dict[str, float]:
        assert self.critic is not None
        loss = told_apart(*self._judge(self.critic, output, batch))
        self.critic_optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.critic_optimiser.step()
        return {"told_apart": float(loss.detach())}

    def _judge(
        self, critic: nn.Module, output: Tensor, batch: Batch
    ) -> tuple[Judgement, Judgement]:
        """The discriminator on real and on made pictures, in one batch: BatchNorm would bring two
        batches to the same statistics, and with them take away what tells them apart."""
        assert self.config.adversarial is not None
        condition = None
        if self.config.adversarial.condition:
            condition = _picture(batch["input"]).repeat(2, 1, 1, 1)
        scores, features = critic(torch.cat([_picture(batch["target"]), output]), condition)
        real, made = scores.chunk(2)
        halves = [values.chunk(2) for values in features]
        return (real, [half[0] for half in halves]), (made, [half[1] for half in halves])

    def validate(self, step: int) -> dict[str, float]:
        """The averaged network on faces that training does not see: figures, and a picture."""
        arrays = self.system.validation() if self.fabric.is_global_zero else None
        if arrays is None:
            return {}
        batch = self._to_device(arrays)
        with torch.inference_mode():
            output = self.system.output(self.average, batch)
            _, figures = self.system.loss(output, batch)
        if isinstance(output, Tensor) and "target" in batch:
            path = self.output / "validation" / f"{step:06}.png"
            write_grid(path, batch["input"], output, batch["target"])
        return {f"validation_{key}": value for key, value in figures.items()}

    def save(self, step: int) -> None:
        """The checkpoint and the weights, each written whole or not at all."""
        if self.fabric.is_global_zero:
            state = {
                "name": self.name,
                "config": plain(self.config),
                "step": step,
                "network": _state(self.network),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "random": torch.get_rng_state(),
            }
            if self.critic is not None:
                state["critic"] = _state(self.critic)
                state["critic_optimiser"] = self.critic_optimiser.state_dict()
            write_atomically(self.output / "checkpoint.pt", state)
            weights = {key: v.contiguous() for key, v in self.average.state_dict().items()}
            write_atomically(self.weights, weights)
        self.fabric.barrier()

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint (`read_checkpoint`) stopped. Raises InputError."""
        try:
            _bare(self.network).load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            if self.critic is not None:
                _bare(self.critic).load_state_dict(state["critic"])
                self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        except (KeyError, RuntimeError, ValueError) as error:
            line = str(error).splitlines()[0]
            where = self.output / "checkpoint.pt"
            raise InputError(f"{where}: does not fit the configuration: {line}") from error
        torch.set_rng_state(state["random"].cpu())
        self.first = state["step"]

    def start_from(self, weights: Path) -> None:
        """Begin with the weights of a file. Raises InputError where they do not fit."""
        values = load_weights(weights)
        try:
            _bare(self.network).load_state_dict(values)
            self.average.load_state_dict(values)
        except RuntimeError as error:
            line = str(error).splitlines()[0]
            raise InputError(f"{weights}: not weights of this network: {line}") from error

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


def open_fabric(precision: str, devices: Devices) -> Fabric:
    """Lightning Fabric on the devices, the other processes launched where there are several."""
    several = devices.count * devices.nodes > 1
    fabric = Fabric(
        accelerator=devices.accelerator,
        devices=devices.count,
        num_nodes=devices.nodes,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        # Each device keeps the BatchNorm statistics of its own share; the first one's are saved.
        strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
    )
    if several:
        fabric.launch()
    return fabric


def faster_precision(accelerator: str) -> str:
    """bf16 where this device multiplies it at least 1.5 times as fast as fp32, else fp32.

    Measured, a fraction of a second: a processor without bf16 instructions takes many times longer.
    """
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    times = {}
    for kind in (torch.float32, torch.bfloat16):
        side = 4096 if device == "cuda" else 256
        matrix = torch.ones(side, side, device=device, dtype=kind)
        rounds = []
        for _ in range(4):
            begun = time.perf_counter()
            float((matrix @ matrix)[0, 0])  # waits for the device
            rounds.append(time.perf_counter() - begun)
        times[kind] = min(rounds[1:])
    return "bf16" if times[torch.float32] > 1.5 * times[torch.bfloat16] else "fp32"


def _picture(values: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) -> float in [0, 1]."""
    return (values.float() / 255).contiguous(memory_format=torch.channels_last)


def _bare(network: nn.Module | None) -> nn.Module:
    """The module that Fabric wrapped."""
    assert network is not None
    inner = getattr(network, "module", network)
    assert isinstance(inner, nn.Module)
    return inner


def _state(network: nn.Module) -> dict[str, Tensor]:
    return _bare(network).state_dict()


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
