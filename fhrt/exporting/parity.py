"""Two artifacts side by side on the same input, and where they begin to differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fhrt.errors import ModelError
from fhrt.models import Recipe
from fhrt.runtime.onnx import open_graph

Run = Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Parity:
    """How far two outputs are apart over all inputs: largest and mean difference and PSNR in dB,
    all over the range of the output (`spans`); values that are no number; how many inputs were
    compared."""

    largest: float
    mean: float
    psnr: float
    not_finite: int
    inputs: int

    def __str__(self) -> str:
        bad = f", {self.not_finite} values not finite" if self.not_finite else ""
        apart = f"largest difference {self.largest:.2g}, mean {self.mean:.2g}"
        return f"{apart}, {self.psnr:.0f} dB{bad}"

    def figures(self) -> dict[str, float]:
        return asdict(self)


def compare(reference: Run, candidate: Run, inputs: Iterable[np.ndarray]) -> Parity:
    """Run both on the same inputs; all outputs count."""
    largest, total, squares, count, bad, seen = 0.0, 0.0, 0.0, 0, 0, 0
    for values in inputs:
        seen += 1
        for a, b in zip(reference(values), candidate(values), strict=True):
            finite = np.isfinite(b)
            bad += int(b.size - finite.sum())
            with np.errstate(invalid="ignore"):
                difference = (np.abs(a.astype(np.float64) - b) / spans(a))[finite]
            largest = max(largest, float(difference.max(initial=0)))
            total, count = total + float(difference.sum()), count + difference.size
            squares += float((difference**2).sum())
    error = squares / max(count, 1)
    psnr = -10 * math.log10(error) if error else 200.0
    return Parity(largest, total / max(count, 1), psnr, bad, seen)


def spans(values: np.ndarray) -> np.ndarray:
    """The range of every channel of a reference, at least 1, which is that of a picture. Channels
    are axis 1 of maps (N, C, H, W), and the last of lists (N, answers, C): there a score stands
    beside pixels."""
    over = (0, 2, 3) if values.ndim == 4 else tuple(range(values.ndim - 1))
    ranges: np.ndarray = np.ptp(values.astype(np.float64), axis=over, keepdims=True)
    return ranges.clip(1.0)


# the least PSNR in dB between an ONNX and what it was made of, where a recipe says no other. bf16
# has 8 bits of mantissa; int8 is for those who measure what it costs them
GATES = {"fp32": 80.0, "fp16": 55.0, "bf16": 35.0, "int8": 25.0}
TOLERANCE = 1e-3  # largest difference of fp32; a level of 8 bits is 4e-3


def gate_of(recipe: Recipe, precision: str) -> float:
    return recipe.export.gates.get(precision, GATES[precision])


def check_parity(
    recipe: Recipe,
    precision: str,
    parity: Parity,
    departure: Callable[[], str | None] | None = None,
) -> None:
    """Raises ModelError where a parity misses the gate of its precision; `departure` then says
    where."""
    gate = gate_of(recipe, precision)
    exact = precision != "fp32" or parity.largest <= TOLERANCE
    if exact and parity.psnr >= gate and not parity.not_finite:
        return
    limit = f"{gate:.0f} dB" + (f" and {TOLERANCE:g}" if precision == "fp32" else "")
    where = f", first at {departure() or 'the output'}" if departure else ""
    raise ModelError(
        f"{recipe.name}: {precision} departs from what it was made of: {parity} "
        f"(the gate is {limit}){where}; not published"
    )


def of_network(network: nn.Module) -> Run:
    """A torch network as `compare` runs it."""

    def run(values: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            made = network(torch.from_numpy(values))
        return [output.numpy() for output in (made if isinstance(made, list) else [made])]

    return run


def of_graph(path: Path) -> Run:
    """An ONNX file in ONNX Runtime, as `compare` runs it; picture by picture where it takes but
    one."""
    session, _ = open_graph(path, "cpu")
    given = session.get_inputs()[0]
    one_by_one = given.shape[0] == 1

    def run(values: np.ndarray) -> list[np.ndarray]:
        batches = np.split(values, len(values)) if one_by_one else [values]
        made = [session.run(None, {given.name: batch}) for batch in batches]
        return [np.concatenate(outputs) for outputs in zip(*made, strict=True)]

    return run


def first_departure(
    reference: Path, candidate: Path, values: np.ndarray, gate: float
) -> str | None:
    """The first node, in the order of the reference, from which on the two ONNX files differ: its
    output, over its own range, by less than `gate` dB, or is not finite. Found by halving the list
    of the values that both name. None where they agree in all of them."""
    import onnx

    a, b = onnx.load(str(reference)), onnx.load(str(candidate))
    theirs = {name for node in b.graph.node for name in node.output}
    marks = [
        (name, node)
        for node in a.graph.node
        for name in node.output
        if name in theirs and node.op_type not in ("Shape", "Cast", "Constant")
    ]

    def departs(name: str) -> bool:
        one, two = (_value(model, name, values) for model in (a, b))
        if one is None or two is None or one.shape != two.shape:
            return False
        error = float(np.mean((one.astype(np.float64) - two) ** 2))
        span = float(one.max() - one.min()) or 1.0
        return not math.isfinite(error) or error > span**2 * 10 ** (-gate / 10)

    low, high = 0, len(marks)
    while low < high:
        middle = (low + high) // 2
        if departs(marks[middle][0]):
            high = middle
        else:
            low = middle + 1
    if low == len(marks):
        return None
    name, node = marks[low]
    return f"{node.op_type} {node.name or name}"


def _value(model: Any, name: str, values: np.ndarray) -> np.ndarray | None:
    """A value inside a model, or None where it is no floating-point tensor."""
    import onnx
    import onnxruntime as ort

    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options)
        (found,) = session.run(None, {session.get_inputs()[0].name: values})
    finally:
        del model.graph.output[:]
        model.graph.output.extend(outputs)
    return found if isinstance(found, np.ndarray) and found.dtype.kind == "f" else None
