"""Microseconds of cutting faces out and of pasting them, and the share of the copy's bandwidth."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gpu_check import trace
from gpu_check.clock import WARM, Events, figures, host_copy, in_turn, wall
from gpu_check.latency import gap
from gpu_check.steps import ROOT, Context, Report

FACES = (1, 4, 16, 64)
REPEATED = 10  # calls between two events, so that what the host takes is not all of a short one
LARGE = 120  # pixels of a face in the picture


class Array:
    """On the GPU, for anything that knows `__cuda_array_interface__`."""

    def __init__(self, values: Any, held: ExitStack) -> None:
        from fhrt.runtime import cuda

        self.shape, self.nbytes = values.shape, values.nbytes
        address = cuda.device_memory(held, values.nbytes)
        cuda.call("cuMemcpyHtoD", address, values.ctypes.data, values.nbytes)
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (address, False),
            "version": 3,
            "stream": None,
        }


def kernels(report: Report, context: Context) -> None:
    """A row for each kernel and number of faces; on a CPU the kernels as g++ compiles them."""
    with ExitStack() as held:
        size, side, faces = ((1920, 1080), 512, FACES) if context.on_gpu else ((256, 256), 64, (1,))
        if context.on_gpu:
            from fhrt.cuda.launch import Gpu

            events = Events()
            gpu: Any = Gpu()
            stream = int(gpu.stream.handle)
            put: Callable[[Any], Any] = partial(Array, held=held)
            ceiling = events.copy(held)
            clock: Callable[[Any], float] = partial(_ten, events, stream)
        else:
            emulator = _emulator(report, held)
            if emulator is None:
                return
            gpu, put = emulator, lambda values: values
            ceiling, clock = host_copy(), wall
        for count in faces:
            _rows(report, context, gpu, put, clock, ceiling, count, size, side)


def _rows(
    report: Report,
    context: Context,
    gpu: Any,
    put: Callable[[Any], Any],
    clock: Callable[[Any], float],
    ceiling: tuple[Callable[[], float], float],
    count: int,
    size: tuple[int, int],
    side: int,
) -> None:
    from fhrt.cuda.launch import crop_faces, paste_faces
    from fhrt.cuda.plan import crop_rows, paste_rows

    rng = np.random.default_rng(0)
    width, height = size
    values = rng.integers(0, 255, (height, width, 3), np.uint8)
    matrices = _matrices(count, size, side)
    picture, target = put(values), put(values.copy())
    cut, after = (put(rng.random((count, 3, side, side), np.float32)) for _ in range(2))
    olds, news = ([_part(b, i, side) for i in range(count)] for b in (cut, after))
    calls = {
        "crop_faces": partial(crop_faces, gpu, [picture] * count, matrices, cut),
        "paste_faces": partial(paste_faces, gpu, target, olds, news, matrices),
    }
    read = crop_rows([(height, width)] * count, matrices, side)
    changed = paste_rows((height, width), matrices, [side] * count, 1)
    crops = 4 * 3 * side * side * count
    pixels = int((read["columns"] * read["rows"] * read["step"].astype(np.int64) ** 2).sum())
    boxes = (changed["right"] - changed["left"]) * (changed["bottom"] - changed["top"])
    # every value once: what is read of the picture and written of the crops; both crops read, the
    # picture read and written
    moved = {"crop_faces": 3 * pixels + crops, "paste_faces": 6 * int(boxes.sum()) + 2 * crops}
    for call in calls.values():
        for _ in range(WARM):
            call()
    timed = {name: partial(clock, call) for name, call in calls.items()}
    taken = in_turn(timed | {"copy": ceiling[0]}, context.rounds, context.seconds)
    rate = ceiling[1] / float(np.median(taken["copy"]))  # bytes a ms
    for name in calls:
        found = figures(taken[name], "device" if context.on_gpu else "wall")
        p50 = next(value for key, value in found.items() if key.endswith("p50_ms"))
        if context.on_gpu:
            with gap(report, f"{name} alone, {count} faces"):
                p50 = found["kernel_p50_ms"] = _alone(name, calls[name], context)
        report.row(
            kernel=name,
            on=context.device if context.on_gpu else "cpu, as g++ compiles it",
            picture=f"{width}×{height}",
            faces=count,
            side=side,
            **found,
            bytes=moved[name],
            copy_bytes_per_second=1000 * rate,
            share_of_copy=moved[name] / rate / p50,
        )


def _matrices(count: int, size: tuple[int, int], side: int) -> list[Any]:
    """Of upright faces on a grid over the picture."""
    from fhrt.faces import TEMPLATE, TEMPLATE_SIDE, crop_matrix

    across = int(np.ceil(np.sqrt(count)))
    found = []
    for i in range(count):
        x, y = (np.array([i % across, i // across]) + 0.5) * np.array(size) / across
        landmarks = (TEMPLATE / TEMPLATE_SIDE - 0.5) * 2 * LARGE + [x, y]
        found.append(crop_matrix(landmarks, side))
    return found


def _part(batch: Any, index: int, side: int) -> Any:
    """One crop of a batch, which it shares its memory with."""
    if isinstance(batch, np.ndarray):
        return batch[index]
    part = object.__new__(Array)
    about = dict(batch.__cuda_array_interface__)
    address = about["data"][0] + 4 * index * prod((3, side, side))
    part.__cuda_array_interface__ = about | {"shape": (3, side, side), "data": (address, False)}
    return part


def _alone(name: str, call: Callable[[], None], context: Context) -> float:
    """Milliseconds of the kernel itself, of which the profiler hears: the median of ten."""
    events = trace.record(
        lambda: [call() for _ in range(REPEATED)], context.work / "kernels-trace.json", True
    )
    return trace.median(events, name)


def _ten(events: Events, stream: int, call: Any) -> float:
    def often() -> None:
        for _ in range(REPEATED):
            call()

    return events.time(often, stream) / REPEATED


def _emulator(report: Report, held: ExitStack) -> Any:
    if shutil.which("g++") is None:
        report.gap("kernels on the CPU", "g++, which compiles them for it, is not here")
        return None
    sys.path.insert(0, str(ROOT / "tests" / "cuda"))
    from emulator import Emulator, build

    folder = held.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    return Emulator(build(Path(folder)))
