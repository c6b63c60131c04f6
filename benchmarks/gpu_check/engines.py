"""Exports through `fhrt export`, each a process of its own, and which ways to run a model there are
after them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_check.steps import Context, Report

LIBRARIES = ("tensorrt", "tensorrt_rtx")
SMALLEST = "landmarks"  # to show that exports run, where nothing can run what they leave


@dataclass(frozen=True)
class Way:
    """model: for `open_session`. file: the ONNX file that it runs, or was built from."""

    model: str | Path
    runtime: str
    precision: str
    file: Path

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


def engines(report: Report, context: Context) -> None:
    """A row for each step of each export, with seconds, bytes and parity."""
    library = _library(report) if context.on_gpu else ""
    if not context.on_gpu:
        report.gap("TensorRT", "engines run on a GPU, and there is none")
    names = sorted((name for name, _ in context.models), key=lambda name: name != "restore")
    if context.quick and not context.on_gpu:
        names = [SMALLEST]
    for name in names:
        words = [name]
        if _others(name):
            words += ["--checkpoint", str(_seeded(name, report, context))]
        done = False
        if library:
            more = ["--to", "tensorrt", "--library", library, "--batch", context.engine_batch]
            done = _export([*words, *more], name, "tensorrt", report, context)
        if not done:  # what an engine was built from is the same graph
            _export([*words, "--to", "fp16"], name, "fp16", report, context)


def ways(name: str, context: Context) -> list[Way]:
    """How a model can be run on this device: what the exports have left, and itself."""
    from fhrt.errors import FhrtError
    from fhrt.models import recipe

    found: list[Way] = []
    folder = _artifacts(context) / f"{name}-tensorrt"
    if context.on_gpu and (folder / "model.engine").is_file():
        found.append(Way(folder, "tensorrt", "fp16", folder / "model.onnx"))
    for half in (folder, _artifacts(context) / f"{name}-fp16"):
        if context.on_gpu and (half / "model.onnx").is_file():
            found.append(Way(half / "model.onnx", "onnx", "fp16", half / "model.onnx"))
            break
    try:
        exact = recipe(name).onnx_path()
    except FhrtError:
        return found
    return [*found, Way(name, "onnx", "fp32", exact), Way(name, "torch", "fp32", exact)]


def _library(report: Report) -> str:
    """The first that builds for this GPU; "" for none."""
    from fhrt.errors import FhrtError
    from fhrt.exporting.builders import EngineOptions, find_builder

    chosen = ""
    for library in LIBRARIES:
        try:
            trt, _, capabilities = find_builder(EngineOptions(library))
        except FhrtError as error:
            report.gap(library, error)
        else:
            report.fact(**{library: f"{trt.__version__} for {' '.join(capabilities)}"})
            chosen = chosen or library
    return chosen


def _others(name: str) -> bool:
    """Whether its weights are other people's, in place of which made-up ones are taken."""
    from fhrt.models import recipe

    return bool(recipe(name).checkpoint.files)


def _seeded(name: str, report: Report, context: Context) -> Path:
    """The checkpoint of `fhrt bench --seeded`, made where it is not here yet."""
    import time

    from fhrt.bench.peers import seed
    from fhrt.models import recipe

    folder, found = context.work / "seeded", recipe(name)
    if not (folder / f"{name}.onnx").is_file():
        begun = time.monotonic()
        seed(found, folder)
        report.row(model=name, step="seeded weights, fp32 ONNX", seconds=time.monotonic() - begun)
    return folder / found.checkpoint.files[0].file


def _artifacts(context: Context) -> Path:
    return context.work / "artifacts"


def _export(words: list[str], name: str, to: str, report: Report, context: Context) -> bool:
    command = [sys.executable, "-m", "fhrt.cli.main", "export", *words]
    command += ["-o", str(_artifacts(context))]
    print("+", *command, flush=True)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=context.left() - 2
        )
    except subprocess.TimeoutExpired as error:
        report.gap(f"{name} to {to}", f"ended after {error.timeout:.0f} s")
        return False
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        report.gap(f"{name} to {to}", last[0])
        return False
    manifest = _artifacts(context) / f"{name}-{to}" / "manifest.json"
    facts: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    for step in facts["steps"]:
        worst = min((found["psnr"] for found in step["parity"].values()), default=None)
        about = {"seconds": step["seconds"], "bytes": step["bytes"], "psnr": worst}
        report.row(model=name, step=step["to"], **about, parity=step["parity"])
    if "engine" in facts:
        report.fact(**{f"{name} engine": facts["engine"]})
    return True
