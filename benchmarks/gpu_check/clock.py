"""Milliseconds of a call: by CUDA events on its stream, or by the wall clock; and calls in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

Call = Callable[[], object]
WARM = 3
COPIED = 1 << 30  # bytes: more than caches hold


class Events:
    """Two events on the GPU that is made this thread's. Raises as `fhrt.runtime.cuda.call`."""

    def __init__(self, index: int = 0) -> None:
        from fhrt.runtime.cuda import call

        self._driver = call
        call("cuInit", 0)
        (device,) = call("cuDeviceGet", index)
        (context,) = call("cuDevicePrimaryCtxRetain", device)
        call("cuCtxSetCurrent", context)
        self._first, self._last = (call("cuEventCreate", 0)[0] for _ in range(2))

    def time(self, call: Call, stream: int) -> float:
        """From when the stream reaches the call's work until all of it is done."""
        self._driver("cuEventRecord", self._first, stream)
        call()
        self._driver("cuEventRecord", self._last, stream)
        self._driver("cuEventSynchronize", self._last)
        return float(self._driver("cuEventElapsedTime", self._first, self._last)[0])

    def copy(self, held: ExitStack) -> tuple[Callable[[], float], float]:
        """A timed copy on the device, and the bytes that it moves, read and written ones."""
        from fhrt.runtime.cuda import device_memory

        size = COPIED
        source, target = device_memory(held, size), device_memory(held, size)
        call = partial(self._driver, "cuMemcpyDtoDAsync", target, source, size, 0)
        for _ in range(WARM):
            call()
        return partial(self.time, call, 0), 2.0 * size


def host_copy() -> tuple[Callable[[], float], float]:
    """The same on the host, of what is larger than most caches."""
    source = np.ones(1 << 22, np.float32)
    target = np.empty_like(source)
    return partial(wall, lambda: np.copyto(target, source)), 2.0 * source.nbytes


def wall(call: Call) -> float:
    begun = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begun)


def in_turn(
    timed: Mapping[str, Callable[[], float]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """What each of them gives in milliseconds, one after the other, each second round backwards,
    until it had its rounds or its seconds; at least once.

    >>> in_turn({"short": lambda: 1.0, "long": lambda: 600.0}, 3, 1.0)
    {'short': [1.0, 1.0, 1.0], 'long': [600.0, 600.0]}
    """
    taken: dict[str, list[float]] = {name: [] for name in timed}
    order = list(timed)
    while order:
        for name in order:
            taken[name].append(timed[name]())
        lasting = {n for n in order if len(taken[n]) < rounds and sum(taken[n]) < 1000 * seconds}
        order = [name for name in reversed(order) if name in lasting]
    return taken


def figures(taken: list[float], prefix: str, count: int = 1) -> dict[str, Any]:
    """p50 and p95 in ms, linearly interpolated, the rounds, and the median over `count` crops."""
    p50, p95 = (float(np.percentile(taken, p)) for p in (50, 95))
    return {
        f"{prefix}_p50_ms": p50,
        f"{prefix}_p95_ms": p95,
        f"{prefix}_rounds": len(taken),
        f"{prefix}_ms_a_face": p50 / count,
    }
