"""Which machine this is: what its results are filed under, and what they were measured with."""

from __future__ import annotations

import datetime
import os
import platform
import re
from typing import Any

from fhrt.exporting.artifact import versions
from fhrt.runtime.cpu import find_processor, usable_cores
from fhrt.runtime.gpu import find_gpu

SETS = ("amx_tile", "avx512f", "avx2", "sve", "asimd")  # what names the machine, best first
PACKAGES = (
    "fhrt", "numpy", "opencv-python-headless", "av", "onnxruntime", "onnxruntime-gpu", "openvino",
    "torch", "tensorrt", "tensorrt-rtx",
)  # fmt: skip


def describe(threads: int = 0) -> dict[str, Any]:
    """Processor, cores, instruction sets, GPU, versions, date (UTC) and load at this moment. kind:
    what results are filed under and compared by."""
    name, flags = find_processor()
    cores, gpu = usable_cores(), find_gpu()
    best = next((flag for flag in SETS if flag in flags), platform.machine())
    words = gpu.name if gpu else f"{name} {cores} cores {best}"
    return {
        "kind": slug(words),
        "processor": name,
        "cores": cores,
        "threads": threads or cores,
        "flags": flags,
        "gpu": {"name": gpu.name, "driver": gpu.driver} if gpu else None,
        "system": platform.platform(),
        "versions": versions(PACKAGES),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def slug(words: str) -> str:
    """A folder's name out of a machine's.

    >>> slug("Intel(R) Xeon(R) Processor @ 2.80GHz 2 cores avx512f")
    'intel-xeon-2.80ghz-2-cores-avx512f'
    """
    words = re.sub(r"\((r|tm|c)\)|\b(processor|cpu)\b", " ", words, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.")


def line(found: dict[str, Any]) -> str:
    """The machine in one line, for people."""
    threads, cores = found["threads"], found["cores"]
    parts = [f"{found['processor']}, {threads} thread{'s' * (threads != 1)} on {cores} cores"]
    parts.append(" ".join(found["flags"]) or "no vector flags known")
    if gpu := found["gpu"]:
        parts.append(f"{gpu['name']} (driver {gpu['driver']})")
    parts += [f"{name} {version}" for name, version in found["versions"].items()]
    parts.append(found["date"])
    if found["load"] is not None:
        parts.append(f"load {found['load']:.2f} at the start")
    return "; ".join(parts)
