"""The steps, each a process of its own with a time limit, so that neither a crash nor a hang of one
ends the others. Standard library only: the first of them installs the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TAIL = 2000  # characters of a log that are told of a step that failed


@dataclass(frozen=True)
class Step:
    """function: "module:function", called with a Report and a Context. limit: seconds that it gets
    at most. least: seconds that the steps before it leave to it."""

    name: str
    function: str
    limit: float
    least: float = 0


INSTALL = Step("install", "gpu_check.wheels:install", 300, 60)
STEPS = (
    Step("environment", "gpu_check.machine:environment", 60, 10),
    Step("doctor", "gpu_check.machine:doctor", 90, 15),
    Step("tests", "gpu_check.checks:tests", 240, 60),
    Step("engines", "gpu_check.engines:engines", 300, 90),
    Step("latency", "gpu_check.latency:latency", 240, 60),
    Step("kernels", "gpu_check.kernels:kernels", 60, 15),
    Step("pipeline", "gpu_check.pipeline:pipeline", 120, 40),
    Step("film", "gpu_check.pipeline:film", 90, 20),
    Step("memory", "gpu_check.memory:memory", 60, 15),
    Step("sanitizer", "gpu_check.checks:sanitizer", 180, 20),
)


@dataclass(frozen=True)
class Context:
    """What a step is told. device: cuda:0 or cpu. out: where results go. work: what is kept for the
    next run: weights, artifacts, films. models: name and side of the crops. batches: crops a call.
    engine_batch: MIN:OPT:MAX. rounds, seconds: a call is timed so often, or for so long. frames: of
    1920×1080. until: when the step will be ended (time.time())."""

    device: str
    out: Path
    work: Path
    models: tuple[tuple[str, int], ...] = (("gfpgan-v1.4", 512), ("restore", 256))
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    engine_batch: str = "1:4:8"
    rounds: int = 30
    seconds: float = 3.0
    frames: int = 32
    quick: bool = False
    until: float = 0.0

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def left(self) -> float:
        """Seconds until the step will be ended."""
        return self.until - time.time()

    def dump(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def load(cls, text: str) -> Context:
        found = json.loads(text)
        found["out"], found["work"] = Path(found["out"]), Path(found["work"])
        found["models"] = tuple((name, side) for name, side in found["models"])
        return cls(**found)


@dataclass
class Report:
    """What a step has found so far, on disk after each addition. rows: measured. gaps: what was to
    be had and cannot. facts: the rest. raw: the milliseconds of each round (latency.csv)."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    gaps: list[dict[str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    raw: list[list[Any]] = field(default_factory=list)
    error: str = ""

    def row(self, **values: Any) -> None:
        self.rows.append(values)
        self.save()

    def gap(self, what: str, reason: object) -> None:
        """reason: a text, or an error, of which the first line is taken."""
        first = next(iter(str(reason).strip().splitlines()), type(reason).__name__)
        self.gaps.append({"what": what, "reason": first[:400]})
        self.save()

    def fact(self, **values: Any) -> None:
        self.facts |= values
        self.save()

    def save(self) -> None:
        kept = {name: value for name, value in self.__dict__.items() if name != "path"}
        write(self.path, json.dumps(kept, default=str))


def run(step: Step, context: Context, python: str, seconds: float) -> dict[str, Any]:
    """Run a step with an interpreter for `seconds` at most: its name, status, reason, seconds and
    limit, and what its Report holds, also of a step that was ended.

    status: done, failed (it says why), crashed or timed out.
    """
    result = context.work / f"{step.name}.json"
    result.unlink(missing_ok=True)
    log = context.out / "logs" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    told = Context(**{**context.__dict__, "until": time.time() + seconds})
    command = [python, "-m", "gpu_check.child", step.function, told.dump(), str(result)]
    begun, status, reason = time.monotonic(), "done", ""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(context),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            status, reason = "timed out", f"ended after {seconds:.0f} s"
        finally:
            _end(process)
    spent = time.monotonic() - begun
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        found = json.loads(result.read_text(encoding="utf-8"))
    if status == "done" and process.returncode:
        status, reason = "failed", found.get("error", "")
        if not reason:
            status, reason = "crashed", _ending(process.returncode)
    if status != "done":
        found["log"] = log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
    found.pop("error", None)
    about = {"name": step.name, "status": status, "reason": reason}
    return {**about, "seconds": round(spent, 2), "limit": round(seconds, 1), **found}


def environment(context: Context) -> dict[str, str]:
    """Of the steps: this package and the checkout can be imported, made-up weights are found."""
    own = [str(ROOT / "benchmarks"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    paths = os.pathsep.join(path for path in own if path)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FHRT_")}
    weights = str(context.work / "seeded")
    return kept | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "FHRT_WEIGHTS": weights}


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a step and all that it has started."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
