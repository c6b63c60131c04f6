"""A model repository that a Triton Inference Server serves as it is."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fhrt.errors import ModelError, UsageError
from fhrt.exporting.artifact import building
from fhrt.exporting.profile import Profile
from fhrt.models import Recipe

# by the suffix of the model: Triton's platform, and the name it looks for in a version's folder
PLATFORMS = {
    ".onnx": ("onnxruntime_onnx", "model.onnx"),
    ".engine": ("tensorrt_plan", "model.plan"),
    ".plan": ("tensorrt_plan", "model.plan"),
}
TYPES = {1: "TYPE_FP32", 2: "TYPE_UINT8", 6: "TYPE_INT32", 7: "TYPE_INT64", 10: "TYPE_FP16"}  # ONNX
RTX_ENGINE = b"vtrt"  # what an engine of tensorrt_rtx begins with
WARM_UP = 256  # pixels, about, where a recipe has no size of its own


@dataclass(frozen=True)
class Tensor:
    """An input or output. type: Triton's name of it. dims: without the batch; -1 for any."""

    name: str
    type: str
    dims: tuple[int, ...]


def write_repository(
    model: Path,
    recipe: Recipe,
    target: Path,
    batch_max: int = 8,
    *,
    graph: Path | None = None,
    profile: Profile | None = None,
    device: str = "gpu",
    instances: int = 1,
    delay: int = 2000,
) -> Path:
    """Write `target`/NAME, a model of the repository `target`, whole or not at all; returns it.

    model: an ONNX file, or an engine of `tensorrt` together with the `graph` it was built from and
    its `profile`. An engine must be served by the release that built it. batch_max: the most faces
    a call. device: gpu or cpu. instances: of the model on every device. delay: how long the server
    may wait for a batch to fill, in microseconds.

    Raises UsageError for options that do not go together, ModelError for a model that Triton
    cannot serve, InputError where the target cannot be written; then what was there is as it was.
    """
    if model.suffix not in PLATFORMS:
        raise UsageError(f"{model}: Triton is given one of: {', '.join(PLATFORMS)}")
    if device not in ("gpu", "cpu"):
        raise UsageError(f"unknown device {device!r}; there are: gpu, cpu")
    if min(batch_max, instances) < 1 or delay < 0:
        raise UsageError("batch and instances are 1 or more, the delay is 0 or more")
    platform, file = PLATFORMS[model.suffix]
    if platform == "tensorrt_plan":
        if device == "cpu":
            raise UsageError(f"{model}: an engine runs on a GPU; give Triton the ONNX file for cpu")
        if graph is None or profile is None:
            raise UsageError(f"{model}: say which graph it was built from, and for which profile")
        for batch in (1, batch_max):  # the server sends what comes, up to the most
            profile.check((batch, 3, profile.height[1], profile.width[1]))
    for path in (model, graph or model):
        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
    with model.open("rb") as opened:
        if opened.read(len(RTX_ENGINE)) == RTX_ENGINE:
            raise ModelError(f"{model}: an engine of tensorrt_rtx; Triton serves tensorrt's only")
    given, made = read_tensors(graph or model)
    text = "\n".join(
        [
            f"# {recipe.name}, licence: {recipe.licence}",
            f'name: "{recipe.name}"',
            f'platform: "{platform}"',
            f"max_batch_size: {batch_max}",
            _tensor("input", given),
            *(_tensor("output", tensor) for tensor in made),
            f"dynamic_batching {{ max_queue_delay_microseconds: {delay} }}",
            f"instance_group [ {{ kind: KIND_{device.upper()} count: {instances} }} ]",
            *_warm_ups(_sizes(recipe, profile), given, batch_max),
            "",
        ]
    )
    place = target / recipe.name
    with building(place) as folder:
        (folder / "config.pbtxt").write_text(text, encoding="utf-8")
        version = folder / "1"
        version.mkdir()
        shutil.copyfile(model, version / file)
    return place


def read_tensors(path: Path) -> tuple[Tensor, list[Tensor]]:
    """The input and the outputs of an ONNX file. Raises ModelError where it cannot be read, has
    other than one input, or its batch has one size only."""
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's own errors share no public class
        raise ModelError(f"{path}: no ONNX file: {error}") from error
    inputs, outputs = _tensors(path, graph.input), _tensors(path, graph.output)
    if len(inputs) != 1 or not outputs:
        raise ModelError(f"{path}: a graph with {len(inputs)} inputs; one is needed, and an output")
    return inputs[0], outputs


def _tensors(path: Path, values: Iterable[object]) -> list[Tensor]:
    made = []
    for value in values:
        name, tensor = value.name, value.type.tensor_type  # type: ignore[attr-defined]
        sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        if tensor.elem_type not in TYPES:
            raise ModelError(f"{path}: {name} is of a type that has no name here")
        if not sizes or sizes[0] != -1:
            raise ModelError(f"{path}: the batch of {name} is fixed; Triton is to choose it")
        made.append(Tensor(name, TYPES[tensor.elem_type], tuple(sizes[1:])))
    return made


def _tensor(kind: str, tensor: Tensor) -> str:
    dims = ", ".join(map(str, tensor.dims))
    return f'{kind} [ {{ name: "{tensor.name}" data_type: {tensor.type} dims: [ {dims} ] }} ]'


def _sizes(recipe: Recipe, profile: Profile | None) -> list[tuple[int, int]]:
    """Heights and widths to warm up at, in pixels."""
    if profile is not None:
        return [(profile.height[1], profile.width[1])]
    any_size = recipe.multiple * math.ceil(WARM_UP / recipe.multiple)
    return [(side, side) for side in recipe.sizes or (any_size,)]


def _warm_ups(sizes: list[tuple[int, int]], tensor: Tensor, batch_max: int) -> list[str]:
    """One call of one face and one of a full batch, at every size: no caller is the first."""
    made = []
    for size in sizes:
        dims = ", ".join(map(str, (tensor.dims[0], *size)))
        for batch in sorted({1, batch_max}):
            value = f"data_type: {tensor.type} dims: [ {dims} ] random_data: true"
            made.append(
                f'model_warmup [ {{ name: "{batch} of {size[0]}x{size[1]}" batch_size: {batch} '
                f'inputs {{ key: "{tensor.name}" value {{ {value} }} }} }} ]'
            )
    return made
