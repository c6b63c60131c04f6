"""`--runtime auto` on a CPU: ONNX Runtime, or OpenVINO where it gives the same, faster.

Measured once for a model on a machine and remembered, so that every run there gives the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock

from fhrt.errors import FhrtError, InputError
from fhrt.models import Recipe
from fhrt.pictures import write_atomically
from fhrt.runtime.cpu import find_processor, usable_cores
from fhrt.runtime.onnx import OnnxSession, offers_cuda
from fhrt.runtime.onnx_gpu import open_onnx
from fhrt.runtime.openvino import OpenVinoSession, multiplies_bf16
from fhrt.runtime.session import Batch, Session
from fhrt.weights import cache_folder

GATE = 45.0  # dB between OpenVINO and ONNX Runtime on seeded pictures, for a range of 1
FASTER = 1.05  # less may be chance
SECONDS = 1.0  # for each runtime, or two passes where those take longer


@dataclass(frozen=True)
class Choice:
    """runtime: onnx or openvino. precision: fp32 or bf16. why: what was measured, in words."""

    runtime: str
    precision: str
    why: str


def open_fastest(model: Recipe, device: str, index: int, threads: int) -> Session:
    """ONNX Runtime where it has a GPU; else as `choose` says. Raises as OnnxSession does."""
    if device == "cuda" or (device == "auto" and offers_cuda()):
        session = open_onnx(model, device, index, threads)
        if session.device != "cpu":
            return session
    choice = choose(model, threads)
    if choice.runtime == "openvino":
        try:
            return OpenVinoSession(model, "cpu", threads, choice.precision)
        except FhrtError as error:
            _warn(str(error))
    return OnnxSession(model, "cpu", index, threads)


def choose(model: Recipe, threads: int = 0) -> Choice:
    """The runtime for a model on this machine's CPU: as remembered, or measured now, which takes
    about SECONDS for each and the opening of both.

    What goes wrong with OpenVINO, and a cache that cannot be written, is a RuntimeWarning, and the
    choice is ONNX Runtime. Raises ModelError where ONNX Runtime cannot open the model.
    """
    path = model.onnx_path()
    key = _key(path, threads)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    note = cache_folder() / "runtimes" / f"{path.stem}-{digest}.json"
    if kept := _read(note, key):
        return kept
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(note.with_name(f".{note.name}.lock")).acquire()
    except OSError as error:
        # a choice that cannot be remembered might be another one in the next run
        _warn(f"{note}: cannot be written: {error.strerror}")
        return Choice("onnx", "fp32", "the choice cannot be remembered")
    with lock:
        if kept := _read(note, key):  # another process has measured meanwhile
            return kept
        choice = _measure(model, threads)
        try:
            write_atomically(note, (json.dumps(asdict(choice) | {"key": key}) + "\n").encode())
        except InputError as error:
            _warn(str(error))
            return Choice("onnx", "fp32", "the choice cannot be remembered")
    return choice


def _key(path: Path, threads: int) -> dict[str, Any]:
    """What the choice depends on."""
    import onnxruntime

    with path.open("rb") as file:
        model = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "model": model,
        "onnxruntime": onnxruntime.__version__,
        "openvino": version("openvino"),
        "processor": find_processor()[0],
        "threads": threads or usable_cores(),
    }


def _read(note: Path, key: dict[str, Any]) -> Choice | None:
    """What is remembered; None where there is nothing that can be read and fits the key."""
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept.pop("key") != key:
            return None
        choice = Choice(**kept)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    known = choice.runtime in ("onnx", "openvino") and choice.precision in ("fp32", "bf16")
    return choice if known else None


def _measure(model: Recipe, threads: int) -> Choice:
    """Open what there is, drop what does not give the same, time the rest."""
    onnx = OnnxSession(model, "cpu", 0, threads)
    batches = _pictures(model)
    expected = [onnx(batch) for batch in batches]
    sessions: dict[str, Session] = {"onnx": onnx}
    refused = []
    for precision in ("fp32", "bf16") if multiplies_bf16() else ("fp32",):
        try:
            candidate = OpenVinoSession(model, "cpu", threads, precision)
            decibels = _psnr(expected, [candidate(batch) for batch in batches])
        except (FhrtError, RuntimeError) as error:
            refused.append(" ".join(str(error).split()))
            continue
        if decibels < GATE:
            refused.append(f"openvino {precision} is {decibels:.0f} dB from onnx, under {GATE:.0f}")
        elif candidate.precision == precision:
            sessions[f"openvino {precision}"] = candidate
    for line in refused:
        _warn(line)
    seconds = time_passes(sessions, batches)
    fastest = min(seconds, key=lambda name: seconds[name])
    if seconds["onnx"] < FASTER * seconds[fastest]:
        fastest = "onnx"
    times = [f"{name} {1000 * taken:.1f} ms" for name, taken in seconds.items()]
    return Choice(
        sessions[fastest].runtime, sessions[fastest].precision, ", ".join(times + refused)
    )


def _pictures(model: Recipe) -> list[Batch]:
    """A seeded picture of every size that the model is made for: soft colours under noise."""
    rng = np.random.default_rng(0)
    step = model.multiple
    made = []
    for side in model.sizes or (step * math.ceil(64 / step),):
        soft = cv2.resize(rng.random((8, 8, 3), np.float32), (side, side))
        noisy = soft + rng.normal(0, 0.05, soft.shape)
        made.append(np.ascontiguousarray(noisy.clip(0, 1).transpose(2, 0, 1)[None], np.float32))
    return made


def _psnr(expected: Sequence[Batch], given: Sequence[Batch]) -> float:
    """dB over all values for a range of 1; minus infinity where a value is no number."""
    pairs = zip(expected, given, strict=True)
    error = float(np.mean([np.mean((a.astype(np.float64) - b) ** 2) for a, b in pairs]))
    if not math.isfinite(error):
        return -math.inf
    return -10 * math.log10(error) if error else math.inf


def time_passes(sessions: Mapping[str, Session], batches: Sequence[Batch]) -> dict[str, float]:
    """The median seconds of each for a pass over the batches; they take turns, and every second
    round runs backwards, so that whatever else the machine does meets them alike."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    order, rounds, start = list(sessions), 0, time.perf_counter()
    while rounds < 2 or time.perf_counter() - start < SECONDS * len(sessions):
        for name in order:
            begin = time.perf_counter()
            for batch in batches:
                sessions[name](batch)
            taken[name].append(time.perf_counter() - begin)
        order.reverse()
        rounds += 1
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def _warn(line: str) -> None:
    warnings.warn(f"auto stays with ONNX Runtime: {line}", RuntimeWarning, stacklevel=3)
