"""The TensorRT session over a library and a GPU of the host (gpu_standin.py): what it asks of them,
what it holds and frees, and what it says when they fail. tests/runtime/test_contract.py runs the
same session on a GPU."""

from __future__ import annotations

import ast
import gc
import importlib.util
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda.bindings.driver import CUresult
from gpu_standin import CONTEXT, NAMES, STREAM, Driver, plan_of
from runtime_cases import L4, PROFILE, artifact, pictures, stand_in

from fhrt.errors import FhrtError, ModelError, RuntimeMissing, UsageError
from fhrt.models import recipe
from fhrt.runtime import cuda, engine_library, gpu, tensorrt
from fhrt.runtime.choice import Choice
from fhrt.runtime.session import Session, open_session

TENSORRT = [release for release in NAMES if release.startswith("tensorrt ")]
LOST = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.fixture
def reference() -> Session:
    """ONNX Runtime, fp32, on the CPU."""
    return open_session("restore", "cpu", "onnx", 1)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the session of an artifact on the stand-in of a release; `driver` and `trt` of what it
    gives are the stand-in's."""
    opened: list[Any] = []

    def start(release: str = TENSORRT[0], content: bytes | None = None, **changes: Any) -> Any:
        trt, driver = stand_in(monkeypatch, release)
        capacity = changes.pop("capacity", None)
        driver.capacity = capacity or driver.capacity
        folder = artifact(tmp_path / "restore-tensorrt", release, content, **changes)
        here = SimpleNamespace(trt=trt, driver=driver, folder=folder)
        opened.append(here)
        here.session = open_session(folder, "cuda:0", "tensorrt")
        return here

    setattr(start, "opened", opened)  # noqa: B010
    yield start
    for here in opened:
        if session := getattr(here, "session", None):
            session.close()


class OnDevice:
    """float32 values in the stand-in's device memory."""

    def __init__(self, driver: Driver, values: np.ndarray) -> None:
        driver.stack.append(5)
        _, self.address = driver.cuMemAlloc(values.nbytes)
        driver.stack.pop()
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.address, False),
            "version": 3,
        }
        driver.blocks[self.address][:] = values.view(np.uint8).ravel()


def names_used(source: str) -> set[tuple[str, str]]:
    """(class, name) for `trt.CLASS.NAME`, and for the names that are asked of engine, context, …"""
    classes = {
        "config": "IRuntimeConfig",
        "context": "IExecutionContext",
        "engine": "ICudaEngine",
        "_engine": "ICudaEngine",
        "runtime": "Runtime",
    }
    used = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(ast.Attribute(ast.Name("trt"), kind), name):
                used.add((kind, name))
            case ast.Attribute(ast.Attribute(ast.Name("self"), kind), name) if kind in classes:
                used.add((classes[kind], name))
            case ast.Attribute(ast.Name(variable), name) if variable in classes:
                used.add((classes[variable], name))
    return {(kind, name) for kind, name in used if not name.startswith("__")}


@pytest.mark.parametrize("release", NAMES)
def test_every_name_that_is_used_is_in_the_bindings(release: str) -> None:
    used = set()
    for module in (tensorrt, engine_library):
        used |= names_used(Path(str(module.__file__)).read_text(encoding="utf-8"))
    rtx_only = {
        ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"),
        ("IRuntimeConfig", "cuda_graph_strategy"),
    }
    used -= {("ICudaEngine", name) for name in ("is_file", "read_bytes")}  # a path of that name
    assert used > rtx_only | {
        ("IExecutionContext", "execute_async_v3"),
        ("ICudaEngine", "create_execution_context"),
        ("Runtime", "deserialize_cuda_engine"),
        ("DataType", "FLOAT"),
    }
    known = {(kind, name) for kind, names in NAMES[release].items() for name in names}
    assert used - known == (rtx_only if release in TENSORRT else set())


