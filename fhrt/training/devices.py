"""What to train on: accelerators, processes and precision, through Lightning Fabric."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy


@dataclass(frozen=True)
class Devices:
    """Where to train: accelerator auto, cpu or cuda; devices and nodes as Lightning Fabric counts
    them. minutes: instead of the configuration's steps, as many as fit."""

    accelerator: str = "auto"
    count: int = 1
    nodes: int = 1
    minutes: float | None = None


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
