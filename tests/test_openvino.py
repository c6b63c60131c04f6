"""OpenVINO as a runtime, and how `auto` chooses between it and ONNX Runtime on a CPU."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fhrt.errors import ModelError, RuntimeMissing, UsageError
from fhrt.models import Recipe, recipe
from fhrt.runtime import choice as choosing
from fhrt.runtime.onnx import OnnxSession
from fhrt.runtime.openvino import (
    HINTS,
    PRECISIONS,
    WEIGHED,
    OpenVinoSession,
    _core,
    _in_two,
    _rounded,
    library,
    multiplies_bf16,
)
from fhrt.runtime.session import Batch, open_session
from fhrt.weights import data_folder

# Asked for without an import, which would send a note (see `library`).
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="fhrt[openvino] is not installed"
)

SMALL = "facesr-v1-light"  # the smallest bundled network


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own; the bundled weights are found all the same."""
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def _measures_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "SECONDS", 0.01)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are to be measured; what comes of it is said at once."""
    names = []

    def says(model: Recipe, threads: int) -> choosing.Choice:
        names.append(model.name)
        return choosing.Choice("onnx", f"measurement {len(names)}")

    monkeypatch.setattr(choosing, "_measure", says)
    return names


@pytest.fixture
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "multiplies_bf16", lambda: False)


@pytest.fixture
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def noise(*shape: int, seed: int = 0) -> Batch:
    return np.random.default_rng(seed).random(shape, np.float32)


def choose(threads: int = 1) -> choosing.Choice:
    return choosing.choose(recipe(SMALL), threads)


# The session


def test_outputs_outlive_the_next_calls_and_the_session() -> None:
    session = open_session(SMALL, "cpu", "openvino", 1)
    first = session(noise(2, 3, 64, 64))
    kept = first.copy()
    for seed in range(1, 6):
        session(noise(2, 3, 64, 64, seed=seed))
    del session
    gc.collect()
    noise(64, 3, 64, 64)
    assert np.array_equal(first, kept)
    first *= 0.5  # it is the caller's own


def test_threads_that_share_a_session_get_their_own_results() -> None:
    session = open_session("restore", "cpu", "openvino", 1)
    batches = [noise(1 + i % 3, 3, 64 + 16 * (i % 5), 96, seed=i) for i in range(24)]
    alone = [session(batch) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(session, batches))
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() < 1e-5


def test_sliced_and_read_only_batches_pass_and_are_not_touched() -> None:
    session = open_session(SMALL, "cpu", "openvino", 1)
    whole = noise(2, 3, 128, 64)
    whole.flags.writeable = False
    before = whole.copy()
    output = session(whole[:, :, ::2])
    assert np.abs(output - session(whole[:, :, ::2].copy())).max() == 0
    assert np.array_equal(whole, before)


@pytest.mark.parametrize("runtime", PRECISIONS)
def test_the_precision_is_what_the_convolutions_run_in(runtime: str) -> None:
    if "bf16" in runtime and not multiplies_bf16():
        pytest.skip("this processor does not multiply bf16")
    session = open_session("restore", "cpu", runtime, 1)
    assert isinstance(session, OpenVinoSession) and session.runtime == runtime
    graph = session._compiled.get_runtime_model()
    facts = [node.get_rt_info() for node in graph.get_ops()]
    said = {f["runtimePrecision"].value for f in facts if f["layerType"].value == "Convolution"}
    assert said == {HINTS[session.precision]}


def test_weights_as_sums_of_two_bf16_are_known_to_sixteen_bits() -> None:
    path = recipe(SMALL).onnx_path()
    plain = _core().read_model(path)
    halved = _in_two(_core().read_model(path))

    def weights(node: Any) -> Any:
        """None where they are computed."""
        kept = node.input_value(1).get_node()
        if kept.get_type_name() == "Convert":
            kept = kept.input_value(0).get_node()
        return kept.get_data().astype(np.float64) if kept.get_type_name() == "Constant" else None

    def is_layer(node: Any) -> bool:
        return node.get_type_name() in WEIGHED and weights(node) is not None

    given = [weights(node) for node in plain.get_ordered_ops() if is_layer(node)]
    inputs = [[i.get_node() for i in node.input_values()] for node in halved.get_ordered_ops()]
    sums = [nodes for nodes in inputs if len(nodes) == 2 and all(map(is_layer, nodes))]
    pairs = [[weights(node) for node in nodes] for nodes in sums]
    assert {(high + low).tobytes() for high, low in pairs} == {w.tobytes() for w in given}
    assert len(pairs) == len(given) > 5
    for high, low in pairs:
        assert np.array_equal(_rounded(high.astype(np.float32)), high)
        rest = np.abs(low - _rounded(low.astype(np.float32)))
        assert (rest <= 2.0**-16 * np.abs(high)).all()
    batch = noise(1, 3, 64, 64)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    outputs = [_core().compile_model(graph, "CPU", exact)(batch)[0] for graph in (plain, halved)]
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-4


def test_bf16_is_refused_where_the_processor_does_not_multiply_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fhrt.runtime.openvino.multiplies_bf16", lambda: False)
    with pytest.raises(RuntimeMissing, match="this processor does not multiply bf16"):
        open_session(SMALL, "cpu", "openvino-bf16", 1)


def test_a_gpu_is_refused_in_one_line() -> None:
    for device in ("cuda", "cuda:1"):
        with pytest.raises(UsageError, match=r"openvino runs on the CPU.*--runtime onnx"):
            open_session(SMALL, device, "openvino")
    assert open_session(SMALL, "auto", "openvino", 1).device == "cpu"


@pytest.mark.parametrize(
    "content", [b"", b"not a network\n" * 50, None], ids=["empty", "text", "cut"]
)
def test_a_broken_model_is_a_model_error_of_one_line(content: bytes | None, cache: Path) -> None:
    whole = recipe(SMALL).onnx_path().read_bytes()
    cache.mkdir()
    (cache / f"{SMALL}.onnx").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ModelError, match=rf"{SMALL}.onnx: openvino cannot load it: \w") as raised:
        open_session(SMALL, "cpu", "openvino")
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'fhrt\[openvino\]'"):
        open_session(SMALL, "cpu", "openvino")


def test_nothing_of_the_import_goes_over_the_network() -> None:
    """`import openvino` alone loads openvino_telemetry, which sends a note."""
    script = f"""
