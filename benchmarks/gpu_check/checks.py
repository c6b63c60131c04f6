"""The tests of the runtimes and the kernels on this machine, and the kernels' under
compute-sanitizer."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

from gpu_check.steps import ROOT, Context, Report

SUITES = ("tests/cuda", "tests/runtime")
SMALL = ("tests/cuda/test_launch.py",)
KERNELS = ("tests/cuda/test_face_kernels.py", "tests/cuda/test_film_kernels.py")
TOOLS = ("memcheck", "racecheck")
LACKING = "FHRT_REQUIRE=gpu: "  # how tests/runtime/runtime_cases.py begins it
FOUND = 9  # exit code of compute-sanitizer where it has found something
SHOWN = 20


def tests(report: Report, context: Context) -> None:
    """A row for each suite. On a GPU what needs one fails where it would skip."""
    suites = SMALL if context.quick and not context.on_gpu else SUITES
    for number, suite in enumerate(suites):
        junit = context.work / "junit.xml"
        junit.unlink(missing_ok=True)
        words = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", suite]
        required = {"FHRT_REQUIRE": "gpu"} if context.on_gpu else {}
        ended, text = _run(
            [*words, f"--junitxml={junit}"], required, context.left() / (len(suites) - number) - 3
        )
        whole = junit.is_file()  # else pytest itself did not come to its end
        found = read_junit(junit.read_text(encoding="utf-8")) if whole else read_log(text)
        report.row(suite=suite, ended=ended, on=context.device, **found)
    bad = [row for row in report.rows if row["failed"] or not _went(row)]
    if bad:
        raise AssertionError(
            ", ".join(f"{row['suite']}: {row['failed']} failed, {row['ended']}" for row in bad)
        )


def _went(row: dict[str, Any]) -> bool:
    """Whether pytest came to its end: exit code 0, or 1 for what is lacking."""
    return row["ended"] in ("0", "1" if row["lacking"] else "0")


def sanitizer(report: Report, context: Context) -> None:
    """A row for each tool of compute-sanitizer, over the kernels' tests on the GPU."""
    if not context.on_gpu:
        report.gap("compute-sanitizer", "it watches a GPU, and there is none")
        return
    program = find_sanitizer()
    if program is None:
        report.gap("compute-sanitizer", "not here; pip install nvidia-cuda-sanitizer-api adds it")
        return
    report.fact(program=str(program))
    for number, tool in enumerate(TOOLS):
        words = [str(program), "--tool", tool, "--target-processes", "all"]
        words += ["--error-exitcode", str(FOUND), sys.executable, "-m", "pytest", "-q"]
        words += ["-p", "no:cacheprovider", "-k", "gpu and not g++", *KERNELS]
        ended, text = _run(words, {}, context.left() / (len(TOOLS) - number) - 3)
        summary = [line.strip("= ") for line in text.splitlines() if "SUMMARY" in line]
        ran = re.search(r"(\d+) passed", text)
        report.row(
            tool=tool, ended=ended, passed=int(ran[1]) if ran else 0, summary=summary[-1:] or [""]
        )
        if not ran:
            tail = text.strip().splitlines()
            report.gap(f"compute-sanitizer {tool}", tail[-1] if tail else f"ended: {ended}")
    if any(row["ended"] == str(FOUND) for row in report.rows):
        raise AssertionError("compute-sanitizer has found errors; see the log")


def find_sanitizer() -> Path | None:
    """The one on the PATH, which fits its driver, else the wheel's."""
    if found := shutil.which("compute-sanitizer"):
        return Path(found)
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "cu13" / "compute-sanitizer" / "compute-sanitizer"
        if path.is_file():
            path.chmod(0o755)  # wheels may lose it
            return path
    return None


def read_junit(text: str) -> dict[str, object]:
    """Counts, the reasons of what could not run, and what failed. lacking: what FHRT_REQUIRE=gpu
    makes fail where it would skip, which is no fault of what is tested."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    failures: list[str] = []
    for case in ET.fromstring(text).iter("testcase"):
        outcome = next((e for e in case if e.tag in ("failure", "error", "skipped")), None)
        kind = "passed" if outcome is None else outcome.tag
        said = ("" if outcome is None else outcome.get("message") or "").strip()
        if kind in ("failure", "error"):
            kind = "lacking" if LACKING in said else "failed"
        counts[kind] += 1
        lines = said.partition(LACKING)[2 if kind == "lacking" else 0].splitlines() or [""]
        if kind in ("skipped", "lacking"):
            reasons[lines[0].strip(' "')[:200]] += 1
        elif kind == "failed":
            failures.append(f"{case.get('classname')}::{case.get('name')}: {lines[0][:200]}")
    return {
        **{kind: counts[kind] for kind in ("passed", "failed", "lacking", "skipped")},
        "reasons": dict(reasons),
        "failures": failures[:SHOWN],
    }


def read_log(text: str) -> dict[str, object]:
    """The same of `pytest -v`, as far as it came."""
    found = re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)", text, re.MULTILINE)
    counts = Counter(outcome for _, outcome in found)
    return {
        "passed": counts["PASSED"],
        "failed": counts["FAILED"] + counts["ERROR"],
        "lacking": 0,
        "skipped": counts["SKIPPED"],
        "reasons": {},
        "failures": [name for name, outcome in found if outcome in ("FAILED", "ERROR")][:SHOWN],
    }


def _run(words: list[str], more: dict[str, str], seconds: float) -> tuple[str, str]:
    """How it ended (exit code, or that it was ended), and what it printed."""
    print("+", *words, flush=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FHRT_")} | more
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=max(1.0, seconds), check=False,
        )  # fmt: skip
        ended, output = str(done.returncode), done.stdout
    except subprocess.TimeoutExpired as error:
        ended, output = f"ended after {seconds:.0f} s", error.stdout or b""
    text = output.decode(errors="replace")
    print(text, flush=True)
    return ended, text
