"""Calls timed in turn: in rounds, each second one backwards, so that whatever else the machine does
meets all of them alike.

A session returns NumPy arrays, so that a call is over when its output has come back from the
device: wall-clock time needs no other synchronisation, on CUDA either.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

WARM = 2
REST = 0.005  # s before each call: OpenMP's threads go on spinning for some ms after theirs
LEAST_ROUNDS = 5
TASKS = Path("/proc/self/task")


@dataclass
class Times:
    """Seconds of each call, in order. wall: from call to return. busy: without what its threads
    waited for a core while others had it (Linux; elsewhere wall). cpu: of all threads together."""

    wall: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Wall-clock percentiles, linearly interpolated; of few rounds, p99 is nearly the
        longest."""
        p50, p95, p99 = (float(np.percentile(self.wall, p)) for p in (50, 95, 99))
        return {
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "least": min(self.wall),
            "rounds": len(self.wall),
        }


def alternate(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    most: float = float("inf"),
    warm: int = WARM,
) -> dict[str, Times]:
    """Time the calls in turn, after `warm` rounds that do not count. most: seconds after which no
    further round begins once LEAST_ROUNDS (or `rounds`, where that is less) are done."""
    for _ in range(warm):
        for call in calls.values():
            call()
    taken = {name: Times() for name in calls}
    order = list(calls)
    begun = time.perf_counter()
    with _waiting() as waited:
        for done in range(rounds):
            if done >= LEAST_ROUNDS and time.perf_counter() - begun > most:
                break
            for name in order:
                call, times = calls[name], taken[name]
                time.sleep(REST)
                cpu = time.process_time()
                start = time.perf_counter()
                before = waited()
                call()
                lost = waited() - before
                wall = time.perf_counter() - start
                times.wall.append(wall)
                times.busy.append(wall - lost)
                times.cpu.append(time.process_time() - cpu)
            order.reverse()
    return taken


def ratio(one: list[float], other: list[float]) -> float:
    """The median over the rounds of one over the other of the same round."""
    return float(np.median(np.array(one) / np.array(other)))


@contextmanager
def _waiting() -> Iterator[Callable[[], float]]:
    """A function that gives the seconds which the present threads of this process have waited for
    a core so far, from the kernel's scheduler (Documentation/scheduler/sched-stats)."""
    files: list[int] = []
    if sys.platform == "linux":
        for task in TASKS.iterdir():
            with suppress(OSError):  # a thread that has just ended
                files.append(os.open(task / "schedstat", os.O_RDONLY))

    def waited() -> float:
        total = 0
        for file in files:
            with suppress(OSError):
                total += int(os.pread(file, 64, 0).split()[1])  # ns
        return total * 1e-9

    try:
        yield waited
    finally:
        for file in files:
            os.close(file)
