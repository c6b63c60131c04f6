"""FP16 without a GPU: what a half-precision graph would compute, to see it overflow or round.

ONNX Runtime's CPU kernels for fp16 compute in fp32 and drop the casts between them, so that nothing
overflows there and rounding hardly shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from fhrt.exporting.to_onnx import trace
from fhrt.models import Recipe


class Half(nn.Module):
    """A network in fp16 with float input and output: exported like this, the ONNX is strongly
    typed. What a network itself computes with `.float()` stays fp32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x.half())
        return output.float()


def trace_half(network: nn.Module, recipe: Recipe, target: Path) -> None:
    """Write the strongly typed FP16 ONNX of a network; the network itself is left in fp16."""
    import onnx

    onnx.save(trace(Half(network), recipe), str(target))


def emulate(source: Path, target: Path) -> None:
    """Write an fp32 model that gives what the fp16 model `source` gives on hardware that
    accumulates in fp32: each fp16 value is rounded to fp16 after its node, and beyond 65504 is
    infinite. Values that the graph keeps in fp32 stay so."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.shape_inference.infer_shapes(onnx.load(str(source)))
    graph = model.graph
    halves = {
        value.name
        for value in [*graph.value_info, *graph.output, *graph.input]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
            node.attribute[0].i = TensorProto.FLOAT
        if node.op_type == "Constant":
            _widen_constant(node)
        rounded = [name for name in node.output if name in halves]
        nodes.append(node)
        for name in rounded:
            node.output[list(node.output).index(name)] = f"{name}_exact"
            nodes += [
                helper.make_node(
                    "Cast", [f"{name}_exact"], [f"{name}_half"], to=TensorProto.FLOAT16
                ),
                helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT),
            ]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, str(target))


def _widen_constant(node: Any) -> None:
    from onnx import TensorProto, numpy_helper

    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