def test_the_driver_of_the_stand_in_takes_what_the_real_one_takes() -> None:
    from cuda.bindings import driver

    own = Driver()
    for name in own.functions():
        real = list(inspect.signature(getattr(driver, name)).parameters)
        assert list(inspect.signature(getattr(own, name)).parameters) == real, name
    source = "".join(Path(str(m.__file__)).read_text() for m in (cuda, tensorrt))
    assert set(re.findall(r'"(cu[A-Z]\w+)"', source)) == set(own.functions())


@pytest.mark.parametrize("release", NAMES)
def test_every_release_is_asked_for_a_graph_of_each_batch_and_size_once(
    release: str, machine: Callable[..., Any], reference: Session
) -> None:
    here = machine(release)
    session, done = here.session, here.driver.done
    opened = len(here.trt.contexts)  # to learn the shapes
    for count in (3, 4, 3, 7):
        assert np.allclose(session(pictures(count)), reference(pictures(count)), atol=1e-4)
    session(pictures(4, 32, 48))
    shapes = [context._shape for context in here.trt.contexts[opened:]]
    assert shapes == [(4, 3, 64, 64), (8, 3, 64, 64), (4, 3, 32, 48)]
    graphs = 0 if release.startswith("tensorrt_rtx") else 3  # it captures them itself
    assert done["cuGraphInstantiate"] == graphs
    assert done["cuGraphLaunch"] == (5 if graphs else 0)
    assert done["cuMemAlloc"] == 3 and done["cuMemHostAlloc"] == 2  # nothing at a call
    assert not here.driver.stack


@pytest.mark.parametrize("count", [1, 3, 8, 21])
def test_a_batch_on_the_device_stays_there(
    count: int, machine: Callable[..., Any], reference: Session
) -> None:
    here = machine()
    values = pictures(count)
    given = OnDevice(here.driver, values)
    made = here.session(given)
    assert isinstance(made, cuda.DeviceArray) and made.shape == values.shape
    assert not here.driver.done["cuMemcpyHtoDAsync"] + here.driver.done["cuMemcpyDtoHAsync"]
    about = made.__cuda_array_interface__
    block = here.driver.blocks[about["data"][0]]
    kept = block.view(about["typestr"]).reshape(about["shape"]).copy()
    assert np.allclose(kept, reference(values), atol=1e-4)
    another = here.session(OnDevice(here.driver, pictures(count, seed=1)))
    assert np.array_equal(block.view(np.float32).reshape(kept.shape), kept)
    before = here.driver.used
    del made, another
    assert before - here.driver.used == 2 * values.nbytes
    wrong = OnDevice(here.driver, np.zeros((1, 3, 64, 64), np.float16))
    with pytest.raises(UsageError, match=r"float32 \(N, 3, H, W\); this one is float16"):
        here.session(wrong)
    wrong.__cuda_array_interface__ |= {"typestr": "<f4", "strides": (1, 1, 1, 4)}
    with pytest.raises(UsageError, match="contiguous"):
        here.session(wrong)


def test_only_an_array_of_another_stream_is_waited_for(
    machine: Callable[..., Any], reference: Session
) -> None:
    here = machine()
    values = pictures(3)
    here.session(OnDevice(here.driver, values))  # which makes the plan

    def waits(given: Any) -> int:
        before = here.driver.done["cuStreamSynchronize"]
        made = here.session(given)
        about = made.__cuda_array_interface__
        assert about["stream"] == STREAM  # who reads it in another one has to wait
        block = here.driver.blocks[about["data"][0]].view(np.float32)
        assert np.allclose(block.reshape(values.shape), reference(values), atol=1e-4)
        return here.driver.done["cuStreamSynchronize"] - before

    assert waits(OnDevice(here.driver, values)) == 1
    with cuda.within(CONTEXT):
        own = cuda.DeviceArray(values.shape, 0, here.session.gpu.stream)
    here.driver.blocks[own.address][:] = values.view(np.uint8).ravel()
    assert waits(own) == 0


