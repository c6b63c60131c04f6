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
from fhrt.runtime.openvino import PRECISIONS, OpenVinoSession, multiplies_bf16
from fhrt.runtime.session import Batch, Session
from fhrt.weights import cache_folder

GATE = 45.0  # dB between OpenVINO and ONNX Runtime on each of `_pictures`, for a range of 1
FASTER = 1.05  # less may be chance
SECONDS = 1.0  # for each runtime, or two passes where those take longer


@dataclass(frozen=True)
class Choice:
    """runtime: onnx, or one of openvino's. why: what was measured, in words."""

    runtime: str
    why: str


def open_fastest(model: Recipe, device: str, index: int, threads: int) -> Session:
    """ONNX Runtime where it has a GPU; else as `choose` says. Raises as OnnxSession does."""
    if device == "cuda" or (device == "auto" and offers_cuda()):
        session = open_onnx(model, device, index, threads)
        if session.device != "cpu":
            return session
    choice = choose(model, threads)
    if choice.runtime in PRECISIONS:
        try:
            return OpenVinoSession(model, "cpu", threads, choice.runtime)
        except FhrtError as error:
            _stays(str(error))
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
        _stays(f"{note}: cannot be written: {error.strerror}")
        return Choice("onnx", "the choice cannot be remembered")
    with lock:
        if kept := _read(note, key):  # another process has measured meanwhile
            return kept
        choice = _measure(model, threads)
        try:
            write_atomically(note, (json.dumps(asdict(choice) | {"key": key}) + "\n").encode())
        except InputError as error:
            _stays(str(error))
            return Choice("onnx", "the choice cannot be remembered")
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
    return choice if choice.runtime in ("onnx", *PRECISIONS) else None


def _measure(model: Recipe, threads: int) -> Choice:
    """Open what there is, drop what does not give the same, time the rest."""
    onnx = OnnxSession(model, "cpu", 0, threads)
    step = model.multiple
    sides = model.sizes or (step * math.ceil(64 / step),)
    batches = [batch for side in sides for batch in _pictures(side)]
    expected = [onnx(batch) for batch in batches]
    sessions: dict[str, Session] = {"onnx": onnx}
    refused = []
    for name, precision in PRECISIONS.items():
        if precision != "fp32" and not multiplies_bf16():
            continue
        if precision == "bf16x2" and "openvino-bf16" in sessions:
            continue  # which is faster, and near enough
        try:
            candidate = OpenVinoSession(model, "cpu", threads, name)
            decibels = min(
                _psnr(output, candidate(batch))
                for output, batch in zip(expected, batches, strict=True)
            )
        except (FhrtError, RuntimeError) as error:
            refused.append(f"{name}: {' '.join(str(error).split())}")
            continue
        if decibels < GATE:
            refused.append(f"{name}: {decibels:.0f} dB from onnx, under {GATE:.0f}")
        else:
            sessions[name] = candidate
    for line in refused:
        _warn(f"auto leaves out {line}")
    one_a_size = batches[:: len(batches) // len(sides)]
    seconds = time_passes(sessions, one_a_size)
    fastest = min(seconds, key=lambda name: seconds[name])
    if seconds["onnx"] < FASTER * seconds[fastest]:
        fastest = "onnx"
    times = [f"{name} {1000 * taken:.1f} ms" for name, taken in seconds.items()]
    return Choice(fastest, ", ".join(times + refused))


def _pictures(side: int) -> list[Batch]:
    """Seeded pictures (1, 3, side, side): soft colours under noise, and a face as a child draws it,
    light on dark and dark on light. Where rounding sets a network astray, it does so on faces:
    GFPGAN with drawn weights, in bf16, keeps 47 dB on the first, 35 on the others, 30 to 46 on
    photographs of faces."""
    rng = np.random.default_rng(0)
    made = [cv2.resize(rng.random((8, 8, 3), np.float32), (side, side))]
    y, x = np.mgrid[:side, :side] / side - 0.5
    for ground, skin in ((0.1, 0.8), (0.9, 0.5)):
        inside = np.exp(-(((x / 0.28) ** 2 + (y / 0.36) ** 2) ** 2))[..., None]
        face = ground + (skin * np.array([1.0, 0.78, 0.66]) - ground) * inside
        for dark, across, down, width, height in (
            (0.7, -0.12, -0.03, 0.05, 0.03),  # an eye
            (0.7, 0.12, -0.03, 0.05, 0.03),  # the other
            (0.4, 0.0, 0.2, 0.09, 0.03),  # the mouth
        ):
            spot = np.exp(-(((x - across) / width) ** 2 + ((y - down) / height) ** 2))
            face = face * (1 - dark * spot[..., None])
        made.append(face)
    noisy = [picture + rng.normal(0, 0.05, picture.shape) for picture in made]
    return [
        np.ascontiguousarray(picture.clip(0, 1).transpose(2, 0, 1)[None], np.float32)
        for picture in noisy
    ]


def _psnr(expected: Batch, given: Batch) -> float:
    """dB over all values for a range of 1; minus infinity where a value is no number."""
    error = float(np.mean((expected.astype(np.float64) - given) ** 2))
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


def _stays(why: str) -> None:
    _warn(f"auto stays with ONNX Runtime: {why}")


def _warn(line: str) -> None:
    warnings.warn(line, RuntimeWarning, stacklevel=4)
