"""Calls timed in turn: in rounds, each second one backwards, so that whatever else the machine does
meets all of them alike; and where a ratio is asked for, beside the call that it is a ratio to.

The speed of a machine with neighbours moves by tens of per cent within seconds. Times over those of
the same call right before and right after moved by 7 to 10 % from one series of 16 rounds to
another (largest over least of seven series); over one call of the same round, by 8 to 15 %. Of
53 ratios of two runs, in which the hypervisor took 8 % of the cores' time, 49 were within a tenth
of each other, and 51 without the calls that it disturbed: while others are there, those are left
out.

A session returns NumPy arrays, so that a call is over when its output has come back from the
device: wall-clock time needs no other synchronisation, on CUDA either.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

WARM = 2
REST = 0.005  # s before each call: OpenMP's threads go on spinning for some ms after theirs
LEAST_ROUNDS = 5
SURE, LONGER = 0.015, 4  # SURE: standard error of a ratio
STOLEN, ENOUGH = 0.01, 20  # STOLEN: share of the machine's time
TASKS, STAT = Path("/proc/self/task"), Path("/proc/stat")


class Spent(NamedTuple):
    """Seconds of one call. wall: from call to return. busy: without what its threads waited for a
    core while others had it (Linux; elsewhere wall). cpu: of all threads together. stolen: of all
    cores together, while the hypervisor ran others on them (Linux, in steps of 10 ms)."""

    wall: float
    busy: float
    cpu: float
    stolen: float = 0.0


Clock = Literal["wall", "busy", "cpu"]


@dataclass
class Times:
    """Every call, in order; before and after: the call beside it, where there is one."""

    calls: list[Spent] = field(default_factory=list)
    before: list[Spent] = field(default_factory=list)
    after: list[Spent] = field(default_factory=list)

    @property
    def wall(self) -> list[float]:
        return self.by("wall")

    def by(self, clock: Clock) -> list[float]:
        return [getattr(call, clock) for call in self.calls]

    def over(self, own: Sequence[float] = (), clock: Clock = "wall") -> float:
        """The median of each call over the mean of the two beside it; of those from which STOLEN or
        less was stolen, or the half with least, where they are fewer than that and than ENOUGH.
        own: seconds to take in place of the whole call's, such as a part of it took."""
        return float(np.median(self._ratios(own, clock)))

    def error(self, clock: Clock = "wall") -> float:
        """The relative standard error of `over`, as if calls were independent and normal but for
        outliers: 1.2533 σ / √n, σ from the median absolute deviation."""
        ratios = self._ratios((), clock)
        middle = np.median(ratios)
        sigma = 1.4826 * np.median(np.abs(ratios - middle))
        return float(1.2533 * sigma / len(ratios) ** 0.5 / middle)

    def _ratios(self, own: Sequence[float], clock: Clock) -> NDArray[np.float64]:
        sides = list(zip(self.before, self.after, strict=True))
        beside = [(getattr(one, clock) + getattr(two, clock)) / 2 for one, two in sides]
        ratios: NDArray[np.float64] = np.array(own or self.by(clock)) / np.array(beside)
        three = [(call, *side) for call, side in zip(self.calls, sides, strict=True)]
        stolen = np.array([sum(c.stolen for c in cs) / sum(c.wall for c in cs) for cs in three])
        limit = STOLEN * (os.cpu_count() or 1)
        if (stolen <= limit).sum() < ENOUGH:
            limit = max(limit, float(np.median(stolen)))
        return ratios[stolen <= limit]

    def figures(self) -> dict[str, float]:
        """Wall-clock percentiles, linearly interpolated; of few rounds, p99 is nearly the
        longest."""
        p50, p95, p99 = (float(np.percentile(self.wall, p)) for p in (50, 95, 99))
        return {
            "p50": p50,
            "p95": p95,
            "p99": p99,
            "least": min(self.wall),
            "rounds": len(self.calls),
        }


def alternate(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    most: float = float("inf"),
    warm: int = WARM,
    beside: str = "",
    sure: Sequence[str] = (),
    clock: Clock = "wall",
) -> dict[str, Times]:
    """Time the calls in turn, after `warm` rounds that do not count. most: seconds after which no
    further round begins once LEAST_ROUNDS (or `rounds`, where that is less) are done. beside: the
    one of them that is made before and after each of the others, in place of once a round. sure:
    those whose ratio to it, on `clock`, is to be known to SURE: until then, up to LONGER times the
    rounds and the seconds."""
    for _ in range(warm):
        for call in calls.values():
            call()
    taken = {name: Times() for name in calls}
    order = [name for name in calls if name != beside]
    begun = time.perf_counter()
    with _others() as others:
        if beside:
            taken[beside].calls.append(_timed(calls[beside], others))
        for done in range(LONGER * rounds):
            seconds = time.perf_counter() - begun
            if done >= rounds or (seconds > most and done >= LEAST_ROUNDS):
                known = all(taken[name].error(clock) <= SURE for name in sure)
                if known or seconds > LONGER * most:
                    break
            for name in order:
                taken[name].calls.append(_timed(calls[name], others))
                if beside:
                    taken[beside].calls.append(_timed(calls[beside], others))
                    *_, before, after = taken[beside].calls
                    taken[name].before.append(before)
                    taken[name].after.append(after)
            order.reverse()
    return taken


def _timed(call: Callable[[], object], taken: Callable[[], tuple[float, float]]) -> Spent:
    time.sleep(REST)
    cpu = time.process_time()
    start = time.perf_counter()
    waited, stolen = taken()
    call()
    waited_then, stolen_then = taken()
    wall = time.perf_counter() - start
    busy = wall - (waited_then - waited)
    return Spent(wall, busy, time.process_time() - cpu, stolen_then - stolen)


@contextmanager
def _others() -> Iterator[Callable[[], tuple[float, float]]]:
    """A function that gives the seconds which the present threads of this process have waited for
    a core so far, from the kernel's scheduler (Documentation/scheduler/sched-stats), and those
    which the hypervisor has taken from all cores (proc_stat(5), the eighth number)."""
    files: list[int] = []
    stat: int | None = None
    if sys.platform == "linux":
        for task in TASKS.iterdir():
            with suppress(OSError):  # a thread that has just ended
                files.append(os.open(task / "schedstat", os.O_RDONLY))
        stat = os.open(STAT, os.O_RDONLY)

    def taken() -> tuple[float, float]:
        waited = 0
        for file in files:
            with suppress(OSError):
                waited += int(os.pread(file, 64, 0).split()[1])  # ns
        if stat is None:
            return waited * 1e-9, 0.0
        ticks = int(os.pread(stat, 256, 0).split()[8])
        return waited * 1e-9, ticks / os.sysconf("SC_CLK_TCK")

    try:
        yield taken
    finally:
        for file in files if stat is None else [*files, stat]:
            os.close(file)