def need_for(most: int) -> int:
    """Bytes on the device that the session holds for batches of up to `most`."""
    return (4 + 4 + 16) * most * 3 * 512 * 512


@pytest.mark.parametrize("fit", [4, 2, 1])
def test_where_memory_is_short_the_batch_halves_and_that_is_said_once(
    fit: int, machine: Callable[..., Any], reference: Session
) -> None:
    with pytest.warns(RuntimeWarning, match=r"8 of 512×512 do not fit into the memory of cuda:0"):
        here = machine(capacity=need_for(fit) + 1000)
    session, driver = here.session, here.driver
    assert session.batch_max == fit
    whole = pictures(7)
    assert np.allclose(session(whole), reference(whole), atol=1e-4)
    driver.fails["cuGraphInstantiate"] = CUresult.CUDA_ERROR_OUT_OF_MEMORY
    if fit == 1:
        with pytest.raises(
            FhrtError, match=r"1 of 512×512 do not fit.* smaller pictures"
        ) as raised:
            session(pictures(1, 32, 32))
        assert "\n" not in str(raised.value)
        return
    driver.fails.clear()
    here.trt.says = "Error Code 2: OutOfMemory (no memory\n left)"
    kind = type(here.trt.contexts[-1])
    refuse = kind.execute_async_v3

    def refuse_once(context: Any, stream_handle: int) -> bool:
        said = refuse(context, stream_handle)
        here.trt.says = ""
        return said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "execute_async_v3", refuse_once)
        given = pictures(7, 32, 32)
        assert np.allclose(session(given), reference(given), atol=1e-4)
    assert session.batch_max == fit // 2 and driver.used == need_for(fit // 2)


def test_what_does_not_fit_at_all_is_one_line_and_leaves_nothing(
    machine: Callable[..., Any],
) -> None:
    with (
        pytest.warns(RuntimeWarning, match="8 of 512×512"),
        pytest.raises(FhrtError, match=r"model\.engine: 1 of 512×512 do not fit into the memory"),
    ):
        machine(capacity=need_for(1) - 1)
    (here,) = machine.opened
    assert here.driver.done["cuMemAlloc"] > 3  # something was there meanwhile
    assert not here.driver.used and not here.driver.pinned and not here.driver.stack


def test_a_lost_device_ends_the_session_in_one_line(machine: Callable[..., Any]) -> None:
    here = machine()
    here.session(pictures(1))
    here.driver.fails["cuGraphLaunch"] = LOST
    for _ in range(2):
        with pytest.raises(RuntimeMissing) as raised:
            here.session(pictures(1))
        assert re.fullmatch(
            r"cuda:0 is lost: cuGraphLaunch gives CUDA_ERROR_ILLEGAL_ADDRESS; .* start again",
            str(raised.value),
        )
    assert here.driver.done["cuGraphLaunch"] == 2  # one that went well, one that did not
    assert not here.driver.stack


def test_what_the_library_refuses_to_run_is_said_in_one_line(machine: Callable[..., Any]) -> None:
    here = machine()
    here.trt.says = "Error Code 3:\n API usage"
    with pytest.raises(
        FhrtError, match=r"model\.engine: tensorrt cannot run it: Error Code 3: API"
    ):
        here.session(pictures(1))
    here.trt.says = ""
    assert here.session(pictures(1)).shape == (1, 3, 64, 64)


def test_an_engine_that_cannot_be_captured_runs_without_a_graph(
    machine: Callable[..., Any], reference: Session
) -> None:
    here, batch = machine(), pictures(3)
    invalid = CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED

    def end(hStream: int) -> Any:
        here.driver.capturing = None
        return (invalid, None)

    here.driver.cuStreamEndCapture = end
    for _ in range(2):
        assert np.allclose(here.session(batch), reference(batch), atol=1e-4)
    assert not here.driver.done["cuGraphLaunch"]


