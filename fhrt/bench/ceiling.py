"""What the machine can do at most, on the same device and threads as the networks: a product of
matrices (FLOP/s) and a copy (bytes/s), measured in the rounds of what they judge. In ONNX Runtime;
products of bf16 on a CPU, which that has none of, in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fhrt.bench.timing import alternate

COPIED = 16 * 2**20  # float32 values: 64 MiB, more than caches hold
COPIES = 2
PRODUCTS = {  # side, times
    "cpu": ((384, 48), (1024, 4), (2048, 1)),
    "cuda": ((4096, 16), (2048, 64), (8192, 4)),
}
BF16 = 4  # times as many on a CPU, which multiplies bf16 so much faster
TRIED, FASTER = 15, 1.08


@dataclass(frozen=True)
class Ceiling:
    """call does `work`, in FLOP or in bytes that are read or written."""

    call: Callable[[], object]
    work: float


def fastest_product(
    device: str = "cpu", index: int = 0, threads: int = 0, precision: str = "fp32"
) -> Ceiling:
    """`open_product` at the side that gives most FLOP/s here: which one that is depends on caches
    and threads. The first of PRODUCTS unless another is faster than chance, so that each run on a
    machine has the same. Raises as it does."""
    found = [
        open_product(device, index, threads, precision, side, times)
        for side, times in PRODUCTS[device]
    ]
    taken = alternate({str(i): each.call for i, each in enumerate(found)}, TRIED, beside="0")
    times_first = {
        i: found[i].work / found[0].work / taken[str(i)].over() for i in range(1, len(found))
    }
    best = max(times_first, key=lambda i: times_first[i])
    return found[best if times_first[best] > FASTER else 0]


def open_product(
    device: str = "cpu",
    index: int = 0,
    threads: int = 0,
    precision: str = "fp32",
    side: int = PRODUCTS["cpu"][0][0],
    times: int = PRODUCTS["cpu"][0][1],
) -> Ceiling:
    """Square matrices multiplied one after the other, 2·side³ FLOP each; those of 384 stay in the
    cache of a core. precision: fp32 (as TF32 where ONNX Runtime can), fp16 on a GPU, bf16 on a CPU,
    where there are BF16 times as many. Only one number goes in and comes out. Raises as
    `runtime.onnx.open_graph` or its twin of OpenVINO, RuntimeMissing without the onnx package."""
    lowered = device == "cpu" and precision == "bf16"
    times *= BF16 if lowered else 1

    def build(helper: Any, types: Any) -> list[Any]:
        half = device == "cuda" and precision == "fp16"
        kind = types.FLOAT16 if half else types.FLOAT
        nodes = [
            helper.make_node("Expand", ["value", "shape"], ["single"]),
            helper.make_node("Cast", ["single"], ["m0"], to=kind),
        ]
        for i in range(times):
            nodes.append(helper.make_node("MatMul", [f"m{i}", "m0"], [f"m{i + 1}"]))
        return [*nodes, helper.make_node("Cast", [f"m{times}"], ["last"], to=types.FLOAT)]

    run = _graph(build, (side, side), device, index, threads, lowered)
    # 1 / side everywhere: every product is the same matrix again, nothing grows or underflows
    value = np.full((1, 1), 1 / side, np.float32)
    return Ceiling(lambda: run({"value": value}), 2.0 * side**3 * times)


def open_copy(device: str = "cpu", index: int = 0, threads: int = 0) -> Ceiling:
    """64 MiB of float32 read and written with the sign turned, twice, with what it takes to make
    them and to look at them. Raises as `open_product`."""

    def build(helper: Any, types: Any) -> list[Any]:
        nodes = [helper.make_node("Expand", ["value", "shape"], ["c0"])]
        for i in range(COPIES):
            last = "last" if i + 1 == COPIES else f"c{i + 1}"
            nodes.append(helper.make_node("Neg" if i % 2 else "Abs", [f"c{i}"], [last]))
        return nodes

    run = _graph(build, (COPIED // 4096, 4096), device, index, threads)
    value = np.ones((1, 1), np.float32)
    passes = 2 * COPIES + 2  # Expand writes once, ReduceMax reads once
    return Ceiling(lambda: run({"value": value}), 4.0 * COPIED * passes)


def _graph(
    build: Callable[[Any, Any], list[Any]],
    shape: tuple[int, int],
    device: str,
    index: int,
    threads: int,
    lowered: bool = False,
) -> Callable[[dict[str, Any]], Any]:
    """A call of the nodes that `build` makes from `value` (1, 1) and `shape` up to `last`; lowered:
    in bf16, in OpenVINO."""
    import tempfile
    from pathlib import Path

    from fhrt.runtime import onnx as onnx_runtime
    from fhrt.runtime import openvino
    from fhrt.runtime.session import need

    need("onnx", "bench")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        *build(helper, TensorProto),
        helper.make_node("ReduceMax", ["last"], ["most"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "ceiling",
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("most", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array(shape, np.int64), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ceiling.onnx"
        onnx.save(model, str(path))
        if lowered:
            compiled: Callable[[dict[str, Any]], Any] = openvino.open_graph(path, "bf16", threads)
            return compiled
        session, _ = onnx_runtime.open_graph(path, device, index, threads)
    return lambda given: session.run(None, given)
