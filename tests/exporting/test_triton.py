"""The model repository, read back by the protobuf that Triton itself reads it with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fhrt.errors import InputError, ModelError, UsageError
from fhrt.exporting.profile import profile_of
from fhrt.exporting.triton import write_repository
from fhrt.models import recipe

RESTORE = recipe("restore")


def parsed(model: Path) -> Any:
    reason = "tritonclient is not installed; pip install 'tritonclient[grpc]'"
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason=reason)
    from google.protobuf import text_format

    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, config.ModelConfig())


def test_an_onnx_model_is_laid_out_as_triton_expects_it(tmp_path: Path) -> None:
    model = write_repository(RESTORE.onnx_path(), RESTORE, tmp_path / "models", 8, instances=2)
    assert model == tmp_path / "models" / "restore"
    laid = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "models").rglob("*"))
    assert laid == [
        "models/restore",
        "models/restore/1",
        "models/restore/1/model.onnx",
        "models/restore/config.pbtxt",
    ]
    assert (model / "1" / "model.onnx").read_bytes() == RESTORE.onnx_path().read_bytes()
    config = parsed(model)
    assert (config.name, config.platform, config.max_batch_size) == (
        "restore",
        "onnxruntime_onnx",
        8,
    )
    (given,), (made,) = config.input, config.output
    assert (given.name, list(given.dims)) == ("input", [3, -1, -1])
    assert list(made.dims) == [3, -1, -1]
    assert (
        given.data_type
        == made.data_type
        == type(config)
        .DESCRIPTOR.file.enum_types_by_name["DataType"]
        .values_by_name["TYPE_FP32"]
        .number
    )
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, group.KIND_GPU)
    warmed = [(each.batch_size, *each.inputs["input"].dims) for each in config.model_warmup]
    assert warmed == [(n, 3, side, side) for side in (256, 384, 512) for n in (1, 8)]
    assert all(each.inputs["input"].random_data for each in config.model_warmup)


def test_the_names_in_the_configuration_are_those_of_the_graph(tmp_path: Path) -> None:
    import onnxruntime

    detector = recipe("detector")
    session = onnxruntime.InferenceSession(detector.onnx_path())
    config = parsed(write_repository(detector.onnx_path(), detector, tmp_path, 1, device="cpu"))
    assert [value.name for value in config.output] == [o.name for o in session.get_outputs()]
    for value, output in zip(config.output, session.get_outputs(), strict=True):
        dims = [size if isinstance(size, int) else -1 for size in output.shape[1:]]
        assert list(value.dims) == dims
    assert config.instance_group[0].kind == config.instance_group[0].KIND_CPU
    (warm,) = config.model_warmup
    assert list(warm.inputs["input"].dims) == [3, 256, 256]


def test_an_engine_is_served_within_its_profile(tmp_path: Path) -> None:
    engine = tmp_path / "restore.engine"
    engine.write_bytes(b"ftrt of tensorrt")
    graph, profile = RESTORE.onnx_path(), profile_of(RESTORE, "1:2:4", "256:512")
    model = write_repository(engine, RESTORE, tmp_path / "m", 4, graph=graph, profile=profile)
    assert (model / "1" / "model.plan").read_bytes() == b"ftrt of tensorrt"
    config = parsed(model)
    assert (config.platform, config.max_batch_size) == ("tensorrt_plan", 4)
    warmed = [(each.batch_size, *each.inputs["input"].dims) for each in config.model_warmup]
    assert warmed == [(1, 3, 512, 512), (4, 3, 512, 512)]


def test_what_triton_could_not_serve_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    graph, profile = RESTORE.onnx_path(), profile_of(RESTORE, "1:2:4")
    engine, rtx, broken = (tmp_path / name for name in ("a.engine", "b.engine", "c.onnx"))
    engine.write_bytes(b"ftrt of tensorrt")
    rtx.write_bytes(b"vtrt of tensorrt_rtx")
    broken.write_bytes(graph.read_bytes()[:1000])
    target = tmp_path / "models"
    built: dict[str, Any] = {"graph": graph, "profile": profile}
    for model, batch, more, error, words in [
        (tmp_path / "a.pth", 8, {}, UsageError, "given one of"),
        (tmp_path / "none.onnx", 8, {}, ModelError, "no such model file"),
        (broken, 8, {}, ModelError, "no ONNX file"),
        (graph, 0, {}, UsageError, "1 or more"),
        (graph, 8, {"device": "tpu"}, UsageError, "unknown device"),
        (engine, 4, {}, UsageError, "which graph"),
        (engine, 8, built, UsageError, "batch 8 is outside"),
        (engine, 4, built | {"device": "cpu"}, UsageError, "runs on a GPU"),
        (rtx, 4, built, ModelError, "tensorrt_rtx"),
    ]:
        with pytest.raises(error, match=words):
            write_repository(model, RESTORE, target, batch, **more)
    assert not target.exists()


def test_a_failed_write_leaves_the_model_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_repository(RESTORE.onnx_path(), RESTORE, tmp_path, 2)
    write_repository(RESTORE.onnx_path(), RESTORE, tmp_path, 4)
    assert "max_batch_size: 4" in (before / "config.pbtxt").read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        write_repository(RESTORE.onnx_path(), RESTORE, tmp_path, 8)
    assert "max_batch_size: 4" in (before / "config.pbtxt").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["restore"]
