"""Counts of graphs beside torch's own counter, and of the main path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
onnx = pytest.importorskip("onnx", reason="fhrt[train] is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import fhrt.restorer  # noqa: E402
from fhrt.bench import gate  # noqa: E402
from fhrt.bench.counts import count_graph, count_networks, count_path, precision_of  # noqa: E402
from fhrt.errors import ModelError  # noqa: E402
from fhrt.exporting.to_onnx import trace  # noqa: E402
from fhrt.faces import Picture, choose_side  # noqa: E402
from fhrt.models import Recipe, recipe  # noqa: E402
from fhrt.networks import build  # noqa: E402
from fhrt.restorer import Restorer  # noqa: E402


def counted_by_torch(network: torch.nn.Module, shape: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(shape))
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("restore", (2, 3, 256, 384)),  # computes shapes from shapes
        ("unmask-256", (1, 3, 256, 256)),  # transposed convolutions
        ("facesr-attention", (3, 3, 64, 64)),
        ("srgan-x8", (1, 3, 16, 16)),
    ],
)
def test_flops_are_those_that_torch_counts(name: str, shape: tuple[int, ...]) -> None:
    found = recipe(name)
    network = build(found.network, **found.options)
    assert count_graph(found.onnx_path(), shape).flops == counted_by_torch(network, shape)


def test_flops_of_matrix_products_and_modulated_convolutions(tmp_path: Path) -> None:
    options = {"out_size": 8, "channel_multiplier": 1, "narrow": 0.25, "style": 64}
    small = Recipe("small", "", "restore", "gfpgan", "MIT", True, 1, (8,), 8, options)
    network = build("gfpgan", **options).eval()
    onnx.save(trace(network, small), str(tmp_path / "small.onnx"))
    shape = (2, 3, 8, 8)
    # pictures for a training loss, which nothing in the exported graph reads
    network.toRGB = torch.nn.ModuleList(torch.nn.Identity() for _ in network.toRGB)
    assert count_graph(tmp_path / "small.onnx", shape).flops == counted_by_torch(network, shape)


def test_flops_of_each_stage_are_those_of_the_looks_and_the_crops(astronaut: Picture) -> None:
    restorer = Restorer("restore", device="cpu", runtime="onnx", threads=1)
    file = recipe("restore").onnx_path()
    finder = build("detector")
    looks = counted_by_torch(finder, (1, 3, 192, 320)) + counted_by_torch(finder, (1, 3, 96, 160))
    grey = np.full((180, 320, 3), 128, np.uint8)
    assert count_networks(restorer, grey, file) == {"restore": 0, "detect": looks}
    session = restorer.session
    found = count_networks(restorer, astronaut, file)
    assert restorer.session is session
    side = choose_side(restorer.detect(astronaut)[0].landmarks, 1, session.sizes)
    assert found["restore"] == counted_by_torch(
        build("restore", **recipe("restore").options), (1, 3, side, side)
    )
    assert found["detect"] > looks


def test_bytes_nodes_and_weights_of_a_graph_that_is_counted_by_hand(tmp_path: Path) -> None:
    weights = np.ones((4, 3, 3, 3), np.float32)
    path = saved(
        tmp_path,
        [
            helper.make_node("Conv", ["input", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["output"]),
        ],
        weights,
    )
    work = count_graph(path, (1, 3, 8, 8))
    given, made = 3 * 64 * 4, 4 * 64 * 4
    assert work.flops == 2 * 64 * 4 * 3 * 9
    assert work.bytes == (given + weights.nbytes + made) + 2 * made
    assert (work.nodes, work.weights) == (2, weights.nbytes)


def test_a_size_that_a_graph_does_not_take_is_one_line() -> None:
    with pytest.raises(ModelError, match="does not take") as caught:
        count_graph(recipe("landmarks").onnx_path(), (1, 3, 50, 50))
    assert "\n" not in str(caught.value)


def test_the_precision_is_that_of_the_products_not_of_what_is_stored(tmp_path: Path) -> None:
    assert precision_of(recipe("restore").onnx_path()) == "fp32"  # its weights are fp16
    half = np.ones((4, 3, 3, 3), np.float16)
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Cast", ["c"], ["output"], to=TensorProto.FLOAT),
    ]
    assert precision_of(saved(tmp_path, nodes, half)) == "fp16"
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["x"]),
        helper.make_node("Conv", ["x", "w"], ["output"]),
    ]
    full = half.astype(np.float32)
    assert precision_of(saved(tmp_path, nodes, full, scale)) == "int8"


def saved(folder: Path, nodes: list, weights: np.ndarray, *more: object) -> Path:
    values = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, "h", "w"]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weights, "w"), *more]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(folder / "graph.onnx"))
    return folder / "graph.onnx"


def test_the_main_path_pulls_each_picture_once_and_copies_each_crop_twice(
    restorer: Restorer, astronaut: Picture
) -> None:
    counts = count_path(restorer, [astronaut] * 6)
    (face,) = restorer.detect(astronaut)
    side = restorer._cut(astronaut, 0, face).before.shape[0]
    assert (counts["pictures"], counts["crops"]) == (6, 6)
    assert counts["calls"] == 2  # groups of four pictures
    assert counts["bytes"] == 6 * 2 * 3 * side * side * 4


def test_counts_repeat_and_a_needless_copy_of_every_picture_fails_the_gate(
    restorer: Restorer, astronaut: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken() -> dict[str, object]:
        counts = {"path restore": count_path(restorer, [astronaut] * 2)}
        return {"machine": {"kind": "here"}, "rows": [], "counts": counts}

    before = taken()
    assert gate.compare(before, taken()) == []
    plain = fhrt.restorer.enlarge
    kept: list[Picture] = []

    def wasteful(picture: Picture, scale: int) -> Picture:
        kept.append(picture.copy())
        return plain(picture, scale)

    monkeypatch.setattr(fhrt.restorer, "enlarge", wasteful)
    found = [finding.text for finding in gate.compare(before, taken())]
    assert any("peak grew" in text for text in found), found
