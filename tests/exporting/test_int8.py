"""INT8 of the bundled restorer: close to fp32, and the same in every runtime that reads it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx", reason="fhrt[train] is not installed")
import onnx

from fhrt.exporting.int8 import LAYERS, quantise
from fhrt.exporting.parity import compare, of_graph
from fhrt.faces import Picture
from fhrt.layout import Planes, to_batch
from fhrt.models import recipe
from fhrt.runtime.session import open_session

RESTORE = recipe("restore")


@pytest.fixture(scope="module")
def batches(astronaut: Picture) -> list[Planes]:
    """Faces that need restoring: undamaged ones come back as they are, by any model."""
    pieces = [astronaut[20 * number :, 90:][:256, :256] for number in range(4)]
    small = [cv2.resize(piece, (64, 64), interpolation=cv2.INTER_AREA) for piece in pieces]
    return [to_batch([cv2.resize(piece, (256, 256))]) for piece in small]


@pytest.fixture(scope="module")
def model(batches: list[Planes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "restore.onnx"
    quantise(RESTORE.onnx_path(), RESTORE, batches, path)
    return path


def test_it_is_near_fp32(model: Path, batches: list[Planes]) -> None:
    parity = compare(of_graph(RESTORE.onnx_path()), of_graph(model), batches)
    assert parity.psnr > 38 and not parity.not_finite


def test_openvino_gives_what_onnx_runtime_gives(model: Path, batches: list[Planes]) -> None:
    pytest.importorskip("openvino", reason="fhrt[openvino] is not installed")
    one, other = (open_session(model, "cpu", runtime, 1) for runtime in ("onnx", "openvino"))
    for given in (batches[0], np.concatenate(batches[:3])):
        error = float(np.mean((one(given) - other(given)) ** 2))
        changed = float(np.mean((one(given) - given) ** 2))
        assert -10 * np.log10(error) > 42 and error < changed / 20


def test_all_layers_but_the_first_take_quantised_values(model: Path) -> None:
    nodes = onnx.load(model).graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    layers = [node for node in nodes if node.op_type in LAYERS]
    plain = [node for node in layers if made_by.get(node.input[0]) != "DequantizeLinear"]
    assert plain == layers[:1]
