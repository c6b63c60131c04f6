"""The command: its options, the steps one after the other, and what it writes after each."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_check import table, wheels
from gpu_check.steps import INSTALL, ROOT, STEPS, Context, Step, run, write

METHOD = """Each step is a process of its own. device: CUDA events around a call on its stream, \
inputs and outputs on the GPU, with what the host takes to launch it. wall: from the call to its \
return, from NumPy to NumPy. After 3 calls that do not count, the calls of a group take turns, \
each second round backwards, until each had its rounds or its seconds. The ceilings (products of \
random matrices in torch, a copy on the device) are measured in the same rounds; shares are of \
medians. Only the latency of GFPGAN means anything: its weights are made up."""
QUICK: dict[str, Any] = {
    "models": (("restore", 64),), "batches": (1, 2), "rounds": 2, "seconds": 0.5, "frames": 2,
}  # fmt: skip


def main(words: Sequence[str] | None = None, steps: Sequence[Step] = STEPS) -> int:
    """Exit code 0 where every step ended as it should (gaps are none of its failures), 1 where one
    did not, or without a GPU."""
    asked = _parser(steps).parse_args(words)
    gpu = _gpu()
    if not gpu and not asked.allow_cpu:
        print("gpu_check: no NVIDIA GPU, or no driver for it; --allow-cpu runs what a CPU can",
              file=sys.stderr)  # fmt: skip
        return 1
    out, work = asked.output.resolve(), asked.work.resolve()
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    more: dict[str, Any] = dict(QUICK) if asked.quick else {}
    more |= {"models": (("restore", 256),)} if not gpu and not asked.quick else {}
    more |= {"batches": tuple(asked.batch)} if asked.batch else {}
    more |= {"engine_batch": asked.engine_batch, "quick": asked.quick}
    context = Context("cuda:0" if gpu else "cpu", out, work, **more)
    return check(context, steps, 60 * asked.minutes, not asked.no_install, asked.only)


def check(
    context: Context, steps: Sequence[Step], seconds: float, install: bool, only: Sequence[str]
) -> int:
    """Run the steps, the installation first, within so many seconds."""
    chosen = [step for step in steps if not only or step.name in only]
    waiting = [*([INSTALL] if install else []), *chosen]
    end, python = time.monotonic() + seconds, sys.executable
    results: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": context.device,
        "method": METHOD,
        "system": platform.platform(),
        "options": json.loads(context.dump()),
        "steps": [],
    }
    while waiting:
        step = waiting.pop(0)
        left = end - time.monotonic()
        given = min(step.limit, left - sum(later.least for later in waiting))
        given = max(given, min(step.least, left))
        if given < 1:
            found: dict[str, Any] = {"name": step.name, "status": "not begun", "seconds": 0.0}
            found |= {"reason": "no time was left", "limit": 0.0}
        else:
            print(f"gpu_check: {step.name}, {given:.0f} s at most", file=sys.stderr, flush=True)
            found = run(step, context, python, given)
        results["steps"].append(found)
        _write(context.out, results)
        if step is INSTALL:
            python = _interpreter(context.work)
        said = f"{step.name}: {found['status']} in {found['seconds']:.0f} s {found['reason']}"
        print(f"gpu_check: {said.strip()}", file=sys.stderr, flush=True)
    print((context.out / "table.md").read_text(encoding="utf-8"))
    failed = [step["name"] for step in results["steps"] if step["status"] != "done"]
    if failed:
        print(f"gpu_check: not done: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parser(steps: Sequence[Step]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu_check",
        description="Install, test, export, time and profile fhrt on the GPU that is here.",
        epilog=f"What is installed:\n{wheels.listed()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, help="where results go")
    add("--minutes", type=float, default=60, help="end all after so long (60)")
    add("--only", action="append", default=[], choices=[step.name for step in steps],
        help="this step; may be given again")  # fmt: skip
    add("--batch", type=int, action="append", default=[], help="crops a call; repeatable")
    add("--engine-batch", default="1:4:8", help="MIN:OPT:MAX of the engines (1:4:8)")
    add("--no-install", action="store_true", help="use the interpreter that runs this")
    add("--allow-cpu", action="store_true", help="without a GPU, run what a CPU can")
    add("--quick", action="store_true", help="one small model, few rounds")
    add("--work", type=Path, default=ROOT / "artifacts" / "gpu_check",
        help="environment, weights and engines, kept for the next run")  # fmt: skip
    return parser


def _gpu() -> bool:
    """As fhrt.runtime.gpu, which may be imported only once NumPy is here."""
    count = ctypes.c_int()
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return not cuda.cuInit(0) and not cuda.cuDeviceGetCount(ctypes.byref(count)) and count.value > 0


def _interpreter(work: Path) -> str:
    """That of the environment, where the installation got as far as what fhrt cannot do without."""
    python = wheels.python_of(work)
    imported = [str(python), "-c", "import numpy, cv2, av, typer, rich, filelock"]
    if (
        python.is_file()
        and not subprocess.run(imported, capture_output=True, check=False).returncode
    ):
        return str(python)
    print(f"gpu_check: nothing could be installed: {sys.executable} goes on", file=sys.stderr)
    return sys.executable


def _write(out: Path, results: dict[str, Any]) -> None:
    """latency.csv has the single rounds, which the JSON does without."""
    rounds = [line for step in results["steps"] for line in step.get("raw", [])]
    steps = [{k: v for k, v in step.items() if k != "raw"} for step in results["steps"]]
    write(out / "latency.csv", table.comma_separated(rounds))
    write(out / "gpu_check.json", json.dumps(results | {"steps": steps}, indent=1) + "\n")
    write(out / "table.md", table.markdown(results))