CHANGED = [
    ({"version": "10.1.0"}, r"built for tensorrt 10\.1\.0, and 10\.12\.0\.36 is here"),
    ({"gpu": "NVIDIA H200"}, r"built for NVIDIA H200, and NVIDIA L4 \(89\) is here"),
    ({"gpu": "NVIDIA A2", "options": "hardware=same", "compute_capability": "86"}, "NVIDIA A2"),
]


@pytest.mark.parametrize(("changes", "said"), CHANGED)
def test_an_engine_of_elsewhere_is_refused_with_the_way_to_a_new_one(
    changes: dict[str, str], said: str, machine: Callable[..., Any]
) -> None:
    with pytest.raises(ModelError, match=said) as raised:
        machine(**changes)
    assert str(raised.value).endswith("build it anew: `fhrt export restore --to tensorrt`")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"driver": "570.1"},
        {"version": "10.1.0", "options": "version_compatible=True"},
        {"gpu": "NVIDIA RTX 4090", "options": "hardware=same"},
        {"gpu": "NVIDIA A100", "compute_capability": "80", "options": "hardware=ampere+"},
    ],
)
def test_an_engine_that_was_built_for_others_too_is_run(
    changes: dict[str, str], machine: Callable[..., Any]
) -> None:
    assert machine(**changes).session(pictures(1)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("capability", "fits"), [("89", True), ("86 89", True), ("80 and later", True), ("86", False)]
)
def test_engines_of_tensorrt_rtx_fit_by_compute_capability(
    capability: str, fits: bool, machine: Callable[..., Any]
) -> None:
    release = list(NAMES)[-1]
    if fits:
        assert machine(release, compute_capability=capability).session.runtime == "tensorrt_rtx"
    else:
        with pytest.raises(ModelError, match=r"compute capability 86, and NVIDIA L4 \(89\)"):
            machine(release, compute_capability=capability)


def test_a_file_that_is_no_engine_is_refused_with_what_the_library_says(
    machine: Callable[..., Any],
) -> None:
    with pytest.raises(ModelError) as raised:
        machine(content=b"not an engine")
    assert re.search(r"model\.engine: tensorrt 10\.12\S* refuses it: .*magic", str(raised.value))
    assert "does not match; build it anew: `fhrt export" in str(raised.value)


def test_a_size_outside_the_profile_is_a_usage_error(machine: Callable[..., Any]) -> None:
    session = machine().session
    for shape, said in [((528, 64), "height 528"), ((64, 1024), "width 1024")]:
        with pytest.raises(UsageError, match=f"{said} is outside the .* 16 to 512; .*--size"):
            session(pictures(1, *shape))


def test_a_batch_below_the_smallest_of_the_profile_is_padded(
    machine: Callable[..., Any], reference: Session
) -> None:
    profile = [(3, 3, 64, 64), (5, 3, 64, 64), (6, 3, 64, 64)]
    here = machine(content=plan_of(recipe("restore").onnx_path(), profile))
    for count in (1, 3, 5, 13):
        batch = pictures(count)
        assert np.allclose(here.session(batch), reference(batch), atol=1e-4)
    ran = {context._shape[0] for context in here.trt.contexts if context._ran}
    assert ran == {3, 6}  # 4 lies between them, and is a bucket; 5 and 6 go into 6
    assert here.session.batch_max == 6


@pytest.mark.parametrize("how", ["close", "the garbage collector"])
def test_everything_is_freed(how: str, machine: Callable[..., Any]) -> None:
    here = machine()
    for count in (1, 2, 8):
        here.session(pictures(count, 16, 16))
    assert here.driver.used and here.driver.pinned and here.driver.graphs
    if how == "close":
        here.session.close()
        here.session.close()
        with pytest.raises(UsageError, match="closed"):
            here.session(pictures(1))
    else:
        here.session = None
        gc.collect()
    assert not here.driver.used and not here.driver.pinned and not here.driver.graphs
    assert not here.driver.stack


