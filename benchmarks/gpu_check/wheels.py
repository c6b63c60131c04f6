"""What is installed, into an environment of its own under the work folder. Standard library only.

Each group is installed by itself: where one cannot be had (TensorRT's libraries come from NVIDIA's
own index), the others still are. onnxruntime, which fhrt[train] and fhrt[bench] bring, would
overwrite the files of onnxruntime-gpu, so what is needed of them is named here.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_check.steps import ROOT

if TYPE_CHECKING:
    from gpu_check.steps import Context, Report


@dataclass(frozen=True)
class Group:
    """words: for pip. driver: the oldest that runs them, 0 for any."""

    name: str
    words: tuple[str, ...]
    driver: int
    what: str


CUDA_13 = 580  # the first driver for it (CUDA 13.0 release notes, table 3)
GROUPS = (
    Group("fhrt", ("-e", ".[demo]", "pytest>=9,<10", "onnx>=1.19,<2", "onnxscript>=0.5,<1"), 0,
          "fhrt, its tests, export"),
    Group("torch", ("torch=={torch},!={torch}+cpu",), CUDA_13,
          "as tested (constraints.txt), but never the CPU build, which an index may prefer"),
    Group("gpu", ("-e", ".[gpu]"), CUDA_13, "ONNX Runtime on CUDA, cuDNN, the kernels' compiler"),
    Group("tensorrt", ("-e", ".[tensorrt]"), CUDA_13, "engines"),
    Group("rtx", ("-e", ".[rtx]"), CUDA_13, "engines where TensorRT cannot be had; not on sm_90"),
    Group("sanitizer", ("nvidia-cuda-sanitizer-api>=13,<14",), CUDA_13, "compute-sanitizer"),
)  # fmt: skip


WITHOUT = Group("cpu", ("-e", ".[cpu]", "torch=={torch}"), 0, "without a driver, in their place")


def listed() -> str:
    """The table for people."""
    return "\n".join(f"  {g.name:10} {' '.join(_words(g))}: {g.what}" for g in (*GROUPS, WITHOUT))


def python_of(work: Path) -> Path:
    windows = sys.platform == "win32"
    return work / "venv" / ("Scripts/python.exe" if windows else "bin/python")


def install(report: Report, context: Context) -> None:
    """A row for each group, with its seconds; a gap where pip fails."""
    python = python_of(context.work)
    if not python.is_file():
        made = [sys.executable, "-m", "venv", str(context.work / "venv")]
        subprocess.run(made, check=True)
    driver = _driver()
    for group in (*GROUPS, *([] if driver else [WITHOUT])):
        if driver < group.driver:
            found = f"driver {driver}" if driver else "no driver"
            report.gap(group.name, f"needs driver {group.driver} or later, and {found} is here")
            continue
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--no-input", "--retries", "1", "--timeout", "20", "--progress-bar", "off"]
        begun = time.monotonic()
        print(f"+ {' '.join([*command, *_words(group)])}", flush=True)
        done = subprocess.run(
            [*command, *_words(group)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        print(done.stdout, done.stderr, flush=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            report.gap(group.name, errors[-1] if errors else f"pip: exit code {done.returncode}")
            if group is GROUPS[0]:  # no index can be reached: the others would only wait, too
                return
        else:
            report.row(group=group.name, seconds=round(time.monotonic() - begun, 1))


def _words(group: Group) -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    torch = next(line.partition("==")[2] for line in lines if line.startswith("torch=="))
    return [word.format(torch=torch) for word in group.words]


def _driver() -> int:
    """The major number of NVIDIA's driver; 0 without one."""
    version = ctypes.create_string_buffer(96)
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return 0
    if nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(version, len(version)):
        return 0
    return int(version.value.decode().partition(".")[0])
