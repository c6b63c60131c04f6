"""Polygraphy's judgement of a conversion: what it measures, what is refused, what is kept of it."""

from __future__ import annotations

import importlib
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="fhrt[train] is not installed")
pytest.importorskip("polygraphy", reason="fhrt[polygraphy] is not installed")

import polygraphy.config  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from fhrt.errors import InputError, ModelError, RuntimeMissing, UsageError  # noqa: E402
from fhrt.exporting import crosscheck as module  # noqa: E402
from fhrt.exporting.crosscheck import capability, crosscheck  # noqa: E402
from fhrt.faces import Picture  # noqa: E402
from fhrt.models import recipe  # noqa: E402
from fhrt.runtime.gpu import Gpu, find_gpu  # noqa: E402
from fhrt.runtime.onnx import open_graph  # noqa: E402

GATE = 55.0
EXACT = recipe("srgan-x4").onnx_path()
NO_RTX = importlib.util.find_spec("tensorrt_rtx") is None
# as `crosscheck` sets it; some tests import Polygraphy's modules before it does
polygraphy.config.USE_TENSORRT_RTX = importlib.util.find_spec("tensorrt") is None and not NO_RTX
needs_rtx = pytest.mark.skipif(NO_RTX, reason="fhrt[rtx] is not installed")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled network in fp16, by ONNX Runtime's converter."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = tmp_path_factory.mktemp("half") / "half.onnx"
    onnx.save(convert_float_to_float16(onnx.load(str(EXACT)), keep_io_types=True), str(path))
    return path


@pytest.fixture
def faces(astronaut: Picture) -> list[np.ndarray]:
    """Two pieces of a portrait, of two sizes."""
    whole = astronaut.transpose(2, 0, 1)[None].astype(np.float32) / 255
    return [whole[..., :32, 200:232].copy(), whole[..., :24, 200:240].copy()]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_gpu", lambda: None)


def graph(path: Path, *operators: str, scale: float = 1.0, kind: int = TensorProto.FLOAT) -> Path:
    """A chain of operators over pictures, with a multiplication at its end. Those that ONNX does
    not know are of the domain my.ops."""
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    nodes = [
        helper.make_node(
            name, [f"v{i}"], [f"v{i + 1}"], f"{name}_{i}", domain="" if name in known else "my.ops"
        )
        for i, name in enumerate(operators)
    ]
    end = f"v{len(operators)}"
    nodes.append(helper.make_node("Mul", [end, "scale"], ["out"], "last"))
    factor = helper.make_tensor("scale", kind, [1], [scale])
    value = [
        helper.make_tensor_value_info(name, kind, [None, 3, None, None]) for name in ("v0", "out")
    ]
    made = helper.make_graph(nodes, "chain", value[:1], value[1:], [factor])
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("my.ops", 1)]
    onnx.save(helper.make_model(made, opset_imports=sets, ir_version=10), str(path))
    return path


def test_a_sound_conversion_passes_and_its_report_can_be_read_back(
    half: Path, faces: list[np.ndarray], tmp_path: Path, no_gpu: None
) -> None:
    from polygraphy.comparator import AccuracyResults, PsnrThreshold, SimpleThreshold

    report = tmp_path / "there" / "report"
    facts = crosscheck(EXACT, half, faces, report, GATE)
    assert sorted(path.name for path in report.iterdir()) == ["accuracy.json", "comparison.log"]
    assert sum(path.stat().st_size for path in report.iterdir()) < 50_000
    figures = facts["pairs"]["exact, converted"]
    # the same figures by plain NumPy
    one, two = (open_graph(path, "cpu")[0] for path in (EXACT, half))
    apart = [
        np.abs(one.run(None, {"input": face})[0] - two.run(None, {"input": face})[0].astype(float))
        for face in faces
    ]
    assert figures["largest"] == pytest.approx(max(d.max() for d in apart), rel=1e-3)
    assert figures["mean"] == pytest.approx(np.mean([d.mean() for d in apart]), rel=1e-3)
    psnr = min(-10 * math.log10(np.mean(d**2)) for d in apart)
    assert figures["psnr"] == pytest.approx(psnr, abs=0.01)
    assert figures["passed"] and figures["inputs"] == 2 and GATE < psnr < 120
    assert json.loads(json.dumps(facts)) == facts
    # Polygraphy reads its own results, and holds them against another gate
    read = AccuracyResults.load(str(report / "accuracy.json"))
    assert read and len(read[0]["exact", "converted"]) == 2
    anything = SimpleThreshold("max", math.inf, math.inf)
    assert not read.reevaluate([anything, PsnrThreshold(psnr + 1)])


