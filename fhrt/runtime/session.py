"""The contract of a session, and `open_session`, which finds the runtime for it.

A session is a callable: float32 (N, 3, H, W) RGB in [0, 1] -> the same with H and W times `scale`.
Value ranges and channel orders of a network are folded into its graph at export.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import RuntimeMissing, UsageError
from fhrt.models import Recipe, recipe

Batch = NDArray[np.float32]
RUNTIMES = ("auto", "onnx", "torch", "openvino")
PICTURE_TASKS = ("restore", "upscale", "unmask")


class Session(Protocol):
    """A network that is ready to run.

    scale: output size over input size. sizes: sides of square crops it was made for. batch_max:
    most crops a call. device, runtime, precision: what it really runs on, not what was asked for.
    """

    name: str
    scale: int
    sizes: tuple[int, ...]
    batch_max: int
    device: str
    runtime: str
    precision: str

    def __call__(self, batch: Batch) -> Batch: ...


def in_parts(run: Callable[[Batch], Batch], batch: Batch, most: int) -> Batch:
    """Give a batch to a graph that takes no more than `most` at once, part by part."""
    batch = np.ascontiguousarray(batch)
    if len(batch) <= most:
        return run(batch)
    return np.concatenate([run(batch[i : i + most]) for i in range(0, len(batch), most)])


def open_session(
    model: str | Path | Recipe, device: str = "auto", runtime: str = "auto", threads: int = 0
) -> Session:
    """Open a model of the catalogue, or an ONNX file made by `fhrt export`.

    device: auto, cpu or cuda:N. runtime: onnx, torch, openvino (CPU only), or auto: onnx, or on a
    CPU openvino where it is installed and faster (runtime.choice). threads: CPU threads, 0 for all.
    Raises UsageError for unknown words, RuntimeMissing where the device or the runtime cannot be
    had (never another one in its place), ModelError for a file that cannot be used.
    """
    kind, index = parse_device(device)
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}; there are: {', '.join(RUNTIMES)}")
    found = find_recipe(model)
    if found.task not in PICTURE_TASKS:
        raise UsageError(f"{found.name} ({found.task}) is no network from picture to picture")
    if runtime == "torch":
        need("torch", "train")
        from fhrt.runtime.torch import TorchSession

        return TorchSession(found, kind, index, threads)
    if runtime == "openvino":
        need("openvino", "openvino")
        from fhrt.runtime.openvino import OpenVinoSession

        return OpenVinoSession(found, kind, threads)
    need("onnxruntime", "cpu")
    if runtime == "auto" and importlib.util.find_spec("openvino") is not None:
        from fhrt.runtime.choice import open_fastest

        return open_fastest(found, kind, index, threads)
    from fhrt.runtime.onnx import OnnxSession

    return OnnxSession(found, kind, index, threads)


def find_recipe(model: str | Path | Recipe) -> Recipe:
    """The recipe of a name of the catalogue or of the path of an ONNX file."""
    if isinstance(model, Recipe):
        return model
    if isinstance(model, str) and not model.endswith(".onnx") and os.sep not in model:
        return recipe(model)
    need("onnxruntime", "cpu")
    from fhrt.runtime.onnx import read_recipe

    return read_recipe(Path(model))


def parse_device(device: str) -> tuple[str, int]:
    """auto -> (auto, 0), cpu -> (cpu, 0), cuda or cuda:N -> (cuda, N). Raises UsageError."""
    kind, _, index = device.partition(":")
    if kind == "cuda" and (not index or index.isdecimal()):
        return "cuda", int(index or 0)
    if device in ("auto", "cpu"):
        return device, 0
    raise UsageError(f"unknown device {device!r}; there are: auto, cpu, cuda:N")


def need(module: str, extra: str) -> None:
    """Raise RuntimeMissing, with the line that installs it, where a module is not installed."""
    if importlib.util.find_spec(module) is None:
        raise RuntimeMissing(f"{module} is not installed; pip install 'fhrt[{extra}]' adds it")
