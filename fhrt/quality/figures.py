"""The figures of a report, in the house style: 500 dpi, grid, bold titles in upper case.

Each draws into axes or a part of a figure that it is given, so that a figure on its own and the
page that holds all of them are made by the same lines. Needs fhrt[eval] (matplotlib).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fhrt.quality.scoring import Curve, Example, Rating

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

DPI = 500
STYLE: Any = {  # of matplotlib's rcParams
    "font.size": 8,
    "axes.grid": True,
    "grid.alpha": 0.4,
    "axes.axisbelow": True,
    "axes.titleweight": "bold",
    "axes.labelweight": "bold",
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.frameon": False,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "fhrt",  # the same figures give the same file
}
PAGE = (8.27, 11.69)  # inches, A4
BLOCK = (3.4, 3.7)  # inches; the best, median and worst picture of one model
MARKERS = "osD^vPX*"
UNDATED: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


@contextmanager
def house_style() -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; none of pyplot's global state, no display needed."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def encode(figure: Figure, format: str) -> bytes:
    """A figure as the content of a png, svg or pdf file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, dpi=DPI, metadata=UNDATED.get(format))
    return buffer.getvalue()


def draw_curve(axes: Axes, curve: Curve) -> None:
    """PSNR over strength, a line each, its band one standard error to both sides."""
    for i, (name, means) in enumerate(curve.lines.items()):
        middle = np.array([mean.mean for mean in means])
        error = np.nan_to_num([mean.se for mean in means])  # one picture has none
        colour, line = ("0.35", "--") if name == "input" else (f"C{i - 1}", "-")
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(curve.strengths, middle, line, marker=marker, color=colour, label=name)
        low, high = middle - error, middle + error
        axes.fill_between(curve.strengths, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_title("PSNR OVER DEGRADATION STRENGTH")
    axes.set_xlabel(f"STRENGTH OF {curve.protocol.upper()}")
    axes.set_ylabel("PSNR IN DB")
    axes.legend()


def draw_gains(axes: Axes, ratings: Sequence[Rating]) -> None:
    """How many pictures gain how much: whether the mean hides pictures that got worse."""
    from matplotlib.ticker import MaxNLocator

    gains = [
        np.subtract(rating.values["output"]["psnr"], rating.values["input"]["psnr"])
        for rating in ratings
    ]
    bins = np.histogram_bin_edges(np.concatenate(gains), 24)
    for i, (rating, gain) in enumerate(zip(ratings, gains, strict=True)):
        worse = f"{rating.model}: {int((gain < 0).sum())} of {len(gain)} worse"
        axes.hist(gain, bins=bins.tolist(), color=f"C{i}", alpha=0.25)
        axes.hist(gain, bins=bins.tolist(), color=f"C{i}", histtype="step", label=worse)
    axes.axvline(0, color="0.35", linestyle="--", linewidth=1)
    axes.set_title("GAIN OF EACH PICTURE")
    axes.set_xlabel("PSNR GAIN IN DB")
    axes.set_ylabel("PICTURES")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, axes.get_ylim()[1] * (1.1 + 0.1 * len(ratings)))  # room for the legend
    axes.legend(loc="upper left")


def blocks_across(models: int, width: float, height: float) -> tuple[int, float]:
    """How many blocks go into a row so that they come out largest in width × height inches, and
    how large: 1 for the size of BLOCK."""

    def size(across: int) -> float:
        return min(width / across / BLOCK[0], height / -(-models // across) / BLOCK[1])

    best = max(range(1, models + 1), key=size)
    return best, size(best)


def draw_pictures(figure: FigureBase, shown: Mapping[str, Sequence[Example]], across: int) -> None:
    """The examples of each model as a block of input | output | truth, `across` blocks a row."""
    blocks = figure.subfigures(-(-len(shown) // across), across, squeeze=False).flat
    for block, (model, examples) in zip(blocks, shown.items(), strict=False):
        block.suptitle(model.upper(), weight="bold", fontsize=9)
        grid = block.subplots(len(examples), 3, squeeze=False)
        for row, example in zip(grid, examples, strict=True):
            titles = (f"input {example.before:.1f} dB", f"output {example.after:.1f} dB", "truth")
            pictures = (example.input, example.output, example.truth)
            for axes, picture, title in zip(row, pictures, titles, strict=True):
                axes.imshow(picture, interpolation="none")
                axes.set(xticks=[], yticks=[])
                axes.set_title(title, fontsize=6, weight="normal", pad=2)
            row[0].set_ylabel(f"{example.label.upper()}\n{example.file}", fontsize=5.5)


def draw_table(axes: Axes, words: Sequence[Sequence[str]]) -> None:
    """A table as wide as its axes, heading and first column bold."""
    from matplotlib.transforms import Bbox

    axes.axis("off")
    longest = [max(len(row[i]) for row in words) + 2 for i in range(len(words[0]))]
    table = axes.table(
        cellText=[list(row) for row in words],
        colWidths=[n / sum(longest) for n in longest],
        cellLoc="left",
        bbox=Bbox.unit(),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    for (row, column), cell in table.get_celld().items():
        cell.visible_edges = "B"
        cell.set_edgecolor("0.7")
        if row == 0 or column == 0:
            cell.get_text().set_fontweight("bold")