def test_the_log_says_what_was_compared_and_nothing_is_printed(
    half: Path, faces: list[np.ndarray], tmp_path: Path, capfd: Any, no_gpu: None
) -> None:
    for name in ("first", "second"):
        crosscheck(EXACT, half, faces, tmp_path / name, GATE)
        log = (tmp_path / name / "comparison.log").read_text(encoding="utf-8")
        assert "half.onnx against srgan-x4.onnx" in log and "shape=(1, 3, 24, 40)" in log
        assert log.count("(min required: 55 dB) | PASSED") == 2 and str(tmp_path) not in log
    assert capfd.readouterr() == ("", "")


def test_a_planted_departure_is_refused_and_the_report_shows_it(
    half: Path, faces: list[np.ndarray], tmp_path: Path
) -> None:
    model = onnx.load(str(half))
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == last.input[2]]
    values = numpy_helper.to_array(bias)
    bias.CopyFrom(numpy_helper.from_array(values + values.dtype.type(0.01), bias.name))
    onnx.save(model, str(tmp_path / "wrong.onnx"))
    with pytest.raises(
        ModelError, match=r"wrong.onnx: exact, converted: .* 40\.. dB; the gate is 55"
    ):
        crosscheck(EXACT, tmp_path / "wrong.onnx", faces, tmp_path / "report", GATE)
    assert "| FAILED" in (tmp_path / "report" / "comparison.log").read_text(encoding="utf-8")
    saved = json.loads((tmp_path / "report" / "accuracy.json").read_text(encoding="utf-8"))
    assert len(saved["lst"]) == 2


def test_the_gate_is_for_a_range_of_one_whatever_the_output_reaches(
    faces: list[np.ndarray], tmp_path: Path
) -> None:
    exact = graph(tmp_path / "exact.onnx", scale=100.0)
    other = graph(tmp_path / "other.onnx", scale=100.1)
    ones = [np.ones_like(faces[0])]
    facts = crosscheck(exact, other, ones, tmp_path / "report", 19.9)
    assert facts["pairs"]["exact, converted"]["psnr"] == pytest.approx(20, abs=1e-3)  # 0.1 apart
    with pytest.raises(ModelError, match=r"20\.0 dB; the gate is 21 dB"):
        crosscheck(exact, other, ones, tmp_path / "report", 21)


def test_equal_outputs_have_a_figure_that_json_can_hold(
    faces: list[np.ndarray], tmp_path: Path
) -> None:
    exact = graph(tmp_path / "exact.onnx", "Relu")
    facts = crosscheck(exact, exact, faces, tmp_path / "report", GATE)
    assert facts["pairs"]["exact, converted"]["psnr"] == 200
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize("scale", [math.inf, math.nan])
def test_values_that_are_not_finite_are_refused(
    faces: list[np.ndarray], tmp_path: Path, scale: float
) -> None:
    exact, other = graph(tmp_path / "e.onnx"), graph(tmp_path / "o.onnx", scale=scale)
    for one, two in ((exact, other), (other, other)):
        with pytest.raises(ModelError, match="not finite"):
            crosscheck(one, two, faces, tmp_path / "report", -1000.0)


def test_another_shape_is_refused(faces: list[np.ndarray], tmp_path: Path) -> None:
    exact, other = (graph(tmp_path / "e.onnx"), graph(tmp_path / "o.onnx", "GlobalMaxPool"))
    with pytest.raises(ModelError, match="another shape"):
        crosscheck(exact, other, faces, tmp_path / "report", 0.0)


def test_an_output_that_is_lost_is_refused_and_not_skipped(
    faces: list[np.ndarray], tmp_path: Path
) -> None:
    one = graph(tmp_path / "one.onnx", "Relu")
    model = onnx.load(str(one))
    model.graph.output.append(helper.make_tensor_value_info("v1", TensorProto.FLOAT, [None] * 4))
    onnx.save(model, str(tmp_path / "two.onnx"))
    with pytest.raises(ModelError, match=r"one.onnx: converted lacks an output that .*two.onnx"):
        crosscheck(tmp_path / "two.onnx", one, faces, tmp_path / "report", GATE)


