"""Peak memory of a case, measured in a process of its own: `python -m fhrt.bench.memory JSON`.

The host's is the largest resident set of the whole process, Python and libraries included. The
device's is what NVML says is in use more than before, after the calls: the runtimes keep what they
have once taken.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fhrt.errors import FhrtError, RuntimeMissing

STATUS = Path("/proc/self/status")
CALLS, SECONDS = 3, 1.0  # at least so many calls, and with a GPU for so long


def measure(task: dict[str, Any]) -> dict[str, float]:
    """host_bytes, and with a GPU device_bytes and joules (a call), of a task in a fresh process.

    task: {"call": [setup's model, runtime, precision, device, artifacts], "batch", "side",
    "threads"}, or {"film": path, "whole": whether all its frames are held at once, "threads"},
    which also gives seconds. Raises RuntimeMissing where the process fails.
    """
    command = [sys.executable, "-m", "fhrt.bench.memory", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeMissing(f"memory could not be measured: {last}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peak() -> int:
    """The largest resident set of this process so far, in bytes. Not getrusage's on Linux, which
    begins with that of the process that started it."""
    for line in STATUS.read_text().splitlines() if STATUS.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _run_call(task: dict[str, Any]) -> dict[str, float]:
    from fhrt.bench.cases import batch_of, open_setup, setup_of

    model, runtime, precision, device, artifacts = task["call"]
    gpu = _gpu(device)
    before = gpu.used() if gpu else 0
    setup = setup_of(model, runtime, precision, device, Path(artifacts))
    session = open_setup(setup, task["threads"])
    batch = batch_of(task["batch"], task["side"])
    for _ in range(CALLS):
        session(batch)
    found: dict[str, float] = {"host_bytes": peak()}
    if gpu:
        found["device_bytes"] = gpu.used() - before
        calls, start, joules = 0, time.perf_counter(), gpu.joules()
        while joules is not None and time.perf_counter() - start < SECONDS:
            session(batch)
            calls += 1
        if joules is not None:
            found["joules"] = ((gpu.joules() or 0.0) - joules) / calls
    return found


def _run_film(task: dict[str, Any]) -> dict[str, float]:
    import tempfile

    from fhrt.bench.peers import decode_all_then_process
    from fhrt.restorer import Restorer
    from fhrt.video.stream import restore_video

    restorer = Restorer(runtime="onnx", device="cpu", threads=task["threads"])
    restore = decode_all_then_process if task["whole"] else restore_video
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        restore(Path(task["film"]), Path(folder) / "out.mp4", restorer)
        return {"seconds": time.perf_counter() - start, "host_bytes": peak()}


def _gpu(device: str) -> Any:
    if not device.startswith("cuda"):
        return None
    from fhrt.bench.nvml import Gpu

    try:
        return Gpu(int(device.partition(":")[2] or 0))
    except OSError:
        return None


def main() -> int:
    task = json.loads(sys.argv[1])
    try:
        found = _run_film(task) if "film" in task else _run_call(task)
    except FhrtError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
