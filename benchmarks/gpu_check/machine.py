"""Which machine this is, and what `fhrt doctor` says of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from contextlib import suppress

from gpu_check.steps import Context, Report


def environment(report: Report, context: Context) -> None:
    """Processor, memory, versions; of the GPU, asked of NVML, its memory, clocks, power and MIG."""
    from fhrt.bench.machine import PACKAGES, describe
    from fhrt.exporting.artifact import versions

    more = ("cuda-python", "cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "onnx")
    found = describe()
    found["versions"] = versions([*PACKAGES, *more])
    report.fact(**found, python=sys.executable, memory_bytes=_memory())
    with suppress(OSError):  # a copy of a checkout may have no git
        asked = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=False)
        report.fact(commit=commit.stdout.strip())
    if context.on_gpu:
        try:
            report.fact(nvml=nvml(int(context.device.partition(":")[2])))
        except OSError as error:
            report.gap("clocks, power and MIG", error)


def nvml(index: int) -> dict[str, object]:
    """What the driver says; what it does not answer is left out."""
    from fhrt.bench.nvml import Gpu

    class Facts(Gpu):
        def number(self, function: str, *arguments: int) -> int | None:
            answer = ctypes.c_uint()
            asked = getattr(self._nvml, function, None)
            failed = asked is None or asked(self._handle, *arguments, ctypes.byref(answer))
            return None if failed else answer.value

        def mig(self) -> int | None:
            current, pending = ctypes.c_uint(), ctypes.c_uint()
            asked = self._nvml.nvmlDeviceGetMigMode
            failed = asked(self._handle, ctypes.byref(current), ctypes.byref(pending))
            return None if failed else current.value

        def total(self) -> int:
            from fhrt.bench.nvml import _Memory

            memory = _Memory()
            self._ask(self._nvml.nvmlDeviceGetMemoryInfo, memory)
            return int(memory.total)

    gpu = Facts(index)
    sm, memory = 1, 2  # nvmlClockType_t
    found = {
        "memory_bytes": gpu.total(),
        "used_bytes": gpu.used(),
        "sm_mhz": gpu.number("nvmlDeviceGetClockInfo", sm),
        "sm_mhz_most": gpu.number("nvmlDeviceGetMaxClockInfo", sm),
        "memory_mhz": gpu.number("nvmlDeviceGetClockInfo", memory),
        "memory_mhz_most": gpu.number("nvmlDeviceGetMaxClockInfo", memory),
        "power_limit_mw": gpu.number("nvmlDeviceGetEnforcedPowerLimit"),
        "celsius": gpu.number("nvmlDeviceGetTemperature", 0),
        "mig": gpu.mig(),
    }
    return {name: value for name, value in found.items() if value is not None}


def doctor(report: Report, context: Context) -> None:
    command = [sys.executable, "-m", "fhrt.cli.main", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("model ")]
    report.fact(lines=lines, exit_code=done.returncode)
    if done.returncode:
        raise RuntimeError(f"fhrt doctor: exit code {done.returncode}: {done.stderr.strip()}")


def _memory() -> int | None:
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
