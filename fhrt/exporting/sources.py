"""What an export begins with: a network of ours with its weights, or an ONNX file of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fhrt.exporting.adopt import adopt
from fhrt.exporting.parity import Parity, Run, check_parity, compare, of_graph, of_network
from fhrt.exporting.to_onnx import network_of, samples, store_half, trace
from fhrt.models import Recipe
from fhrt.runtime.torch import recipe_weights
from fhrt.weights import check


class Source(Protocol):
    """files: what the export is made of. published: whether they are the recipe's own, and not the
    user's. came_from: what the fp32 ONNX is compared with."""

    recipe: Recipe
    files: list[Path]
    published: bool
    came_from: str

    def write(self, target: Path) -> Run:
        """Write the fp32 ONNX; returns how to run what it was made of."""
        ...


class Network:
    """The network of a recipe with the weights of `checkpoint`, or with the recipe's own.

    The user's own `checkpoint` is taken as it is; published weights must have their checksum.
    Raises ModelError where weights are missing, others than published, or do not fit.
    """

    came_from = "torch"

    def __init__(self, recipe: Recipe, checkpoint: Path | None = None) -> None:
        self.recipe, self.published = recipe, checkpoint is None
        self.files = [checkpoint] if checkpoint else recipe.weights_paths()
        if checkpoint is None:
            for file in recipe.checkpoint.files:
                check(file)
        self._weights = recipe_weights(recipe, checkpoint)
        self._network = network_of(recipe, self._weights, checkpoint or recipe.name)

    def write(self, target: Path) -> Run:
        import onnx
        import torch

        graph = trace(self._network, self.recipe)
        floats = [value.dtype for value in self._weights.values() if value.is_floating_point()]
        if set(floats) == {torch.float16}:
            store_half(graph)
        onnx.checker.check_model(graph)
        onnx.save(graph, str(target))
        return of_network(self._network)


class Graph:
    """An ONNX file of the user's own, `path`, which `recipe` describes. Raises ModelError."""

    came_from = "the file given"
    published = False

    def __init__(self, recipe: Recipe, path: Path) -> None:
        self.recipe, self.files = recipe, [path]

    def write(self, target: Path) -> Run:
        return adopt(self.files[0], self.recipe, target)


def export_onnx(recipe: Recipe, checkpoint: Path | None, target: Path) -> Parity:
    """Write `target`, an ONNX file of the network of `recipe` with the weights of `checkpoint`, or
    with the recipe's own.

    Nothing is published unless ONNX Runtime agrees with PyTorch on seeded pictures of several
    shapes. Raises ModelError where the weights do not fit or the outputs differ.
    """
    beside = target.with_name(target.name + ".part")
    try:
        reference = Network(recipe, checkpoint).write(beside)
        parity = compare(reference, of_graph(beside), samples(recipe))
        check_parity(recipe, "fp32", parity)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return parity
