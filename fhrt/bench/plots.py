"""Latency against quality, and growth, in the style of the reports. Needs fhrt[eval]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fhrt.quality import figures
from fhrt.runtime.session import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

Row = dict[str, Any]
QUALITIES = (("psnr", "PSNR IN DB"), ("ssim", "SSIM"))
LEAST = {"psnr": 0.01, "ssim": 0.0005}  # less is the same quality
SPAN = {"psnr": 0.5, "ssim": 0.02}  # of the axis at least


def pareto(rows: Sequence[Row]) -> dict[str, bytes]:
    """png and svg: milliseconds a face against PSNR and SSIM, a point a row; a colour a model, a
    marker a runtime and precision; the line joins what nothing else beats in both. Rows without
    PSNR are left out."""
    need("matplotlib", "eval")
    shown = [row for row in rows if "psnr" in row]
    with figures.house_style():
        figure = figures.new_figure(9, 4.5)
        for axes, (metric, label) in zip(figure.subplots(1, 2), QUALITIES, strict=True):
            _draw_pareto(axes, shown, metric)
            axes.set_title(f"LATENCY AGAINST {label.split()[0]}")
            axes.set_ylabel(label)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return {kind: figures.encode(figure, kind) for kind in ("png", "svg")}


def front(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows that no other beats in both milliseconds a face and `metric`, fastest first; by less
    than LEAST nothing is beaten."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["ms"], -row[metric])):
        if not kept or row[metric] > kept[-1][metric] + LEAST[metric]:
            kept.append(row)
    return kept


def scaling(curves: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """png and svg: seconds over each axis, both logarithmic, with the slope."""
    need("matplotlib", "eval")
    with figures.house_style():
        figure = figures.new_figure(9, 6)
        grid = figure.subplots(2, 2).flat
        for axes, (name, curve) in zip(grid, curves.items(), strict=False):
            x, seconds = zip(*curve["points"], strict=True)
            axes.loglog(x, seconds, "o-", label=f"slope {curve['slope']:.2f}")
            _plain_numbers(axes.xaxis)
            _plain_numbers(axes.yaxis)
            axes.set_title(f"TIME OVER {name.upper()}")
            axes.set_xlabel(str(curve["axis"]).upper())
            axes.set_ylabel("SECONDS")
            axes.legend()
        return {kind: figures.encode(figure, kind) for kind in ("png", "svg")}


def _draw_pareto(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    models = list(dict.fromkeys(row["model"] for row in rows))
    ways = list(dict.fromkeys((row["runtime"], row["precision"], row["device"]) for row in rows))
    for model in models:
        for way in ways:
            points = [
                (row["ms"], row[metric])
                for row in rows
                if row["model"] == model
                and (row["runtime"], row["precision"], row["device"]) == way
            ]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            marker = figures.MARKERS[ways.index(way) % len(figures.MARKERS)]
            label = f"{model}, {' '.join(way)}"
            axes.plot(x, y, marker, color=f"C{models.index(model)}", label=label, alpha=0.8)
    best = front(rows, metric)
    axes.step(
        [row["ms"] for row in best], [row[metric] for row in best],
        where="post", color="0.35", linewidth=1, zorder=0,
    )  # fmt: skip
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)
    low, high = axes.get_ylim()
    more = max(0.0, SPAN[metric] - (high - low)) / 2
    axes.set_ylim(low - more, high + more)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlabel("MILLISECONDS A FACE")


def _plain_numbers(axis: Axis) -> None:
    """1, 2 and 5 of each decade of a logarithmic axis, as people write them."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
