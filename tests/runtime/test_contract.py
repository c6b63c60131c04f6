"""The contract of a session, kept by every runtime: on the CPU; by TensorRT over a stand-in, which
shows what we do with it; and on a GPU, where there is one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_standin import NAMES
from runtime_cases import artifact, lacking, pictures, stand_in

from fhrt.errors import FhrtError, RuntimeMissing, UsageError
from fhrt.exporting.builders import EngineOptions
from fhrt.exporting.engine import build_engine, engine_key
from fhrt.exporting.parity import GATES
from fhrt.exporting.precision import lower
from fhrt.exporting.profile import Profile
from fhrt.models import recipe
from fhrt.quality.metrics import psnr
from fhrt.runtime.gpu import find_gpu
from fhrt.runtime.session import Session, open_session

ON_CPU = ["onnx", "openvino", "openvino-bf16", "openvino-bf16x2", "torch"]
ON_GPU = [
    "onnx cuda",
    "onnx-tensorrt cuda",
    "torch cuda fp32",
    "torch cuda fp16",
    "torch cuda bf16",
    pytest.param("torch cuda fp32 compiled", marks=pytest.mark.slow),
    "tensorrt cuda fp32",
    "tensorrt cuda fp16",
    "tensorrt_rtx cuda fp32",
]
SIZES = Profile((1, 4, 8), (16, 64, 512), (16, 64, 512))


def on_cpu(runtime: str) -> Session:
    if runtime.startswith("openvino"):
        if importlib.util.find_spec("openvino") is None:
            pytest.skip("fhrt[openvino] is not installed")
        from fhrt.runtime.openvino import multiplies_bf16

        if "bf16" in runtime and not multiplies_bf16():
            pytest.skip("this processor does not multiply bf16")
    if runtime == "torch":
        try:
            recipe("restore").weights_path()
        except FhrtError as error:
            pytest.skip(str(error))
    return open_session("restore", "cpu", runtime, 1)


def on_gpu(words: list[str], folder: Path) -> Session:
    if find_gpu() is None:
        lacking("there is no NVIDIA GPU, or no driver for it")
    runtime, precision = words[0], (*words, "", "fp32")[2] or "fp32"
    try:
        if runtime.startswith("tensorrt"):
            return open_built(runtime, precision, folder)
        if runtime == "torch":
            from fhrt.runtime.torch import TorchSession

            return TorchSession(recipe("restore"), "cuda", 0, 0, precision, "compiled" in words)
        return open_session("restore", "cuda", runtime)
    except RuntimeMissing as error:
        if "does not run on" in str(error):  # a fact about this GPU, not about this machine
            pytest.skip(str(error))
        lacking(str(error))


def open_built(library: str, precision: str, folder: Path) -> Session:
    """A session over an engine that is built for it now."""
    from fhrt.runtime.tensorrt import TensorRtSession

    model, onnx = recipe("restore"), recipe("restore").onnx_path()
    if precision != "fp32":
        lower(onnx, model, precision, folder / "model.onnx")
        onnx = folder / "model.onnx"
    facts = build_engine(onnx, folder / "model.engine", SIZES, EngineOptions(library))
    return TensorRtSession(model, folder / "model.engine", facts.key, precision)


STAND_INS = [f"stand-in {name}" for name in (min(NAMES), max(NAMES))]  # one a library


@pytest.fixture(scope="module", params=[*ON_CPU, *STAND_INS, *ON_GPU])
def session(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Session]:
    words = request.param.split()
    with pytest.MonkeyPatch.context() as patch:  # what runtimes keep is not for the user
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("FHRT_WEIGHTS", str(folder))
        if words[0] == "stand-in":
            release = " ".join(words[1:])
            stand_in(patch, release)
            opened: Any = open_session(artifact(folder / "restore-tensorrt", release))
            yield opened
            opened.close()
        elif "cuda" in words:
            yield on_gpu(words, folder)
        else:
            yield on_cpu(words[0])


@pytest.fixture
def reference() -> Session:
    """ONNX Runtime, fp32, on the CPU."""
    return open_session("restore", "cpu", "onnx", 1)


def agree(session: Session, given: np.ndarray, expected: np.ndarray) -> None:
    """As nearly as the precision allows: the gate that exports of it have to pass."""
    assert given.shape == expected.shape and given.dtype == np.float32
    gate = GATES[session.precision.removesuffix("x2")]
    assert psnr(255 * given, 255 * expected) >= gate or np.array_equal(given, expected)
    if session.precision == "fp32":
        assert np.abs(given - expected).max() < 1e-3


@pytest.mark.parametrize(
    "shape", [(1, 256, 256), (3, 256, 256), (1, 384, 384), (1, 512, 512), (3, 96, 160), (2, 16, 48)]
)
def test_a_session_gives_what_onnx_runtime_gives_on_the_cpu_at_every_size(
    shape: tuple[int, int, int], session: Session, reference: Session
) -> None:
    batch = pictures(*shape)
    before = batch.copy()
    output = session(batch)
    assert output.shape == batch.shape and output.dtype == np.float32
    assert np.isfinite(output).all() and output.min() > -0.5 and output.max() < 1.5
    assert np.array_equal(batch, before)
    agree(session, output, reference(batch))


def test_a_session_says_what_it_is(session: Session, request: pytest.FixtureRequest) -> None:
    words = request.node.callspec.params["session"].replace("stand-in ", "").split()
    assert session.runtime == words[0]
    assert session.name == "restore" and session.scale == 1
    assert session.sizes == (256, 384, 512)
    assert session.device == ("cpu" if words[0] in ON_CPU and "cuda" not in words else "cuda:0")
    lower = words[0].removeprefix("openvino-") if "bf16" in words[0] else "fp32"
    assert session.precision == next((w for w in words if w in GATES), lower)
    assert session.batch_max == 8


def test_every_batch_up_to_the_largest_and_beyond_it_gives_the_same_pictures(
    session: Session, reference: Session
) -> None:
    whole = pictures(2 * session.batch_max + 3)
    expected = np.concatenate([reference(whole[i : i + 1]) for i in range(len(whole))])
    for count in (*range(1, session.batch_max + 2), len(whole)):
        agree(session, session(whole[-count:]), expected[-count:])


def test_an_output_is_not_overwritten_by_the_next_call(session: Session) -> None:
    first = session(pictures(2))
    kept = first.copy()
    second = session(pictures(2, seed=1))
    assert np.array_equal(first, kept) and not np.array_equal(first, second)
    first[:] = 0  # and is the caller's to write to
    assert np.array_equal(session(pictures(2)), kept) or session.device != "cpu"


def test_an_input_need_not_be_contiguous(session: Session) -> None:
    picture = np.ascontiguousarray(pictures(2).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    large = pictures(2, 128, 128)
    for batch in (picture, large[:, ::-1, 32:96, ::-2], large[::-1]):
        assert not batch.flags.c_contiguous
        agree(session, session(batch), session(np.ascontiguousarray(batch)))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((3, 64, 64), np.float32),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 1, 64, 64), np.float32),
        np.zeros((1, 3, 64, 64), np.float64),
        np.zeros((1, 3, 64, 64), np.uint8),
        np.zeros((0, 3, 64, 64), np.float32),
        np.zeros((1, 3, 0, 64), np.float32),
        np.zeros((1, 3, 64, 65), np.float32),
    ],
    ids=["one picture", "NHWC", "grey", "float64", "bytes", "none", "no rows", "an odd size"],
)
def test_what_is_no_batch_is_a_usage_error_of_one_line(wrong: np.ndarray, session: Session) -> None:
    with pytest.raises(UsageError) as raised:
        session(wrong)
    assert str(wrong.shape) in str(raised.value) or "multiples of 16" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert session(pictures(1)).shape == (1, 3, 64, 64)  # and goes on


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
def test_an_engine_takes_and_gives_arrays_of_the_gpu(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    session: Any = on_gpu([library, "cuda", "fp32"], tmp_path)
    from fhrt.runtime import cuda

    batch = pictures(11)
    expected, made = session(batch), np.empty_like(batch)
    given = cuda.DeviceArray(batch.shape, 0, session.gpu.stream)
    cuda.call("cuMemcpyHtoD", given.address, batch.ctypes.data, batch.nbytes)
    cuda.call("cuCtxSynchronize")
    output = session(given)
    session.gpu.stream.sync()
    cuda.call("cuMemcpyDtoH", made.ctypes.data, output.address, made.nbytes)
    assert np.array_equal(made, expected)
    session.close()
    free, _ = cuda.call("cuMemGetInfo")
    for _ in range(3):  # opening and closing holds nothing
        again: Any = type(session)(recipe("restore"), *session_arguments(tmp_path, library))
        again(batch)
        again.close()
    assert cuda.call("cuMemGetInfo")[0] > free - (64 << 20)


def session_arguments(folder: Path, library: str) -> tuple[Path, dict[str, str], str]:
    """Of the engine that `open_built` left in a folder."""
    key = engine_key(recipe("restore").onnx_path(), SIZES, EngineOptions(library))
    return folder / "model.engine", key, "fp32"