def test_graphs_of_many_sizes_do_not_pile_up(
    machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "KEPT", 3)
    here = machine()
    for side in (16, 32, 48, 16, 64, 16):
        here.session(pictures(1, side, side))
    assert len(here.driver.graphs) == 3
    assert here.driver.done["cuGraphInstantiate"] == 4  # that of 16, which is used most, stays


def test_threads_may_share_a_session(machine: Callable[..., Any], reference: Session) -> None:
    session = machine().session
    batches = [pictures(1 + seed % 5, seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(session, batches))
    for batch, output in zip(batches, made, strict=True):
        assert np.allclose(output, reference(batch), atol=1e-4)


def test_auto_takes_the_engine_where_there_is_a_gpu(
    machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine()
    opened: Any = open_session(here.folder)
    assert (opened.runtime, opened.device) == ("tensorrt", "cuda:0")
    opened.close()
    assert open_session(here.folder, "cpu", "onnx", 1).name == "restore"
    monkeypatch.setattr(gpu, "find_gpu", lambda index=0: None)
    measured = Choice("onnx", "as if it had been measured")
    monkeypatch.setattr("fhrt.runtime.choice.choose", lambda *model_and_threads: measured)
    assert open_session(here.folder, "auto", "auto", 1).device == "cpu"


def test_an_artifact_whose_graph_onnx_runtime_cannot_run_is_opened_by_its_manifest(
    machine: Callable[..., Any],
) -> None:
    here = machine()
    plan = plan_of(recipe("restore").onnx_path(), PROFILE)
    (here.folder / "model.engine").write_bytes(plan)
    (here.folder / "model.onnx").write_bytes(b"in bf16")
    note = here.folder / "manifest.json"
    facts = json.loads(note.read_text()) | {"recipe": recipe("restore").metadata()}
    note.write_text(json.dumps(facts | {"precision": "bf16"}))
    opened: Any = open_session(here.folder)
    assert (opened.name, opened.runtime, opened.precision) == ("restore", "tensorrt", "bf16")
    assert opened.sizes == (256, 384, 512)
    opened.close()


def test_what_there_is_no_engine_for_says_how_to_make_one(
    machine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine()
    way = "`fhrt export restore --to tensorrt`, then --model artifacts/restore-tensorrt"
    with pytest.raises(UsageError, match=re.escape(f"tensorrt runs an engine: {way}")):
        open_session("restore", "auto", "tensorrt")
    with pytest.raises(UsageError, match="runs on a GPU: use --device cuda:0"):
        open_session(here.folder, "cpu", "tensorrt")
    monkeypatch.setattr(tensorrt, "find_gpu", lambda index=0: None)
    with pytest.raises(RuntimeMissing, match="there is no such GPU here"):
        open_session(here.folder, "cuda:0", "tensorrt")
    (here.folder / "manifest.json").write_text('{"precision": "fp32"}')
    with pytest.raises(ModelError, match=r"manifest\.json does not say how .*build it anew"):
        open_session(here.folder, "cuda:0", "tensorrt")
    (here.folder / "model.engine").unlink()
    with pytest.raises(UsageError, match=r"restore-tensorrt: no model\.engine in it"):
        open_session(here.folder, "cuda:0", "tensorrt")


@pytest.mark.skipif(gpu.find_gpu() is not None, reason="there is a GPU here")
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="fhrt[rtx] is not installed"
)
def test_a_machine_without_a_driver_is_told_so_by_the_real_bindings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt_rtx

    monkeypatch.setattr(tensorrt, "find_gpu", lambda index=0: L4)
    release = f"tensorrt_rtx {tensorrt_rtx.__version__}"
    folder = artifact(tmp_path / "a", release, plan_of(tmp_path / "model.onnx", PROFILE))
    with pytest.raises(RuntimeMissing, match=r"^cuda:0 cannot be used: [^\n]*driver[^\n]*$"):
        open_session(folder, "cuda:0", "tensorrt")
