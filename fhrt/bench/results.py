"""The folder of a run: results.json, results.csv, table.md, pareto.png and .svg, scaling.png and
.svg."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fhrt.bench import plots
from fhrt.bench.best import with_quality
from fhrt.bench.machine import line
from fhrt.errors import InputError
from fhrt.quality.report import write_files
from fhrt.quality.tables import markdown

Row = dict[str, Any]
FILE = "results.json"
# heading, key of a row, factor, decimals
NETWORKS = (
    ("ms p50", "p50", 1e3, 1),
    ("p95", "p95", 1e3, 1),
    ("p99", "p99", 1e3, 1),
    ("ms a face", "ms", 1, 1),
    ("GFLOP", "flops", 1e-9, 2),
    ("share of the ceiling", "share", 1, 2),
    ("peak MB", "host_bytes", 1e-6, 0),
    ("device MB", "device_bytes", 1e-6, 0),
    ("J", "joules", 1, 2),
    ("PSNR dB", "psnr", 1, 2),
    ("costs dB", "psnr_cost", 1, 3),
    ("SSIM", "ssim", 1, 3),
    ("costs", "ssim_cost", 1, 4),
    ("NIQE", "niqe", 1, 2),
    ("identity", "identity", 1, 3),
)
PEERS = (
    ("ms p50", "p50", 1e3, 1),
    ("p95", "p95", 1e3, 1),
    ("times fhrt", "times_fhrt", 1, 2),
    ("agrees, dB", "agrees", 1, 1),
    ("peak MB", "host_bytes", 1e-6, 0),
)
WHOLE = (
    ("ms p50", "p50", 1e3, 1),
    ("p95", "p95", 1e3, 1),
    ("peak MB", "host_bytes", 1e-6, 0),
    ("share of the ceiling", "share", 1, 2),
    ("of detect", "share detect", 1, 2),
    ("of restore", "share restore", 1, 2),
)


def write(folder: Path, results: dict[str, Any]) -> list[Path]:
    """Write all of it; the paths. Figures only of what was measured. Raises InputError where the
    folder cannot be written, RuntimeMissing without matplotlib."""
    files = {
        FILE: (json.dumps(results, indent=1) + "\n").encode(),
        "results.csv": comma_separated(results).encode(),
        "table.md": table(results).encode(),
    }
    if any("psnr" in row for row in with_quality(results)):
        figure = plots.pareto(with_quality(results))
        files |= {f"pareto.{kind}": content for kind, content in figure.items()}
    if "scaling" in results:
        files |= {
            f"scaling.{kind}": content
            for kind, content in plots.scaling(results["scaling"]).items()
        }
    return write_files(folder, files)


def read(path: Path) -> dict[str, Any]:
    """The results in a results.json, or in a folder with one. Raises InputError."""
    file = path / FILE if path.is_dir() else path
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file}: no results of fhrt bench: {error}") from error
    if not isinstance(found, dict) or not {"machine", "rows", "counts"} <= found.keys():
        raise InputError(f"{file}: no results of fhrt bench")
    return found


def table(results: dict[str, Any]) -> str:
    """Everything for people, in Markdown: the machine, what could not be measured, and the rows."""
    parts = [f"{line(results['machine'])}.\n"]
    if results["seeded"]:
        parts.append("Seeded weights: latency alone means anything.\n")
    rows = results["rows"]
    names = ("model", "runtime", "precision", "computes", "device", "batch", "size")
    parts += _section("Networks", names, NETWORKS, with_quality(results))
    whole = [row for row in rows if row["kind"] in ("photo", "film")]
    stages = tuple(
        (f"{stage} ms", f"stage {stage}", 1e3, 1)
        for stage in dict.fromkeys(stage for row in whole for stage in row["stages"])
    )
    flat = [
        row | {f"stage {stage}": spent for stage, spent in row["stages"].items()} for row in whole
    ]
    parts += _section("The whole and its stages", ("key", "work"), (*WHOLE, *stages), flat)
    if any(row["kind"] == "film" for row in whole):
        parts.append("Stages of a film are of one frame; they overlap.\n")
    beside = [row for row in rows if row["kind"] == "peer"]
    parts += _section("Beside others", ("key", "how", "work"), PEERS, beside)
    steady = [row for row in rows if row["kind"] == "steady"]
    figures = (("ratio", "ratio", 1, 3), ("ms", "seconds", 1e3, 2))
    parts += _section("What the gate compares", ("key",), figures, steady)
    curves = [
        {"curve": found["axis"], "slope": found["slope"], "points": _points(found["points"])}
        for found in results.get("scaling", {}).values()
    ]
    parts += _section("Growth", ("curve", "points"), (("slope", "slope", 1, 2),), curves)
    reasons: dict[str, list[str]] = {}
    for gap in results["gaps"]:
        reasons.setdefault(gap["reason"], []).append(gap["what"])
    lines = [{"what": ", ".join(what), "reason": reason} for reason, what in reasons.items()]
    parts += _section("Gaps", ("what", "reason"), (), lines)
    return "\n".join(parts)


def comma_separated(results: dict[str, Any]) -> str:
    """Every row, unrounded, a column for every figure that any has."""
    rows = [row for row in results["rows"] if row["kind"] != "network"] + with_quality(results)
    flat = []
    for row in rows:
        stages = row.get("stages", {})
        plain = {key: value for key, value in row.items() if key != "stages"}
        flat.append(plain | {f"stage {stage}": spent for stage, spent in stages.items()})
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in flat for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _section(
    title: str,
    names: Sequence[str],
    figures: Sequence[tuple[str, str, float, int]],
    rows: Sequence[Row],
) -> list[str]:
    """A heading and a table, without the columns that no row has; nothing where there is no row."""
    if not rows:
        return []
    shown = [figure for figure in figures if any(row.get(figure[1]) is not None for row in rows)]
    words = [[*names, *(heading for heading, *_ in shown)]]
    for row in rows:
        cells = [str(row[name]) for name in names]
        for _, key, factor, decimals in shown:
            value = row.get(key)
            cells.append("" if value is None else f"{value * factor:.{decimals}f}")
        words.append(cells)
    return [f"## {title}\n", markdown(words)]


def _points(points: Sequence[Sequence[float]]) -> str:
    return ", ".join(f"{x:g}: {1000 * seconds:.0f} ms" for x, seconds in points)
