"""The report of a protocol: a folder with tables, figures and one page that shows all of them.

table.md, table.csv, results.json (also every picture's figures), curve.png and curve.svg for graded
protocols, gains.png, pictures.png, report.pdf. Needs fhrt[eval] (matplotlib).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fhrt.errors import InputError
from fhrt.pictures import write_atomically
from fhrt.quality import figures, tables
from fhrt.quality.scoring import Curve, Example, Rating

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN, TITLE = 0.5, 0.25  # inches, of the page


def write_report(
    folder: Path, ratings: Sequence[Rating], line: Curve | None, shown: Mapping[str, list[Example]]
) -> list[Path]:
    """Write the report of models scored on one protocol; the paths, in the order written.

    All is made before anything is written, and no file is ever half-written. Raises InputError
    where the folder cannot be written.
    """
    summaries = [rating.summary() for rating in ratings]
    words = tables.cells(summaries)
    title = tables.heading(summaries)
    files: dict[str, bytes] = {
        "table.md": f"{title}\n\n{tables.markdown(words)}".encode(),
        "table.csv": tables.comma_separated(summaries).encode(),
        "results.json": (json.dumps(results(ratings, line), indent=1) + "\n").encode(),
    }
    with figures.house_style():
        if line is not None:
            figure = figures.new_figure(6, 4)
            figures.draw_curve(figure.subplots(), line)
            files["curve.png"] = figures.encode(figure, "png")
            files["curve.svg"] = figures.encode(figure, "svg")
        figure = figures.new_figure(6, 4)
        figures.draw_gains(figure.subplots(), ratings)
        files["gains.png"] = figures.encode(figure, "png")
        across = min(3, len(shown))
        wide, high = figures.BLOCK
        figure = figures.new_figure(wide * across, high * -(-len(shown) // across))
        figures.draw_pictures(figure, shown, across)
        files["pictures.png"] = figures.encode(figure, "png")
        files["report.pdf"] = _as_pdf(_page(title, words, ratings, line, shown))
    return write_files(folder, files)


def results(ratings: Sequence[Rating], line: Curve | None) -> dict[str, Any]:
    """All figures for programs: {models: [summary + pictures: {file: {side: {metric}}}], curve}."""
    models = []
    for rating in ratings:
        pictures = {
            file: {
                side: {metric: values[i] for metric, values in of.items()}
                for side, of in rating.values.items()
            }
            for i, file in enumerate(rating.files)
        }
        models.append(rating.summary() | {"pictures": pictures})
    found: dict[str, Any] = {"models": models}
    if line is not None:
        lines = {
            name: [{"mean": mean.mean, "se": mean.se} for mean in means]
            for name, means in line.lines.items()
        }
        found["curve"] = {"strengths": line.strengths, "psnr": lines}
    return found


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write contents by name into a folder, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from error
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def _page(
    title: str,
    words: Sequence[Sequence[str]],
    ratings: Sequence[Rating],
    line: Curve | None,
    shown: Mapping[str, list[Example]],
) -> Figure:
    """Title, table, curve beside gains, pictures, from the top of an A4 page downwards."""
    page = figures.new_figure(*figures.PAGE)
    width, height = figures.PAGE[0] - 2 * MARGIN, figures.PAGE[1] - 2 * MARGIN
    table, plots = 0.22 * len(words), 2.8  # inches
    left = height - TITLE - table - plots
    across, size = figures.blocks_across(len(shown), width, left)
    blocks = min(left, size * figures.BLOCK[1] * -(-len(shown) // across))
    heights = [MARGIN + TITLE, table, plots, blocks, MARGIN + left - blocks]
    widths = [MARGIN, width, MARGIN]
    grid = page.subfigures(5, 3, squeeze=False, height_ratios=heights, width_ratios=widths)
    parts = grid[:, 1]
    parts[0].text(0, 0.3, f"FACE RESTORATION: {title.upper()}", weight="bold", fontsize=11)
    figures.draw_table(parts[1].subplots(), words)
    axes = parts[2].subplots(1, 1 if line is None else 2, squeeze=False)[0]
    if line is not None:
        figures.draw_curve(axes[0], line)
    figures.draw_gains(axes[-1], ratings)
    figures.draw_pictures(parts[3], shown, across)
    return page


def _as_pdf(page: Figure) -> bytes:
    from matplotlib.backends.backend_pdf import PdfPages

    buffer = io.BytesIO()
    with PdfPages(buffer, metadata={"CreationDate": None}) as pages:
        pages.savefig(page)
    return buffer.getvalue()
