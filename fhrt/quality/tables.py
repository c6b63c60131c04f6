"""Summaries of scored models as a table: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

Summary = dict[str, Any]

# metric -> heading, decimals
COLUMNS = {
    "psnr": ("PSNR dB", 2),
    "gain": ("gain dB", 2),
    "psnr_masked": ("PSNR dB, occluded part", 2),
    "ssim": ("SSIM", 3),
    "identity": ("identity", 3),
    "niqe": ("NIQE", 2),
}


def rows(summaries: Sequence[Summary]) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """(name, {metric: {mean, se}}) of the input, each model, and the truth where it has figures."""
    found = [("input", dict(summaries[0]["input"]))]
    for summary in summaries:
        found.append((summary["model"], summary["output"] | {"gain": summary["gain"]["psnr"]}))
        if "composite" in summary:
            found.append((f"{summary['model']}, rest kept", dict(summary["composite"])))
    if "truth" in summaries[0]:
        found.append(("truth", dict(summaries[0]["truth"])))
    return found


def columns(summaries: Sequence[Summary]) -> list[str]:
    """The metrics that any row has, in the order of COLUMNS."""
    return [key for key in COLUMNS if any(key in figures for _, figures in rows(summaries))]


def cells(summaries: Sequence[Summary]) -> list[list[str]]:
    """The table as words, its heading first: mean ± standard error."""
    keys = columns(summaries)
    words = [["", *(COLUMNS[key][0] for key in keys)]]
    for name, figures in rows(summaries):
        words.append([name, *(with_error(figures.get(key), key) for key in keys)])
    return words


def with_error(figure: dict[str, float] | None, metric: str) -> str:
    """`26.33 ± 0.18`; without the error where one picture gives none, empty where not measured."""
    if figure is None:
        return ""
    decimals = COLUMNS[metric][1]
    sign = "+" if metric == "gain" else ""
    mean, se = figure["mean"], figure["se"]
    return f"{mean:{sign}.{decimals}f}" + (f" ± {se:.{decimals}f}" if se == se else "")


def heading(summaries: Sequence[Summary]) -> str:
    n = summaries[0]["n"]
    return f"{summaries[0]['protocol']}, {n} picture{'s' if n != 1 else ''}, mean ± standard error"


def markdown(words: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its heading being the first row."""
    lines = [f"| {' | '.join(row)} |" for row in words]
    return "\n".join([lines[0], "|---" * len(words[0]) + "|", *lines[1:]]) + "\n"


def comma_separated(summaries: Sequence[Summary]) -> str:
    """One row a picture source: n, then every metric and its standard error, unrounded."""
    keys = columns(summaries)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["protocol", "name", "n", *(f for key in keys for f in (key, f"{key}_se"))])
    for name, figures in rows(summaries):
        row: list[object] = [summaries[0]["protocol"], name, summaries[0]["n"]]
        for key in keys:
            row += [figures[key]["mean"], figures[key]["se"]] if key in figures else ["", ""]
        writer.writerow(row)
    return text.getvalue()
