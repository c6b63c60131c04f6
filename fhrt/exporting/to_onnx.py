"""Checkpoint -> ONNX, run beside PyTorch before it is published."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fhrt.errors import ModelError
from fhrt.exporting.parity import Parity, compare
from fhrt.models import Recipe
from fhrt.networks import build

OPSET = 20
TOLERANCE = 1e-3  # largest difference between the two runtimes; a level of 8 bits is 4e-3


def export_onnx(recipe: Recipe, checkpoint: Path, target: Path) -> Parity:
    """Write `target`, an ONNX file of the network of `recipe` with the weights of `checkpoint`.

    Dynamic batch; dynamic height and width where the recipe gives no single size. Nothing is
    published unless ONNX Runtime agrees with PyTorch to 1e-3 on seeded pictures of several shapes.
    Raises ModelError where the weights do not fit or the outputs differ.
    """
    import onnx

    network = build(recipe.network)
    try:
        network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    except Exception as error:  # unpickling and key errors alike: the file does not fit
        line = str(error).strip().splitlines()[0]
        raise ModelError(f"{checkpoint}: not weights of {recipe.network}: {line}") from error
    network.eval()
    beside = target.with_name(target.name + ".part")
    try:
        _trace(network, recipe).save(str(beside))
        graph = onnx.load(str(beside))
        for node in graph.graph.node:  # the exporter's stack traces: a tenth of a small file
            del node.metadata_props[:]
        onnx.helper.set_model_props(graph, recipe.metadata())
        onnx.checker.check_model(graph)
        onnx.save(graph, str(beside))
        parity = compare(network, beside, samples(recipe))
        if parity.largest > TOLERANCE or parity.not_finite:
            raise ModelError(f"{recipe.name}: ONNX departs from PyTorch: {parity}; not published")
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return parity


def samples(recipe: Recipe) -> list[np.ndarray]:
    """Seeded inputs of every shape that matters: smooth pictures and noise, float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    step = recipe.multiple
    if len(recipe.sizes) == 1:
        shapes = [(1, step, step), (3, step, step)]
    else:
        shapes = [(1, 4 * step, 4 * step), (3, 8 * step, 5 * step), (2, 16 * step, 16 * step)]
    made = []
    for count, height, width in shapes:
        noise = rng.random((count, 3, height, width), np.float32)
        waves = np.sin(np.arange(width) / 7)[None] * np.cos(np.arange(height) / 11)[:, None]
        made += [noise, np.float32(0.4) + np.float32(0.3) * waves.astype(np.float32) + noise * 0.1]
    return [np.ascontiguousarray(sample, np.float32) for sample in made]


def _trace(network: nn.Module, recipe: Recipe) -> torch.onnx.ONNXProgram:
    from torch.export import Dim

    example = torch.zeros(2, 3, recipe.multiple * 4, recipe.multiple * 4)
    shapes = {0: Dim("n", min=1, max=64)}
    if len(recipe.sizes) == 1:
        example = torch.zeros(2, 3, recipe.multiple, recipe.multiple)
    else:
        # multiples, or sizes that the network cannot halve would pass here and fail when run
        shapes |= {
            2: recipe.multiple * Dim("rows", min=1, max=256),
            3: recipe.multiple * Dim("columns", min=1, max=256),
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input"],
            dynamic_shapes=(shapes,),
            verbose=False,
        )
    assert program is not None
    return program
