"""Turns, percentiles, and time that does not count what neighbours took."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import get_args

import numpy as np
import pytest

from fhrt.bench.machine import describe, line
from fhrt.bench.timing import LEAST_ROUNDS, LONGER, SURE, Clock, Spent, Times, alternate
from fhrt.runtime.cpu import usable_cores


def test_calls_take_turns_and_every_second_round_runs_backwards() -> None:
    seen: list[str] = []
    calls = {name: (lambda name=name: seen.append(name)) for name in "abc"}
    times = alternate(calls, 4, warm=1)
    assert "".join(seen) == "abc" + "abc" + "cba" + "abc" + "cba"
    assert [len(times[name].wall) for name in "abc"] == [4, 4, 4]


def test_no_round_begins_past_the_limit_once_the_least_are_done() -> None:
    times = alternate({"slow": lambda: time.sleep(0.02)}, 100, most=0.05, warm=0)
    assert len(times["slow"].wall) == LEAST_ROUNDS


def test_figures_are_numpys_percentiles_of_the_wall_clock() -> None:
    naps = iter([0.001, 0.001, 0.03, 0.001, 0.001])
    times = alternate({"nap": lambda: time.sleep(next(naps))}, 5, warm=0)["nap"]
    figures = times.figures()
    assert figures["p50"] == pytest.approx(sorted(times.wall)[2])
    assert figures["p99"] == pytest.approx(np.percentile(times.wall, 99))
    assert 0.001 <= figures["least"] <= figures["p50"] < 0.03 <= max(times.wall)
    assert figures["rounds"] == 5


def test_a_call_beside_is_made_before_and_after_each_of_the_others() -> None:
    seen: list[str] = []
    calls = {name: (lambda name=name: seen.append(name)) for name in "abp"}
    times = alternate(calls, 2, warm=0, beside="p")
    assert "".join(seen) == "papbp" + "bpap"
    assert len(times["p"].calls) == 5 and len(times["a"].calls) == 2
    p, a, b = (times[name] for name in "pab")
    assert a.before == [p.calls[0], p.calls[3]] and a.after == [p.calls[1], p.calls[4]]
    assert b.before == [p.calls[1], p.calls[2]] and b.after == [p.calls[2], p.calls[3]]


def test_over_is_of_the_mean_beside_whatever_the_machine_does_meanwhile() -> None:
    speeds = (1.0, 3.0, 2.0)  # of which the machine has another one at each call
    times = Times(
        [Spent(5.0 * s, 4.0 * s, 2.0 * s) for s in speeds],
        [Spent(0.5 * s, 0.25 * s, 1.0 * s) for s in speeds],
        [Spent(1.5 * s, 0.75 * s, 1.0 * s) for s in speeds],
    )
    assert times.over() == 5.0 and times.over(clock="busy") == 8.0
    assert times.over(clock="cpu") == 2.0
    assert times.over([2.0 * s for s in speeds]) == 2.0


def test_calls_from_which_the_hypervisor_took_cores_count_in_no_ratio() -> None:
    stolen = (0.0, 0.5, 0.0, 0.9, 0.0)  # s of some core, of 3 s of call and those beside it
    one = [Spent(1.0, 1.0, 1.0)] * 5
    calls = [Spent(1.0 + 5 * s, 1.0, 1.0, s * (os.cpu_count() or 1)) for s in stolen]
    assert Times(calls, one, one).over() == 1.0
    assert Times(one, calls, one).over([2.0] * 5) == 2.0
    assert Times(calls[:2], one[:2], one[:2]).over() == 1.0
    assert Times(calls[1:2] * 60 + calls[:1] * 20, one * 16, one * 16).over() == 1.0
    # where it took some from each, the better half of them counts
    calls = [Spent(1.0 + s, 1.0, 1.0, s * (os.cpu_count() or 1)) for s in (0.9, 0.2, 0.4)]
    assert Times(calls, one[:3], one[:3]).over() == pytest.approx(1.3)


def test_the_error_is_that_of_a_median_and_more_rounds_are_made_until_it_is_small() -> None:
    rng = np.random.default_rng(0)

    def noisy(rounds: int) -> Times:
        one = [Spent(1.0, 1.0, 1.0)] * rounds
        calls = [Spent(float(w), 1.0, 1.0) for w in rng.normal(2.0, 0.2, rounds)]
        return Times(calls, one, one)

    medians = [noisy(100).over() for _ in range(400)]
    assert noisy(100_000).error() * 1000**0.5 == pytest.approx(np.std(medians) / 2, rel=0.1)

    slept = iter(rng.uniform(0.001, 0.01, 1000))
    calls = {"noisy": lambda: time.sleep(next(slept)), "beside": lambda: time.sleep(0.002)}
    usual = alternate(calls, 6, warm=0, beside="beside")["noisy"]
    longer = alternate(calls, 6, warm=0, beside="beside", sure=["noisy"])["noisy"]
    assert len(usual.calls) == 6 < len(longer.calls)
    assert longer.error() <= SURE or len(longer.calls) == 6 * LONGER
    quiet = {"a": lambda: time.sleep(0.02), "beside": lambda: time.sleep(0.02)}
    assert len(alternate(quiet, 6, warm=0, beside="beside", sure=["a"])["a"].calls) == 6


def test_a_sleep_counts_as_busy_and_waiting_for_a_core_does_not() -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux says how long a thread waited")

    def work() -> float:
        return float(sum(i * i for i in range(300_000)))

    burning = "import time\nend = time.time() + 20\nwhile time.time() < end: pass"
    neighbours = [
        subprocess.Popen([sys.executable, "-c", burning]) for _ in range(2 * usable_cores())
    ]
    try:
        time.sleep(0.5)
        calls = {"work": work, "nap": lambda: time.sleep(0.03)}
        times = alternate(calls, 11)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    wall, busy, cpu = (np.median(times["work"].by(clock)) for clock in get_args(Clock))
    assert wall > 1.3 * cpu, "the neighbours took nothing"
    assert busy == pytest.approx(cpu, rel=0.25)
    assert np.median(times["nap"].by("busy")) >= 0.029


def test_the_machine_is_said_in_one_line_with_its_threads_flags_and_load() -> None:
    found = describe(threads=1)
    assert found["threads"] == 1 and found["cores"] == usable_cores()
    assert found["kind"] == found["kind"].lower() and "/" not in found["kind"]
    text = line(found)
    assert "\n" not in text and "1 thread on" in text and found["date"] in text
    assert f"numpy {np.__version__}" in text
