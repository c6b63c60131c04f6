"""`--best "psnr>27,ms<50"`: the configuration of a run that keeps to bounds."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from fhrt.errors import InputError, UsageError, known_names

Row = dict[str, Any]
COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# what a bound can be about, from a row of the networks
METRICS: dict[str, Callable[[Row], float | None]] = {
    "ms": lambda row: row["ms"],
    "p95": lambda row: 1000 * row["p95"],
    "psnr": lambda row: row.get("psnr"),
    "ssim": lambda row: row.get("ssim"),
    "niqe": lambda row: row.get("niqe"),
    "identity": lambda row: row.get("identity"),
    "mb": lambda row: _mega(row.get("host_bytes")),
    "device_mb": lambda row: _mega(row.get("device_bytes")),
    "gflop": lambda row: row["flops"] / 1e9 if "flops" in row else None,
    "batch": lambda row: row["batch"],
    "size": lambda row: row["size"],
}
BOUND = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?\d+(?:\.\d*)?)\s*")


def best(results: dict[str, Any], expression: str) -> Row:
    """The row, with its quality, that has the fewest milliseconds a face among those that keep to
    all bounds; of equal ones that with more PSNR. A row without a figure that is asked about does
    not keep to it. Raises UsageError for a bad expression, InputError where no row is left."""
    bounds = [_bound(words) for words in expression.split(",")]
    rows = with_quality(results)
    kept = [row for row in rows if all(keeps(row) for keeps in bounds)]
    if not kept:
        raise InputError(f"no configuration of {len(rows)} keeps to {expression!r}")
    return min(kept, key=lambda row: (row["ms"], -row.get("psnr", 0.0)))


def check(expression: str) -> None:
    """Raises UsageError as `best`; an empty one is none."""
    for words in expression.split(",") if expression else ():
        _bound(words)


def with_quality(results: dict[str, Any]) -> list[Row]:
    """The rows of the networks; those of the size that the protocol scores with what their setup
    was scored."""
    scores = results.get("quality", {})

    def score(row: Row) -> Row:
        found: Row = scores.get(row["setup"], {})
        return found if found.get("side") == row["size"] else {}

    return [row | score(row) for row in results["rows"] if row["kind"] == "network"]


def _bound(words: str) -> Callable[[Row], bool]:
    matched = BOUND.fullmatch(words)
    if matched is None:
        raise UsageError(f'{words.strip()!r} is no bound; write such as "psnr>27,ms<50"')
    metric, sign, number = matched.groups()
    if metric not in METRICS:
        raise UsageError(f"unknown figure {metric!r}{known_names(metric, METRICS)}")

    def keeps(row: Row) -> bool:
        value = METRICS[metric](row)
        return value is not None and COMPARED[sign](value, float(number))

    return keeps


def _mega(count: float | None) -> float | None:
    return None if count is None else count / 1e6