import sys
seen = []
sys.addaudithook(lambda event, _: event.startswith("socket.") and seen.append(event))
from fhrt.runtime.session import open_session
open_session({SMALL!r}, "cpu", "openvino", 1)
loaded = [name for name in sys.modules if "telemetry" in name]
print(loaded + [event for event in seen if event != "socket.__new__"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done


# What is kept of it


def test_the_second_start_takes_what_the_first_compiled(cache: Path) -> None:
    first, second = (OpenVinoSession(recipe("restore"), "cpu", 1) for _ in range(2))
    loaded = [s._compiled.get_property("LOADED_FROM_CACHE") for s in (first, second)]
    assert loaded == [False, True]
    assert np.array_equal(first(noise(1, 3, 64, 64)), second(noise(1, 3, 64, 64)))


def test_a_cut_cache_is_compiled_anew(cache: Path) -> None:
    expected = open_session(SMALL, "cpu", "openvino", 1)(noise(1, 3, 64, 64))
    (blob,) = cache.glob("openvino/*/*.blob")
    whole = blob.stat().st_size
    for size in (whole // 2, 0):
        blob.chmod(0o600)
        os.truncate(blob, size)
        again = open_session(SMALL, "cpu", "openvino", 1)(noise(1, 3, 64, 64))
        assert np.array_equal(again, expected)
        assert sum(path.stat().st_size for path in cache.glob("openvino/*/*.blob")) >= whole


def test_another_model_at_the_same_path_and_time_is_not_taken_for_the_old_one(cache: Path) -> None:
    cache.mkdir()
    path = cache / "restore.onnx"
    outputs = []
    for name in ("restore", "restore-gan"):
        path.write_bytes((data_folder("weights") / f"{name}.onnx").read_bytes())
        os.utime(path, (1_700_000_000, 1_700_000_000))
        outputs.append(open_session("restore", "cpu", "openvino", 1)(noise(1, 3, 64, 64)))
    expected = open_session("restore-gan", "cpu", "onnx", 1)(noise(1, 3, 64, 64))
    assert np.abs(outputs[1] - expected).max() < 1e-4 < np.abs(outputs[0] - expected).max()


def test_without_a_cache_it_runs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path / "file" / "cache"))
    assert open_session(SMALL, "cpu", "openvino", 1)(noise(1, 3, 16, 16)).shape[0] == 1


# auto


def test_auto_measures_once_and_remembers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    real = choosing.time_passes

    def counting(*given: Any) -> dict[str, float]:
        found.append(real(*given))
        return found[-1]

    monkeypatch.setattr(choosing, "time_passes", counting)
    sessions = [open_session(SMALL, "cpu", threads=1) for _ in range(3)]
    (seconds,) = found
    fastest = min(seconds, key=lambda name: seconds[name])
    taken = fastest if seconds["onnx"] >= 1.05 * seconds[fastest] else "onnx"
    assert {s.runtime for s in sessions} == {taken}
    assert ("openvino-bf16" in seconds) == multiplies_bf16()
    (note,) = cache.glob("runtimes/*.json")
    assert f"onnx {1000 * seconds['onnx']:.1f} ms" in json.loads(note.read_text())["why"]


@pytest.mark.parametrize(
    "openvino, taken", [(0.5, "openvino"), (0.94, "openvino"), (0.97, "onnx"), (1.5, "onnx")]
)
def test_auto_takes_openvino_where_it_is_clearly_faster(
    openvino: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(sessions: dict[str, object], _: object) -> dict[str, float]:
        return {name: 1.0 if name == "onnx" else openvino for name in sessions}

    monkeypatch.setattr(choosing, "time_passes", seconds)
    assert open_session(SMALL, "cpu", threads=1).runtime == taken


def test_runtimes_take_turns_and_every_second_round_runs_backwards() -> None:
    calls: list[str] = []
    sessions = {name: lambda batch, name=name: calls.append(name) or batch for name in "abc"}
    found = choosing.time_passes(sessions, [noise(1, 3, 8, 8)])
    assert calls[:6] == ["a", "b", "c", "c", "b", "a"]
    assert set(found) == set("abc") and all(0 < s < 1 for s in found.values())


def broken(batch: Batch) -> Batch:
    raise RuntimeError("[CPU] Reshape node\ndoes not fit")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda output: output + 0.01, "openvino: 40 dB from onnx, under 45"),
        (lambda output: np.where(output > 0.99, np.nan, output), "openvino: -inf dB"),
        (broken, r"\[CPU\] Reshape node does not fit"),
    ],
    ids=["another picture", "no number", "an error"],
)
def test_an_openvino_that_does_not_give_the_same_is_left_and_it_is_said_once(
    change: Callable[[Batch], Batch], said: str, monkeypatch: pytest.MonkeyPatch, no_bf16: None
) -> None:
    real = OpenVinoSession.__call__
    monkeypatch.setattr(OpenVinoSession, "__call__", lambda self, batch: change(real(self, batch)))
    with pytest.warns(RuntimeWarning, match="auto leaves out .*" + said) as warned:
        assert open_session(SMALL, "cpu", threads=1).runtime == "onnx"
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_session(SMALL, "cpu", threads=1).runtime == "onnx"


