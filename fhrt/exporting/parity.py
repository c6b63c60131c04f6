"""Two artifacts side by side on the same input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fhrt.runtime.onnx import open_graph


@dataclass(frozen=True)
class Parity:
    """How far two outputs are apart: largest and mean difference, and values that are no number."""

    largest: float
    mean: float
    not_finite: int

    def __str__(self) -> str:
        bad = f", {self.not_finite} values not finite" if self.not_finite else ""
        return f"largest difference {self.largest:.2g}, mean {self.mean:.2g}{bad}"


def compare(network: nn.Module, graph: Path, inputs: Iterable[np.ndarray]) -> Parity:
    """Run a torch network and an ONNX file on the same inputs; all outputs count."""
    session, _ = open_graph(graph, "cpu")
    name = session.get_inputs()[0].name
    largest, total, count, bad = 0.0, 0.0, 0, 0
    for values in inputs:
        with torch.inference_mode():
            expected = network(torch.from_numpy(values))
        outputs = expected if isinstance(expected, list) else [expected]
        for a, b in zip(outputs, session.run(None, {name: values}), strict=True):
            difference = np.abs(a.numpy().astype(np.float64) - b)
            bad += int((~np.isfinite(b)).sum())
            largest = max(largest, float(np.nanmax(difference)))
            total, count = total + float(np.nansum(difference)), count + difference.size
    return Parity(largest, total / max(count, 1), bad)
