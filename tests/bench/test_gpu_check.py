"""benchmarks/gpu_check: the whole program on a CPU, what becomes of steps that crash, hang or fail,
and its GPU paths over the stand-in of a GPU."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="fhrt[bench] is not installed")
pytest.importorskip("onnx", reason="fhrt[bench] is not installed")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from gpu_check import checks, clock, latency, memory, trace, wheels
from gpu_check.command import check
from gpu_check.steps import STEPS, Context, Report, Step

from fhrt.bench.cases import open_setup, plan, setup_of

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "benchmarks" / "gpu_check"
NO_GPU = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
ODD = """
import json, os, subprocess, sys, time

def falls(report, context):
    report.row(before="it fell")
    os.abort()

def hangs(report, context):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    report.row(child=child.pid)
    time.sleep(60)

def raises(report, context):
    raise ValueError("this cannot be\\nmeasured")

def looks(report, context):
    found = json.loads((context.out / "gpu_check.json").read_text(encoding="utf-8"))
    report.fact(seen=[step["name"] for step in found["steps"]])
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the program writes without a GPU, and where."""
    out = tmp_path_factory.mktemp("out")
    words = ["--allow-cpu", "--no-install", "--quick", "--work", str(out / "work")]
    command = [sys.executable, str(PROGRAM), "-o", str(out), *words]
    done = subprocess.run(command, env=NO_GPU, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + (out / "gpu_check.json").read_text()
    assert done.stdout.strip() == (out / "table.md").read_text(encoding="utf-8").strip()
    return json.loads((out / "gpu_check.json").read_text(encoding="utf-8")), out


def step(results: dict[str, Any], name: str) -> dict[str, Any]:
    return next(step for step in results["steps"] if step["name"] == name)


def test_one_command_runs_every_step_and_leaves_its_log(
    written: tuple[dict[str, Any], Path],
) -> None:
    results, out = written
    assert [(s["name"], s["status"]) for s in results["steps"]] == [(s.name, "done") for s in STEPS]
    assert {path.stem for path in (out / "logs").iterdir()} == {s.name for s in STEPS}
    (tested,) = step(results, "tests")["rows"]
    assert tested["passed"] >= 5 and tested["failed"] == 0
    assert any("kernels: compile" in line for line in step(results, "doctor")["facts"]["lines"])
    assert all(gap["what"] and gap["reason"] for s in results["steps"] for gap in s["gaps"])


def test_figures_of_a_cpu_are_never_called_those_of_a_gpu(
    written: tuple[dict[str, Any], Path],
) -> None:
    results, out = written
    assert results["device"] == "cpu"
    rows = [row for s in results["steps"] for row in s["rows"]]
    assert rows and not any("cuda:" in json.dumps(row) for row in rows)
    assert not any(key.startswith("device_p") for row in rows for key in row)
    table = (out / "table.md").read_text(encoding="utf-8")
    assert "No GPU was used" in table and "device p50" not in table and "device idle" not in table
    gaps = {gap["what"]: gap["reason"] for gap in step(results, "pipeline")["gaps"]}
    assert "no work of a GPU" in gaps["copies of restore onnx fp32"]


def test_the_single_rounds_give_the_figures(written: tuple[dict[str, Any], Path]) -> None:
    results, out = written
    with (out / "latency.csv").open(newline="", encoding="utf-8") as file:
        rounds = list(csv.DictReader(file))
    rows = step(results, "latency")["rows"]
    assert {(row["runtime"], row["batch"]) for row in rows} == {
        (runtime, batch) for runtime in ("onnx", "torch") for batch in (1, 2)
    }
    for row in rows:
        named = ("model", "runtime", "precision", "device", "batch", "side")
        same = [r for r in rounds if all(r[name] == str(row[name]) for name in named)]
        median = statistics.median(float(r["ms"]) for r in same)
        assert row["wall_p50_ms"] == pytest.approx(median) and median <= row["wall_p95_ms"]
        assert row["wall_ms_a_face"] == pytest.approx(median / row["batch"])
        taken = row["flops"] / row["share_ceiling"]  # s, at the rate of the product
        assert row["share"] == pytest.approx(1000 * taken / median)


def test_exports_films_frames_and_kernels_are_measured(
    written: tuple[dict[str, Any], Path],
) -> None:
    results, out = written
    exact, half = step(results, "engines")["rows"]
    assert (exact["step"], half["step"]) == ("onnx", "fp16") and exact["bytes"] > half["bytes"] / 2
    assert exact["psnr"] > half["psnr"] > 60
    (film,) = step(results, "film")["rows"]
    assert film["frames_per_second"] == pytest.approx(film["frames"] / film["seconds"])
    assert film["wall_seconds"] > film["seconds"]
    assert {row["kernel"] for row in step(results, "kernels")["rows"]} <= {
        "crop_faces",
        "paste_faces",
    }
    for row in step(results, "memory")["rows"]:
        assert row["batch"] > row["batch_max_before"] and row["largest"] < 1e-5
        assert row["warnings"] == 0
    assert json.loads((out / "trace-restore.json").read_text())["traceEvents"]


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, env=NO_GPU, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == "" and not (tmp_path / "out").exists()
    assert len(done.stderr.splitlines()) == 1 and "--allow-cpu" in done.stderr


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    (tmp_path / "odd.py").write_text(ODD, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    return Context("cpu", tmp_path / "out", tmp_path / "work")


def test_steps_that_crash_hang_or_fail_do_not_end_the_others(
    odd: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"falls": 30.0, "hangs": 3.0, "raises": 30.0, "looks": 30.0}
    steps = [Step(name, f"odd:{name}", limit) for name, limit in names.items()]
    assert check(odd, steps, 600, install=False, only=[]) == 1
    results = json.loads((odd.out / "gpu_check.json").read_text(encoding="utf-8"))
    fell, hung, failed, last = results["steps"]
    assert fell["status"] == "crashed" and fell["rows"] == [{"before": "it fell"}]
    assert "falls" in fell["log"], "faulthandler says where"
    assert hung["status"] == "timed out" and 3 <= hung["seconds"] < 20
    assert failed["status"] == "failed" and failed["reason"] == "ValueError: this cannot be"
    assert last["status"] == "done"
    assert last["facts"]["seen"] == ["falls", "hangs", "raises"], "on disk after every step"
    if sys.platform != "win32":
        assert not running(hung["rows"][0]["child"]), "what it had started is ended, too"
    assert "| hangs | timed out |" in (odd.out / "table.md").read_text(encoding="utf-8")
    assert "not done: falls, hangs, raises" in capsys.readouterr().err


def running(process: int) -> bool:
    """Whether it still is, a little later, and no zombie."""
    for _ in range(50):
        shown = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False
        ).stdout.strip()
        if not shown or shown.startswith("Z"):
            return False
        time.sleep(0.1)
    return True


def test_a_step_leaves_time_to_those_after_it_and_none_begins_without(odd: Context) -> None:
    steps = [Step("hangs", "odd:hangs", 60.0, 1.0), Step("looks", "odd:looks", 60.0, 57.0)]
    assert check(odd, steps, 60, install=False, only=[]) == 1
    first, second = json.loads((odd.out / "gpu_check.json").read_text())["steps"]
    assert first["limit"] == pytest.approx(3, abs=0.2) and first["status"] == "timed out"
    assert second["status"] == "done"
    assert check(odd, steps, 0.5, install=False, only=["looks"]) == 1
    (only,) = json.loads((odd.out / "gpu_check.json").read_text())["steps"]
    assert (only["name"], only["status"]) == ("looks", "not begun")


def test_what_pytest_found_is_read_from_its_report_and_from_its_log(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'one is not two'\n"
        "def test_left(): pytest.skip('no moon tonight')\n"
        "@pytest.fixture\n"
        "def engine(): pytest.fail('FHRT_REQUIRE=gpu: no tensorrt here')\n"
        "def test_needs(engine): pass\n"
    )
    words = ["-m", "pytest", "-v", "-c", os.devnull, "--junitxml=j.xml", "test_some.py"]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    whole = checks.read_junit((tmp_path / "j.xml").read_text(encoding="utf-8"))
    cut = checks.read_log(done.stdout)
    for found in (whole, cut):
        assert (found["passed"], found["skipped"]) == (1, 1)
        assert "test_bad" in found["failures"][0]  # type: ignore[index]
    assert (whole["failed"], whole["lacking"], cut["failed"]) == (1, 1, 2)
    assert whole["reasons"] == {"no moon tonight": 1, "no tensorrt here": 1}
    assert "one is not two" in whole["failures"][0]  # type: ignore[index]


def test_a_trace_gives_copies_a_frame_and_the_time_without_work() -> None:
    def event(cat: str, name: str, start: float, length: float, size: int = 0) -> dict[str, Any]:
        about = {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": length}
        return about | {"args": {"bytes": size} if size else {}}

    events = [
        event("cpu_op", "aten::conv2d", 0, 500),
        event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 100, 10, 600),
        event("kernel", "conv", 110, 40),
        event("kernel", "on another stream", 120, 20),
        event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 160, 10, 50),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 190, 10, 400),
        {"ph": "i", "cat": "kernel", "name": "a mark", "ts": 900},
    ]
    found = trace.summary(events, 2)
    assert (found["host_to_device"], found["host_to_device_bytes"]) == (0.5, 300)
    assert (found["device_to_host"], found["device_to_host_bytes"]) == (0.5, 200)
    assert (found["device_to_device"], found["kernels"]) == (0.5, 1)
    assert found["idle"] == pytest.approx(0.3) and found["busy_ms"] == pytest.approx(0.035)
    assert trace.median(events, "conv") == 0.04
    with pytest.raises(ValueError, match="not counted"):
        trace.summary(events[:1], 2)


def test_calls_take_turns_each_second_round_backwards() -> None:
    order: list[str] = []

    def timed(name: str, ms: float) -> Any:
        return lambda: (order.append(name), ms)[1]

    calls = {name: timed(name, ms) for name, ms in (("a", 1), ("b", 1), ("slow", 700))}
    taken = clock.in_turn(calls, 4, 1.0)
    assert [name[0] for name in order] == list("abssbaabba")
    assert {name: len(ms) for name, ms in taken.items()} == {"a": 4, "b": 4, "slow": 2}


def test_the_torch_that_is_installed_is_never_the_cpu_build() -> None:
    specifiers = pytest.importorskip("packaging.specifiers")
    group = next(group for group in wheels.GROUPS if group.name == "torch")
    (word,) = wheels._words(group)
    allowed = specifiers.SpecifierSet(word.removeprefix("torch"))
    pinned = word.partition("==")[2].partition(",")[0]
    assert f"torch=={pinned}" in (ROOT / "constraints.txt").read_text()
    assert allowed.contains(pinned) and not allowed.contains(f"{pinned}+cpu")


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU and a TensorRT of the host, with the artifact of `restore`, and a Context for it."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    import runtime_cases
    from gpu_standin import CONTEXT, NAMES, OK, STREAM, Driver

    class Fuller(Driver):
        """With events, and with what makes a context."""

        def cuInit(self, flags: int) -> Any:
            return (OK,)

        def cuDeviceGet(self, ordinal: int) -> Any:
            return OK, ordinal

        def cuDevicePrimaryCtxRetain(self, dev: int) -> Any:
            return OK, CONTEXT

        def cuCtxSetCurrent(self, ctx: int) -> Any:
            self.stack[:] = [ctx]
            return (OK,)

        def cuCtxSynchronize(self) -> Any:
            return (OK,)

        def cuEventCreate(self, flags: int) -> Any:
            return OK, [0.0]

        def cuEventRecord(self, event: list[float], stream: int) -> Any:
            assert stream in (0, STREAM)
            event[0] = time.perf_counter()
            return (OK,)

        def cuEventSynchronize(self, event: Any) -> Any:
            return (OK,)

        def cuEventElapsedTime(self, start: list[float], end: list[float]) -> Any:
            return OK, 1000 * (end[0] - start[0])

        def cuMemGetInfo(self) -> Any:
            return OK, self.capacity - self.used, self.capacity

        def cuMemcpyHtoD(self, target: int, source: int, size: int) -> Any:
            return self._copy(self.at(target, size), source, size, STREAM)

        def enqueue(self, stream: int, work: Any) -> None:
            return work() if stream == 0 else super().enqueue(stream, work)

    monkeypatch.setattr(runtime_cases, "Driver", Fuller)
    monkeypatch.setattr(clock, "COPIED", 1 << 20)
    release = max(name for name in NAMES if name.startswith("tensorrt "))
    _, driver = runtime_cases.stand_in(monkeypatch, release)
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    artifacts = tmp_path / "work" / "artifacts"
    runtime_cases.artifact(artifacts / "restore-tensorrt", release)
    models = (("restore", 64),)
    context = Context(
        "cuda:0", tmp_path / "out", tmp_path / "work", models, (1, 3), rounds=3, quick=True,
        until=time.time() + 600,
    )  # fmt: skip
    return driver, context


def test_an_engine_is_timed_on_the_device_and_from_the_host(gpu: Any) -> None:
    _, context = gpu
    report = Report(context.work / "report.json")
    latency.latency(report, context)
    engines = [row for row in report.rows if row["runtime"] == "tensorrt"]
    assert [(row["device"], row["batch"]) for row in engines] == [("cuda:0", 1), ("cuda:0", 3)]
    for row in engines:
        assert row["device_rounds"] == row["wall_rounds"] == 3 and row["device_p50_ms"] > 0
        assert row["share_of_copy"] > 0 and "share" not in row, "without a product, no share of it"
    reasons = " ".join(gap["reason"] for gap in report.gaps)
    assert "no CUDA" in reasons and "onnxruntime cannot use it here" in reasons
    assert {line[6] for line in report.raw} == {"device", "wall"}


def test_a_batch_that_does_not_fit_halves_and_says_so_once(gpu: Any) -> None:
    driver, context = gpu
    report = Report(context.work / "report.json")
    driver.capacity = 1 << 28
    memory.memory(report, context)
    (row,) = [row for row in report.rows if row["runtime"] == "tensorrt"]
    assert row["outcome"] == "smaller batches" and row["warnings"] == 1
    assert row["batch_max_after"] < row["batch_max_before"] == 8
    assert row["largest"] < 1e-5
    assert driver.used == 0, "and the memory is free again"


def test_fhrt_bench_times_the_engine_of_an_artifact(gpu: Any) -> None:
    _, context = gpu
    artifacts = context.work / "artifacts"
    (setup,), gaps = plan(["restore"], ["tensorrt"], ["fp32", "fp16"], ["cuda:0"], artifacts)
    assert setup.file == artifacts / "restore-tensorrt" / "model.onnx"
    given = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    session = open_setup(setup)
    assert session.runtime == "tensorrt" and session.precision == setup.precision == "fp32"
    exact = open_setup(setup_of("restore", "onnx", "fp32", "cpu", artifacts))
    np.testing.assert_allclose(session(given), exact(given), atol=1e-5)
    (gap,) = gaps
    assert "fhrt export restore --to tensorrt --precision fp16" in gap.reason
