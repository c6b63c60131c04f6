"""What ONNX Runtime and torch do about a GPU, as far as it shows without one: what they are asked
for, what they refuse, and that nothing falls back to the CPU in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from gpu_standin import Gpu
from runtime_cases import L4, pictures

from fhrt.errors import DeviceLost, FhrtError, RuntimeMissing, UsageError
from fhrt.models import recipe
from fhrt.runtime import onnx, onnx_gpu
from fhrt.runtime.gpu import find_gpu
from fhrt.runtime.onnx import OnnxSession
from fhrt.runtime.onnx_gpu import OnnxGpuSession
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


@pytest.fixture
def there(reference: Session, monkeypatch: pytest.MonkeyPatch) -> Any:
    """ONNX Runtime's session of a GPU, over the CPU."""
    graph, _ = onnx.open_graph(recipe("restore").onnx_path(), "cpu", threads=1)
    monkeypatch.setattr(onnx, "open_graph", lambda *_: (graph, "cuda:0"))
    opened: Any = OnnxGpuSession(recipe("restore"), Gpu(), 0, 1)
    return opened


@pytest.mark.parametrize("lacking", ["the kernels", "the provider"])
def test_without_kernels_or_a_provider_auto_opens_what_it_can(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **more: Any) -> Any:
        raise RuntimeMissing("it is not here")

    monkeypatch.setattr(onnx_gpu, "offers_cuda", lambda: True)
    monkeypatch.setattr(onnx_gpu, "find_gpu", lambda index=0: L4)
    monkeypatch.setattr(onnx_gpu, "Gpu", fails if lacking == "the kernels" else lambda index: Gpu())
    monkeypatch.setattr(onnx_gpu, "OnnxGpuSession", fails)
    model = recipe("restore")
    opened = onnx_gpu.open_onnx(model, "auto", 0, 1)
    assert type(opened) is OnnxSession and opened(pictures(1)).shape == (1, 3, 64, 64)
    with pytest.raises(RuntimeMissing):
        onnx_gpu.open_onnx(model, "cuda", 0, 1)


def test_a_batch_of_the_host_halves_where_memory_is_short_and_that_is_said_once(
    there: Any, reference: Session
) -> None:
    def short(batch: np.ndarray) -> Any:
        if len(batch) > 2:
            raise RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for 1 byte")
        return there._run(batch)

    there._run_bound = short
    batch = pictures(11)
    with pytest.warns(RuntimeWarning, match="8 pictures do not fit into the memory of c") as said:
        assert np.allclose(there(batch), reference(batch), atol=1e-5)
    assert len(said) == 1 and there.batch_max == 2


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ("Failed to allocate memory\nat f.cc", FhrtError, "^restore: not even one picture fits "),
        ("CUDA failure 700: illegal\nat f.cc", DeviceLost, "^cuda:0 is lost: CUDA failure 700: il"),
        ("Invalid rank\nat f.cc", FhrtError, "^restore: onnxruntime cannot run it: Invalid rank$"),
    ],
)
def test_what_onnx_runtime_fails_with_is_one_line(
    error: str, kind: type[FhrtError], said: str, there: Any
) -> None:
    def fails(batch: np.ndarray) -> Any:
        raise RuntimeError(error)

    run, there._run_bound = there._run, fails
    with pytest.raises(kind, match=said) as raised:
        there(pictures(1))
    assert "\n" not in str(raised.value)
    there._run_bound = run
    if kind is DeviceLost:  # for good
        with pytest.raises(DeviceLost):
            there(pictures(1))
    else:
        there(pictures(1))


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
