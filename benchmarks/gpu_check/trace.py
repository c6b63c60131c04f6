"""What a profiler's trace says that the GPU did: copies, kernels, and how long it was idle.

torch.profiler hears of all that CUDA does in the process (CUPTI), whichever library asked for it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

WORK = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of what runs on the GPU
COPIES = {"host_to_device": "HtoD", "device_to_host": "DtoH", "device_to_device": "DtoD"}


def record(call: Callable[[], object], path: Path, on_gpu: bool) -> list[dict[str, Any]]:
    """The events of a call, which are also written to `path` (chrome://tracing, Perfetto). Raises
    RuntimeError where torch cannot hear of the GPU."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    if on_gpu and not torch.cuda.is_available():
        raise RuntimeError("not counted: this torch has no CUDA, whose profiler would count")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    seen.export_chrome_trace(str(path))
    events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events


def median(events: Iterable[dict[str, Any]], kernel: str) -> float:
    """Milliseconds of the kernel of a name. Raises ValueError where it did not run."""
    kernels = [e for e in events if e.get("cat") == "kernel" and e.get("ph") == "X"]
    taken = [float(e["dur"]) / 1000 for e in kernels if e["name"].startswith(kernel)]
    if not taken:
        raise ValueError(f"not measured: the trace has no kernel {kernel}")
    return statistics.median(taken)


def summary(events: Iterable[dict[str, Any]], frames: int) -> dict[str, float]:
    """A frame's kernels, copies and bytes copied, and idle: the share of the time from the first to
    the last work of the GPU in which it had none. Raises ValueError where it did nothing."""
    work = [event for event in events if event.get("cat") in WORK and event.get("ph") == "X"]
    if not work:
        raise ValueError("not counted: the trace has no work of a GPU")
    spans = sorted((float(e["ts"]), float(e["ts"]) + float(e["dur"])) for e in work)
    first, end, busy = spans[0][0], spans[0][0], 0.0
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    found: dict[str, float] = {
        "kernels": sum(event["cat"] == "kernel" for event in work) / frames,
        "idle": 1 - busy / (end - first),
        "busy_ms": busy / 1000 / frames,
    }
    for name, word in COPIES.items():
        copies = [e for e in work if e["cat"] == "gpu_memcpy" and word in e["name"]]
        found[name] = len(copies) / frames
        found[f"{name}_bytes"] = sum(e.get("args", {}).get("bytes", 0) for e in copies) / frames
    return found
