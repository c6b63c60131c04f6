"""The processor: its name, its instruction sets, and how many of its cores are ours."""

from __future__ import annotations

import os
import platform
from pathlib import Path

PROCESSORS = Path("/proc/cpuinfo")
# what a network's arithmetic can use, as Linux names it, weakest first
FLAGS = (
    "asimd", "sve", "i8mm", "bf16", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni",
    "amx_tile", "amx_bf16", "amx_int8",
)  # fmt: skip


def usable_cores() -> int:
    """Processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def find_processor() -> tuple[str, list[str]]:
    """Its name, and those of FLAGS that it has (where /proc/cpuinfo lists them)."""
    try:
        lines = PROCESSORS.read_text(encoding="utf-8").splitlines()
    except OSError:  # Windows, macOS
        return platform.processor() or platform.machine(), []
    fields = {}
    for text in reversed(lines):  # the first processor's win
        key, _, value = text.partition(":")
        fields[key.strip().lower()] = value.strip()
    have = (fields.get("flags") or fields.get("features") or "").split()
    name = fields.get("model name") or fields.get("hardware") or platform.machine()
    return name, [flag for flag in FLAGS if flag in have]
