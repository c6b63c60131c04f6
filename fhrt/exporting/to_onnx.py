"""A network of ours as an ONNX graph, and weights stored in half the bytes."""

from __future__ import annotations

import ast
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fhrt.errors import ModelError, first_line
from fhrt.models import Recipe
from fhrt.networks import build
from fhrt.runtime.torch import check_fit, recipe_weights

EXAMPLE = 96  # pixels: of coarser maps a side would be 1, which is traced as if it were always so


def network_of(recipe: Recipe, weights: dict[str, torch.Tensor], origin: object) -> nn.Module:
    """The network of a recipe in eval mode. Raises ModelError; see `check_fit`."""
    network = build(recipe.network, **recipe.options)
    check_fit(network, weights, origin)
    network.load_state_dict(weights)
    return network.eval()


def halve(recipe: Recipe, checkpoint: Path | None, target: Path) -> Path:
    """Write `target`, the weights of `checkpoint` or of the recipe, rounded to fp16: half
    the bytes. Networks compute in fp32 all the same. Raises ModelError where one is too large."""
    weights = {
        key: value.half() if value.is_floating_point() else value
        for key, value in recipe_weights(recipe, checkpoint).items()
    }
    for key, value in weights.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{recipe.name}: {key} does not fit into fp16")
    beside = target.with_name(target.name + ".part")
    torch.save(weights, beside)
    return beside.replace(target)


def store_half(graph: Any) -> None:
    """Weights of an ONNX model as fp16 with a Cast to fp32 behind each: half the bytes, and a
    runtime folds the casts when it loads. For weights that are fp16 values to begin with; those
    into which the exporter folded a BatchNorm are rounded a second time."""
    from onnx import TensorProto, helper, numpy_helper

    layers = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    weights = {node.input[1] for node in graph.graph.node if node.op_type in layers}
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.name in weights and tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def samples(recipe: Recipe, shapes: Sequence[tuple[int, int, int]] = ()) -> list[np.ndarray]:
    """Seeded inputs, smooth pictures and noise, float32 in [0, 1]: of the (N, H, W) given, or of
    every shape that matters."""
    rng = np.random.default_rng(0)
    step = recipe.multiple
    if recipe.fixed and not shapes:
        shapes = [(1, step, step), (3, step, step)]
    elif not shapes:
        step = step * math.ceil(8 / step)
        shapes = [(1, 4 * step, 4 * step), (3, 8 * step, 5 * step), (2, 16 * step, 16 * step)]
    made = []
    for count, height, width in shapes:
        noise = rng.random((count, 3, height, width), np.float32)
        waves = np.sin(np.arange(width) / 7)[None] * np.cos(np.arange(height) / 11)[:, None]
        made += [noise, np.float32(0.4) + np.float32(0.3) * waves.astype(np.float32) + noise * 0.1]
    return [np.ascontiguousarray(sample, np.float32) for sample in made]


def trace(network: nn.Module, recipe: Recipe) -> Any:
    """An onnx.ModelProto of a network: dynamic batch, and dynamic height and width where the recipe
    gives no single size. It carries the recipe. Raises ModelError where torch cannot trace it."""
    import onnx
    from onnxscript.optimizer import fold_constants
    from torch.export import Dim

    side = recipe.multiple * (1 if recipe.fixed else math.ceil(EXAMPLE / recipe.multiple))
    example = torch.zeros(2, 3, side, side)
    shapes = {0: Dim("n", min=1, max=64)}
    if not recipe.fixed:
        # multiples, or sizes that the network cannot halve would pass here and fail when run
        shapes |= {
            2: recipe.multiple * Dim("rows", min=1, max=4096 // recipe.multiple),
            3: recipe.multiple * Dim("columns", min=1, max=4096 // recipe.multiple),
        }
    try:
        logging.disable(logging.CRITICAL)  # what goes wrong is raised below, in one line
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=recipe.export.opset,
                input_names=["input"],
                dynamic_shapes=(shapes,),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise ModelError(f"{recipe.name}: torch cannot trace it: {first_line(cause)}") from error
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    # what is computed from weights alone, such as GFPGAN's sums of squares, is computed now
    limits = {"input_size_limit": 2**24, "output_size_limit": 2**24}
    fold_constants(program.model, should_fold=_shrinks, **limits)
    graph = program.model_proto
    used = {name for node in graph.graph.node for name in node.input}
    weights = [tensor for tensor in graph.graph.initializer if tensor.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(weights)
    for index, node in enumerate(graph.graph.node):
        facts = {fact.key: fact.value for fact in node.metadata_props}
        scopes = ast.literal_eval(facts.get("pkg.torch.onnx.name_scopes", "[]"))
        # the module that it belongs to, which is what a recipe and a message can name it by
        node.name = f"{scopes[-2] if len(scopes) > 1 else ''}/{node.op_type}_{index}"
        del node.metadata_props[:]  # with stack traces: a tenth of a small file
    onnx.helper.set_model_props(graph, recipe.metadata())
    return graph


def _shrinks(node: Any) -> bool | None:
    """Whether a result takes no more room than what it is made of: noise spread over all channels
    would. None: as the library decides."""
    sizes = [
        value.const_value.size if value is not None and value.const_value is not None else 0
        for value in node.inputs
    ]
    shape = node.outputs[0].shape
    if shape is None or not all(isinstance(side, int) for side in shape):
        return None
    return None if math.prod(shape) <= max(sizes, default=0) else False
