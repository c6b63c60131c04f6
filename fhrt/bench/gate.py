"""Whether a run is slower or worse than an earlier one of the same kind of machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fhrt.errors import InputError

SLOWER, WORSE = 1.10, 0.1
AGAIN = 2  # times that what seems slower is measured anew before it is called so
# What may move a little from run to run: bytes held at most, and blocks left over (Python's own
# caches), as (share of the earlier value, and so many beside it).
BOUNDS = {"peak": (0.02, 65536), "blocks": (0.0, 200)}
SAME_PICTURES = 1e-6  # dB of the input


@dataclass(frozen=True)
class Finding:
    """A line a person reads; key: of the row that is slower, "" for anything else."""

    text: str
    key: str = ""


def compare(
    old: dict[str, Any], new: dict[str, Any], slower: float = SLOWER, worse: float = WORSE
) -> list[Finding]:
    """What got worse: ratios of time past `slower`, PSNR by more than `worse` dB, counts that grew,
    and what was measured and is not any more; quality only where both runs have it. Raises
    InputError where the two are of different kinds of machine."""
    one, two = old["machine"]["kind"], new["machine"]["kind"]
    if one != two:
        raise InputError(f"the earlier results are of {one}, these of {two}: not comparable")
    return [
        *_times(old, new, slower),
        *_quality(old, new, worse),
        *_counts(old, new),
    ]


def confirmed(
    old: dict[str, Any],
    new: dict[str, Any],
    again: Callable[[], list[dict[str, Any]]],
    slower: float = SLOWER,
    worse: float = WORSE,
) -> list[Finding]:
    """As `compare`; where something is slower, `again` measures the rows anew up to twice, `new`
    keeps the lowest ratio of each, and what is slow every time stays. (What is slower by its code
    is so each time, what a neighbour did is not.) Raises as `compare`."""
    for _ in range(AGAIN):
        if not any(finding.key for finding in compare(old, new, slower, worse)):
            break
        fresh = {row["key"]: row for row in again()}
        for row in new["rows"]:
            other = fresh.get(row["key"])
            if row["kind"] == "steady" and other and other["ratio"] < row["ratio"]:
                row |= other
    return compare(old, new, slower, worse)


def _times(old: dict[str, Any], new: dict[str, Any], slower: float) -> Iterable[Finding]:
    rows = {row["key"]: row for row in new["rows"] if row["kind"] == "steady"}
    for row in old["rows"]:
        if row["kind"] != "steady":
            continue
        key, before = row["key"], row["ratio"]
        if key not in rows:
            yield Finding(f"{key}: was measured and is not any more")
        elif (after := rows[key]["ratio"]) > slower * before:
            yield Finding(
                f"{key}: {after / before:.2f} times as slow (ratio {before:.3f}, now {after:.3f}; "
                f"the limit is {slower:.2f})",
                key,
            )


def _quality(old: dict[str, Any], new: dict[str, Any], worse: float) -> Iterable[Finding]:
    after = new.get("quality", {})
    for key, before in old.get("quality", {}).items() if after else ():
        if key not in after:
            yield Finding(f"quality of {key}: was scored and is not any more")
            continue
        now = after[key]
        if now["n"] != before["n"] or abs(now["input_psnr"] - before["input_psnr"]) > SAME_PICTURES:
            yield Finding(f"quality of {key}: scored on other pictures than before")
            continue
        if (lost := before["psnr"] - now["psnr"]) > worse:
            yield Finding(
                f"quality of {key}: PSNR fell by {lost:.3f} dB to {now['psnr']:.2f} "
                f"(the limit is {worse:g})"
            )


def _counts(old: dict[str, Any], new: dict[str, Any]) -> Iterable[Finding]:
    for key, before in old["counts"].items():
        if key not in new["counts"]:
            yield Finding(f"counts of {key}: were taken and are not any more")
            continue
        after = new["counts"][key]
        for name, value in before.items():
            share, more = BOUNDS.get(name, (0.0, 0))
            if after[name] > value + share * abs(value) + more:
                yield Finding(f"counts of {key}: {name} grew from {value} to {after[name]}")
