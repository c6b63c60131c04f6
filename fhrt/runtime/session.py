"""The contract of a session, and `open_session`, which finds the runtime for it.

A session is a callable: float32 (N, 3, H, W) RGB in [0, 1] -> the same with H and W times `scale`.
Value ranges and channel orders of a network are folded into its graph at export.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import RuntimeMissing, UsageError
from fhrt.models import Recipe, recipe, recipe_from_metadata

Batch = NDArray[np.float32]
RUNTIMES = (
    "auto",
    "onnx",
    "onnx-tensorrt",
    "torch",
    "openvino",
    "openvino-bf16",
    "openvino-bf16x2",
    "tensorrt",
)
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


def in_parts(run: Callable[[Batch], Batch], batch: Batch, most: int, multiple: int = 1) -> Batch:
    """Give a batch to a graph that takes no more than `most` at once, part by part. Raises
    UsageError as `check_batch`."""
    check_batch(batch.shape, batch.dtype, multiple)
    batch = np.ascontiguousarray(batch)
    if len(batch) <= most:
        return run(batch)
    return np.concatenate([run(batch[i : i + most]) for i in range(0, len(batch), most)])


def check_batch(shape: tuple[int, ...], dtype: object, multiple: int = 1) -> None:
    """Raises UsageError for what is not float32 (N, 3, H, W) with N, H and W ≥ 1, H and W divisible
    by `multiple`."""
    if dtype != np.float32 or len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise UsageError(f"a batch is float32 (N, 3, H, W); this one is {dtype} {tuple(shape)}")
    if shape[2] % multiple or shape[3] % multiple:
        raise UsageError(
            f"height {shape[2]} and width {shape[3]} must be multiples of {multiple} for this model"
        )


def open_session(
    model: str | Path | Recipe, device: str = "auto", runtime: str = "auto", threads: int = 0
) -> Session:
    """Open a model of the catalogue, or what `fhrt export` made: an ONNX file, or an artifact's
    folder, which may have an engine in it.

    device: auto, cpu or cuda:N. runtime: onnx, onnx-tensorrt (ONNX Runtime's TensorRT, which builds
    its engines itself), torch, openvino (CPU only), openvino-bf16 (the same, computing in bf16),
    openvino-bf16x2 (with each weight as a sum of two), tensorrt (an artifact's engine); or auto:
    tensorrt where there are an engine and a GPU, else onnx, or on a CPU one of openvino's where it
    is installed and faster (runtime.choice). threads: CPU threads, 0 for all.
    Raises UsageError for unknown words, RuntimeMissing where the device or the runtime cannot be
    had (never another one in its place), ModelError for a file that cannot be used.
    """
    kind, index = parse_device(device)
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}; there are: {', '.join(RUNTIMES)}")
    found = find_recipe(model)
    if found.task not in PICTURE_TASKS:
        raise UsageError(f"{found.name} ({found.task}) is no network from picture to picture")
    if runtime == "auto" and kind != "cpu" and _has_engine(found, index):
        runtime = "tensorrt"
    if runtime == "tensorrt":
        from fhrt.runtime.tensorrt import open_artifact

        return open_artifact(found, kind, index)
    if runtime == "torch":
        need("torch", "train")
        from fhrt.runtime.torch import TorchSession

        return TorchSession(found, kind, index, threads)
    if runtime.startswith("openvino"):
        need("openvino", "openvino")
        from fhrt.runtime.openvino import OpenVinoSession

        return OpenVinoSession(found, kind, threads, runtime)
    need("onnxruntime", "cpu")
    if runtime == "auto" and importlib.util.find_spec("openvino") is not None:
        from fhrt.runtime.choice import open_fastest

        return open_fastest(found, kind, index, threads)
    from fhrt.runtime.onnx_gpu import open_onnx

    return open_onnx(found, kind, index, threads, runtime == "onnx-tensorrt")


def find_recipe(model: str | Path | Recipe) -> Recipe:
    """The recipe of a name of the catalogue, or of the path of an ONNX file or an artifact."""
    if isinstance(model, Recipe):
        return model
    if isinstance(model, str) and not model.endswith(".onnx") and os.sep not in model:
        return recipe(model)
    path = Path(model)
    if path.is_dir():
        graph, properties = path / "model.onnx", _manifest(path).get("recipe")
        if properties is not None:  # onnxruntime may lack what an engine has, such as bf16
            return recipe_from_metadata(graph, properties)
        path = graph
    need("onnxruntime", "cpu")
    from fhrt.runtime.onnx import read_recipe

    return read_recipe(path)


def _manifest(folder: Path) -> dict[str, Any]:
    """What manifest.json of an artifact holds; nothing where it cannot be read."""
    try:
        return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _has_engine(model: Recipe, index: int) -> bool:
    """Whether the artifact that a model was opened from has an engine, and there is a GPU."""
    from fhrt.runtime.gpu import find_gpu

    engine = Path(model.file).parent / "model.engine"
    return bool(model.file) and engine.is_file() and find_gpu(index) is not None


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
