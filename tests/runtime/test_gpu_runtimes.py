"""What ONNX Runtime and torch do about a GPU, as far as it shows without one: what they are asked
for, what they refuse, and that nothing falls back to the CPU in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from runtime_cases import L4, pictures

from fhrt.errors import FhrtError, RuntimeMissing, UsageError
from fhrt.models import recipe
from fhrt.runtime import onnx
from fhrt.runtime.gpu import find_gpu
from fhrt.runtime.session import Session, open_session

no_gpu = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")
PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.fixture
def reference() -> Session:
    """ONNX Runtime, fp32, on the CPU."""
    return open_session("restore", "cpu", "onnx", 1)


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GPU, and an onnxruntime that lists what it has no libraries for."""
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(onnx, "find_gpu", lambda index=0: L4)


def test_the_way_through_memory_of_the_device_gives_the_same(reference: Session) -> None:
    session: Any = reference
    for count in (1, 3):
        batch = pictures(count)
        made = session._run_bound(batch)  # on the CPU the device's memory is the host's
        kept = made.copy()
        assert np.array_equal(made, session(batch))
        session._run_bound(pictures(count, seed=1))
        assert np.array_equal(made, kept)


@no_gpu
@pytest.mark.parametrize("runtime", ["onnx", "onnx-tensorrt"])
def test_the_library_that_is_missing_is_named(
    runtime: str, gpu_build: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks = "tensorrt" if runtime == "onnx-tensorrt" else "cuda"
    what = "TensorRT on cuda:0" if runtime == "onnx-tensorrt" else "cuda:0"
    with pytest.raises(RuntimeMissing) as raised:
        open_session("restore", "cuda", runtime)
    said = str(raised.value)
    assert said.startswith(f"{what} was asked for, and onnxruntime cannot use it here (")
    assert f"onnxruntime_providers_{lacks}" in said and "\n" not in said


@no_gpu
@pytest.mark.parametrize("runtime", ["onnx", "onnx-tensorrt"])
@pytest.mark.parametrize("opens", [PROVIDERS[1:], PROVIDERS[2:]])
def test_a_session_that_was_opened_without_its_provider_is_refused(
    opens: list[str], runtime: str, gpu_build: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As onnxruntime-gpu does where a library is missing: it opens on what is left."""
    real, asked = onnxruntime.InferenceSession, []

    def lenient(path: Path, options: Any, providers: list[Any], **more: Any) -> Any:
        asked.extend(providers)
        session = real(path, options, providers=PROVIDERS[2:])
        session.get_providers = lambda: opens
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", lenient)
    if runtime == "onnx" and PROVIDERS[1] in opens:
        assert open_session("restore", "cuda", runtime).device == "cuda:0"
    else:
        with pytest.raises(RuntimeMissing, match="cannot use it here"):
            open_session("restore", "cuda", runtime)
    named = [word if isinstance(word, str) else word[0] for word in asked]
    assert named == (PROVIDERS if runtime == "onnx-tensorrt" else PROVIDERS[1:])
    assert all(word[1]["device_id"] == 0 for word in asked if not isinstance(word, str))


@no_gpu
def test_a_gpu_runtime_without_a_gpu_is_an_error_and_not_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    for device in ("auto", "cuda:0"):
        with pytest.raises(RuntimeMissing, match="no such NVIDIA GPU, or no driver"):
            open_session("restore", device, "onnx-tensorrt")
    with pytest.raises(UsageError, match="onnx-tensorrt runs on a GPU: use --device cuda:0"):
        open_session("restore", "cpu", "onnx-tensorrt")
    assert open_session("restore", "auto", "onnx").device == "cpu"  # auto may


@pytest.mark.parametrize(
    "options", [{"precision": "fp16"}, {"precision": "bf16"}, {"compiled": True}]
)
def test_torch_on_a_cpu_is_the_reference_and_nothing_else(options: dict[str, Any]) -> None:
    from fhrt.runtime.torch import TorchSession

    with pytest.raises(UsageError, match="fp32, eagerly, on a CPU"):
        TorchSession(recipe("restore"), "cpu", 0, 1, **options)
    with pytest.raises(UsageError, match=r"no precision 'fp15'; did you mean 'fp16'\?"):
        TorchSession(recipe("restore"), "cpu", 0, 1, precision="fp15")


@no_gpu
def test_the_doctor_names_what_a_gpu_lacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fhrt.cli.doctor import _gpu

    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    _gpu()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("gpu: none: ")
    monkeypatch.setattr("fhrt.runtime.gpu.find_gpu", lambda index=0: L4)
    try:
        _gpu()
    except FhrtError as error:  # what is missing is a line, not the end
        pytest.fail(str(error))
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert said["gpu"] == "NVIDIA L4, compute capability 8.9, driver 580.65.06"
    assert said["kernels"].startswith("no: ")
    assert said["onnx-tensorrt on cuda"].startswith("no: TensorRT on cuda:0 was asked for")
    assert said["torch on cuda"].startswith("no: cuda:0 was asked for, and torch sees no")
    assert {"tensorrt", "tensorrt_rtx"} <= said.keys()