def test_the_gate_lets_a_small_difference_pass(
    monkeypatch: pytest.MonkeyPatch, no_bf16: None
) -> None:
    real = OpenVinoSession.__call__
    monkeypatch.setattr(OpenVinoSession, "__call__", lambda self, b: real(self, b) + 0.005)
    assert "openvino" in choose().why and "dB" not in choose().why  # 46 dB


@pytest.mark.parametrize(
    ("bf16", "bf16x2", "taken"),
    [
        (0.0, 0.0, "openvino-bf16"),
        (0.01, 0.0, "openvino-bf16x2"),
        (0.01, 0.01, "openvino"),
    ],
)
def test_a_bf16_that_is_too_coarse_is_left_out(
    bf16: float, bf16x2: float, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {"openvino": 0.0, "openvino-bf16": bf16, "openvino-bf16x2": bf16x2}
    opened = []

    class Coarse(OpenVinoSession):
        """As on a processor with bf16, whichever this one is."""

        def __init__(self, model: Recipe, device: str, threads: int, runtime: str) -> None:
            super().__init__(model, device, threads)
            self.error = errors[runtime]
            opened.append(runtime)

        def __call__(self, batch: Batch) -> Batch:
            return super().__call__(batch) + np.float32(self.error)

    monkeypatch.setattr(choosing, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(choosing, "OpenVinoSession", Coarse)
    speeds = {"openvino-bf16": 1.0, "openvino-bf16x2": 2.0, "openvino": 3.0, "onnx": 4.0}
    monkeypatch.setattr(
        choosing, "time_passes", lambda sessions, _: {name: speeds[name] for name in sessions}
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        choice = choose()
    refused = [f"{word}: 40 dB" for word, error in errors.items() if error]
    assert choice.runtime == taken and all(line in choice.why for line in refused)
    told = [str(one.message).partition(" from")[0] for one in said]
    assert told == [f"auto leaves out {line}" for line in refused]
    # the slower one is opened only where it may be needed
    assert ("openvino-bf16x2" in opened) == (bf16 > 0)


def test_an_openvino_that_fails_later_is_replaced_by_onnx(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        choosing, "time_passes", lambda sessions, _: {n: float(n == "onnx") for n in sessions}
    )
    assert choose().runtime == "openvino"

    def fails(*_: object) -> None:
        raise ModelError("no more")

    monkeypatch.setattr(choosing, "OpenVinoSession", fails)
    with pytest.warns(RuntimeWarning, match="no more"):
        assert open_session(SMALL, "cpu", threads=1).runtime == "onnx"


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff", b"[]", b"7", b"{}", b'{"key": 1, "runtime": "onnx"}', None],
    ids=["empty", "bytes", "a list", "a number", "an object", "another key", "unknown runtime"],
)
def test_a_damaged_choice_is_measured_anew(
    content: bytes | None, cache: Path, measured: list[str]
) -> None:
    choose()
    (note,) = cache.glob("runtimes/*.json")
    whole = note.read_bytes()
    if content is None:
        content = whole.replace(b'"runtime": "onnx"', b'"runtime": "abacus"')
        assert content != whole
    note.write_bytes(content)
    assert choose().why == choose().why == "measurement 2"
    assert measured == [SMALL, SMALL] and note.read_bytes() != content


def test_another_machine_release_model_or_number_of_threads_is_measured(
    cache: Path, tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose()
    choose(2)
    assert len(measured) == 2
    other = tmp_path / "cpuinfo"
    other.write_text("processor : 0\nmodel name\t: Abacus 3000\n")
    monkeypatch.setattr("fhrt.runtime.cpu.PROCESSORS", other)
    choose()
    assert len(measured) == 3
    monkeypatch.setattr(choosing, "version", lambda name: "2031.1")
    choose()
    assert len(measured) == 4
    path = cache / f"{SMALL}.onnx"
    path.write_bytes(recipe("facesr-v2-light").onnx_path().read_bytes())
    choose()
    choose()
    assert len(measured) == 5 and len(list(cache.glob("runtimes/*.json"))) == 5


def test_what_cannot_be_remembered_is_not_measured(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path / "file" / "cache"))
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        assert open_session(SMALL, "cpu", threads=1).runtime == "onnx"
    assert measured == []


def test_of_several_that_ask_at_once_one_measures(measured: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        choices = list(pool.map(lambda _: choose(), range(4)))
    assert measured == [SMALL] and len(set(choices)) == 1


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_runtime_that_is_named_is_not_measured(
    runtime: str, cache: Path, measured: list[str]
) -> None:
    assert open_session(SMALL, "cpu", runtime, 1).runtime == runtime
    assert measured == [] and not (cache / "runtimes").exists()


def test_auto_without_openvino_is_onnx_and_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, no_warning: None
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    session = open_session(SMALL, "cpu", threads=1)
    assert (session.runtime, session.precision) == ("onnx", "fp32") and not cache.exists()


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_on_a_gpu_auto_stays_with_onnx(
    device: str, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = SimpleNamespace(device="cuda:0", runtime="onnx")
    monkeypatch.setattr(choosing, "offers_cuda", lambda: True)
    monkeypatch.setattr(choosing, "open_onnx", lambda *_: on_gpu)
    assert open_session(SMALL, device, threads=1) is on_gpu
    assert measured == []


def test_a_gpu_that_cannot_be_used_leaves_the_choice_to_the_cpu(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu offers CUDA also where its libraries are missing."""
    opened = []

    def cpu(model: object, device: str, *more: int) -> OnnxSession:
        opened.append(device)
        return OnnxSession(model, "cpu", *more)

    monkeypatch.setattr(choosing, "offers_cuda", lambda: True)
    monkeypatch.setattr(choosing, "open_onnx", cpu)
    assert open_session(SMALL, "auto", threads=1).device == "cpu"
    assert opened[0] == "auto" and measured == [SMALL]


def test_the_library_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert library().__version__.startswith(version("openvino"))


FREED_ELSEWHERE = """
import os, signal, threading
from fhrt.runtime.session import open_session

held = [open_session("restore", "cpu", "openvino", 1)]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    threading.Event().wait(30)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_ctrl_c_interrupts_also_after_a_session_was_freed_in_another_thread() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FREED_ELSEWHERE], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "interrupted\n"), run.stderr