def test_a_missing_tensorrt_is_named_with_the_reason(
    half: Path, faces: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    facts = crosscheck(EXACT, half, faces[:1], tmp_path / "report", GATE)
    assert "pip install 'fhrt[" in facts["not_run"]["tensorrt"]
    assert set(facts["runners"]) == {"exact", "converted"}
    log = (tmp_path / "report" / "comparison.log").read_text(encoding="utf-8")
    assert f"not run: tensorrt: {facts['not_run']['tensorrt']}" in log


@needs_rtx
def test_a_missing_gpu_is_named_with_the_reason(
    half: Path, faces: list[np.ndarray], tmp_path: Path, no_gpu: None
) -> None:
    facts = crosscheck(EXACT, half, faces[:1], tmp_path / "report", GATE, library="tensorrt_rtx")
    assert "there is no GPU" in facts["not_run"]["tensorrt_rtx"]


@needs_rtx
def test_a_second_library_in_one_process_is_named_and_not_mixed_with_the_first(
    half: Path, faces: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import polygraphy.datatype

    monkeypatch.setattr(polygraphy.config, "USE_TENSORRT_RTX", False)
    facts = crosscheck(EXACT, half, faces[:1], tmp_path / "report", GATE, library="tensorrt_rtx")
    assert "already uses the other library" in facts["not_run"]["tensorrt_rtx"]
    assert polygraphy.config.USE_TENSORRT_RTX is False


@needs_rtx
@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")
def test_an_engine_that_does_not_load_is_refused_if_it_was_given_and_else_named(
    faces: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything up to the GPU is real: the engine is built, and Polygraphy tries to load it."""
    monkeypatch.setattr(module, "find_gpu", lambda: Gpu("a GPU", 89, "999"))
    exact = graph(tmp_path / "exact.onnx", "Relu")
    facts = crosscheck(exact, exact, faces, tmp_path / "report", GATE)
    assert "model.engine: tensorrt_rtx" in facts["not_run"]["tensorrt_rtx"]
    assert set(facts["runners"]) == {"exact", "converted"}
    given = tmp_path / "given.engine"
    given.write_bytes(b"no engine")
    with pytest.raises(ModelError, match=r"given.engine: tensorrt_rtx .* on a GPU cannot load it"):
        crosscheck(exact, exact, faces, tmp_path / "report", GATE, given)


def test_a_type_without_kernels_is_named_and_nothing_compared_is_no_pass(
    faces: list[np.ndarray], tmp_path: Path, no_gpu: None
) -> None:
    exact = graph(tmp_path / "exact.onnx", "Round")
    other = graph(tmp_path / "other.onnx", "Round", kind=TensorProto.BFLOAT16)
    with pytest.raises(RuntimeMissing, match=r"nothing to compare .*bfloat16"):
        crosscheck(exact, other, faces, tmp_path / "report", GATE)
    log = (tmp_path / "report" / "comparison.log").read_text(encoding="utf-8")
    assert "not run: converted" in log


def test_what_cannot_be_compared_at_all_is_said_in_one_line(
    half: Path, faces: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="one or more inputs"):
        crosscheck(EXACT, half, [], tmp_path / "report", GATE)
    with pytest.raises(ModelError, match=r"absent.onnx: onnxruntime cannot load it"):
        crosscheck(EXACT, tmp_path / "absent.onnx", faces, tmp_path / "report", GATE)
    with pytest.raises(ModelError, match=r"half.onnx: cannot be cross-checked: "):
        crosscheck(EXACT, half, [faces[0][:, :1]], tmp_path / "report", GATE)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        crosscheck(EXACT, half, faces, tmp_path / "file" / "report", GATE)
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    for call in (lambda: crosscheck(EXACT, half, faces, tmp_path, GATE), lambda: capability(half)):
        with pytest.raises(RuntimeMissing, match=r"pip install 'fhrt\[polygraphy\]'"):
            call()


@needs_rtx
def test_an_unknown_operator_is_named_with_its_nodes_and_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(scratch)
    path = graph(tmp_path / "odd.onnx", "Relu", "Wobble", "Tanh", "Wobble", "Det")
    (said,) = [line for line in capability(path).split("\ntensorrt ") if "tensorrt_rtx" in line]
    first, wobble, det, rest = said.splitlines()
    assert "tensorrt_rtx 1." in first and "cannot read 3 of 6 nodes" in first
    assert "Wobble (2: Wobble_1, Wobble_3): Plugin not found" in wobble
    assert "Det (1: Det_4): unsupported node" in det
    assert "(nodes 0, 2, 5)" in rest
    assert not list(scratch.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["odd.onnx", "scratch"]


@needs_rtx
def test_a_graph_that_can_be_read_is_said_to_be_and_a_file_without_one_is_refused(
    tmp_path: Path,
) -> None:
    nodes = len(onnx.load(str(EXACT)).graph.node)
    assert f"can read all {nodes} nodes" in capability(EXACT)
    (tmp_path / "text.onnx").write_bytes(b"hello, this is no graph")
    with pytest.raises(ModelError, match=r"text.onnx: no ONNX graph in it"):
        capability(tmp_path / "text.onnx")
    with pytest.raises(ModelError, match="no such model file"):
        capability(tmp_path / "absent.onnx")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is here")
def test_a_library_that_cannot_be_asked_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name == "tensorrt")
    said = capability(graph(tmp_path / "small.onnx"))
    assert (
        said
        == "tensorrt cannot be asked: Module: 'tensorrt' is required but could not be imported."
    )
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(
        module, "open_library", lambda: (_ for _ in ()).throw(RuntimeMissing("none"))
    )
    with pytest.raises(RuntimeMissing, match="none"):
        capability(tmp_path / "small.onnx")
