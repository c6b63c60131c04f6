"""Lower precisions: an fp32 graph in fp16 or bf16, strongly typed, and what such a graph would
compute, without the hardware.

ONNX Runtime's CPU kernels for fp16 compute in fp32 and drop the casts between them, so that nothing
overflows there and rounding hardly shows; for bf16 it has hardly any. Its own converter to fp16
writes graphs that it cannot load where shapes are computed inside, and knows no bf16.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.errors import ModelError, first_line
from fhrt.models import Recipe

# bf16 came to convolutions with this opset
OPSETS = {"fp16": 0, "bf16": 22}


def lower(source: Path, recipe: Recipe, precision: str, target: Path) -> None:
    """Write the graph of `source` in fp16 or bf16, with float input and output.

    Strongly typed: every value has its type in the graph, with a Cast wherever two meet. fp32 stays
    what `keep_fp32` of the recipe names, and what an operator does not take otherwise. Raises
    ModelError for a pattern of `keep_fp32` that matches nothing, and for a graph with branches or
    loops inside.
    """
    import onnx

    model = onnx.load(str(source))
    if OPSETS[precision] > _opset(model):
        try:
            model = onnx.version_converter.convert_version(model, OPSETS[precision])
        except Exception as error:  # its errors share no class
            raise ModelError(f"{recipe.name}: no {precision}: {first_line(error)}") from error
    kept = set(kept_nodes(model, recipe))
    _Lowering(model, precision, kept).run()
    onnx.save(model, str(target))


class _Lowering:
    """The graph of `model` while it is rewritten, node by node.

    floats: names of the fp32 values of the original. now: the type that each has by now. inside:
    another name, for those of the graph's outputs that are of a lower type inside. constants: what
    follows from no input. sizes: what follows from sizes alone, which TensorRT computes on the CPU
    and never in fp16.
    """

    def __init__(self, model: Any, precision: str, kept: set[str]) -> None:
        import onnx
        from onnx import TensorProto

        self.full, self.kept = TensorProto.FLOAT, kept
        self.low = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
        self.opset, self.graph = _opset(model), model.graph
        shaped = onnx.shape_inference.infer_shapes(model).graph
        values = [*shaped.value_info, *shaped.input, *shaped.output]
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == self.full}
        self.weights = {t.name: t for t in self.graph.initializer if t.data_type == self.full}
        self.floats |= self.weights.keys()
        self.now = dict.fromkeys(self.floats, self.full)
        self.inside: dict[str, str] = {}
        self.nodes: list[Any] = []
        self.casts: dict[tuple[str, int], str] = {}
        self.constants = {tensor.name for tensor in self.graph.initializer} | {""}
        self.sizes: set[str] = set()

    def run(self) -> None:
        from onnx import helper

        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            self._lower(node, outputs)
        for name, inner in self.inside.items():
            self.nodes.append(helper.make_node("Cast", [inner], [name], name, to=self.full))
        used = {name for node in self.nodes for name in node.input}
        weights = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(weights)

    def _lower(self, node: Any, outputs: set[str]) -> None:
        takes, gives = self._types(node)
        keep = node.name in self.kept or not all(gives) or self._of_sizes(node)
        for index, name in enumerate(node.input):
            if name in self.floats and node.op_type not in ("Shape", "Size", "Cast"):
                node.input[index] = self._as(
                    name, self.low if takes[index] and not keep else self.full
                )
            elif name in self.inside:
                node.input[index] = self.inside[name]
        if not keep:
            self._lower_attributes(node)
        for index, name in enumerate(node.output):
            if name in self.floats and not keep:
                self.now[name] = self.low
                if name in outputs:
                    self.inside[name] = node.output[index] = f"{name}:low"
        self.nodes.append(node)

    def _of_sizes(self, node: Any) -> bool:
        follows = set(node.input) - self.constants
        if not follows:
            self.constants.update(node.output)
        elif node.op_type in ("Shape", "Size") or follows <= self.sizes:
            self.sizes.update(node.output)
        return bool(follows) and set(node.output) <= self.sizes

    def _types(self, node: Any) -> tuple[list[bool], list[bool]]:
        """Whether each input and each output may be of the lower type, by the operator's schema."""
        import onnx

        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            raise ModelError(f"{node.op_type} {node.name!r}: a graph inside cannot be lowered")
        word = {10: "tensor(float16)", 16: "tensor(bfloat16)"}[self.low]
        if not onnx.defs.has(node.op_type, node.domain):
            return [False] * len(node.input), [False] * len(node.output)
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)

        def allowed(formal: Any, count: int) -> list[bool]:
            return [word in formal[min(i, len(formal) - 1)].types for i in range(count)]

        takes = allowed(schema.inputs, len(node.input))
        gives = allowed(schema.outputs, len(node.output))
        floats = [name in self.floats for name in node.output]
        return takes, [able or not real for able, real in zip(gives, floats, strict=True)]

    def _lower_attributes(self, node: Any) -> None:
        """What a Cast makes, and what a constant is."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self.full:
                attribute.i = self.low
            if attribute.name == "value" and attribute.t.data_type == self.full:
                attribute.t.CopyFrom(_rounded(attribute.t, self.low, attribute.t.name))

    def _as(self, name: str, wanted: int) -> str:
        """The name of a value in the wanted type, after a Cast where it has another one now."""
        from onnx import helper

        present = self.inside.get(name, name)
        low = self.casts.get((name, self.low), "")
        if wanted == self.full and low and name in self.weights:
            present = low  # one copy in the file, and what is computed from it fits it
        elif self.now[name] == wanted:
            return present
        if (name, wanted) not in self.casts:
            made = self.casts[name, wanted] = f"{name}:{'low' if wanted == self.low else 'full'}"
            if name in self.weights and wanted == self.low:
                tensor = _rounded(self.weights[name], wanted, made)
                self.graph.initializer.append(tensor)
            else:
                self.nodes.append(helper.make_node("Cast", [present], [made], made, to=wanted))
        return self.casts[name, wanted]


def kept_nodes(model: Any, recipe: Recipe) -> list[str]:
    """Names of the nodes of a graph that `keep_fp32` of the recipe matches, by name or operator;
    nodes without a name are given one. Raises ModelError for a pattern that matches none."""
    kept = []
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    for pattern in recipe.export.keep_fp32:
        found = [
            node.name
            for node in model.graph.node
            if any(fnmatch.fnmatchcase(word, pattern) for word in (node.name, node.op_type))
        ]
        if not found:
            raise ModelError(f"keep_fp32 {pattern!r} is no node and no operator of {recipe.name}")
        kept += found
    return kept


def emulate(source: Path, target: Path) -> None:
    """Write an fp32 model that gives what the fp16 or bf16 model `source` gives on hardware that
    accumulates in fp32: each such value is rounded after its node, and infinite beyond the range of
    its type (fp16: 65504). Values that the graph keeps in fp32 stay so."""
    import onnx
    from onnx import TensorProto, helper

    low = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    model = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
    graph = model.graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in [*graph.value_info, *graph.output, *graph.input]
        if value.type.tensor_type.elem_type in low
    }
    for tensor in graph.initializer:
        if tensor.data_type in low:
            tensor.CopyFrom(_rounded(tensor, TensorProto.FLOAT, tensor.name))
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i in low:
            node.attribute[0].i = TensorProto.FLOAT
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type in low:
                attribute.t.CopyFrom(_rounded(attribute.t, TensorProto.FLOAT, attribute.t.name))
        rounded = [name for name in node.output if name in types]
        nodes.append(node)
        for name in rounded:
            exact, half = f"{name}:exact", f"{name}:rounded"
            node.output[list(node.output).index(name)] = exact
            nodes.append(helper.make_node("Cast", [exact], [half], to=types[name]))
            nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _rounded(tensor: Any, kind: int, name: str) -> Any:
    """A tensor in another floating-point type; beyond its range, infinite."""
    from onnx import helper, numpy_helper

    with np.errstate(over="ignore"):
        values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(values, name)


def _opset(model: Any) -> int:
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))
