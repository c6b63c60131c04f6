"""The results for people, in Markdown, and the single rounds for scripts. Standard library only."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
Column = tuple[str, str, float, int]  # heading, key, factor, decimals
ROUNDS = ("model", "runtime", "precision", "device", "batch", "side", "clock", "round", "ms")
ON_CPU = (
    "**No GPU was used: every figure is of a CPU, at tiny sizes, and shows only that this program "
    "runs.**\n"
)
# step: heading, words, figures
SECTIONS: dict[str, tuple[str, tuple[str, ...], tuple[Column, ...]]] = {
    "install": ("Installed", ("group",), (("s", "seconds", 1, 0),)),
    "tests": (
        "Tests",
        ("suite", "on", "ended"),
        (
            ("passed", "passed", 1, 0),
            ("failed", "failed", 1, 0),
            ("lacking", "lacking", 1, 0),
            ("skipped", "skipped", 1, 0),
        ),
    ),
    "engines": (
        "Exports",
        ("model", "step"),
        (("s", "seconds", 1, 1), ("MB", "bytes", 1e-6, 1), ("least PSNR, dB", "psnr", 1, 1)),
    ),
    "latency": (
        "Latency of the networks",
        ("model", "side", "runtime", "precision", "device", "batch"),
        (
            ("device p50, ms", "device_p50_ms", 1, 3),
            ("device p95", "device_p95_ms", 1, 3),
            ("device, ms a face", "device_ms_a_face", 1, 3),
            ("wall p50, ms", "wall_p50_ms", 1, 3),
            ("wall p95", "wall_p95_ms", 1, 3),
            ("wall, ms a face", "wall_ms_a_face", 1, 3),
            ("product of matrices, TFLOP/s", "share_ceiling", 1e-12, 2),
            ("of it", "share", 1, 3),
            ("of the copy", "share_of_copy", 1, 3),
        ),
    ),
    "kernels": (
        "Kernels",
        ("kernel", "picture", "faces", "on"),
        (
            ("kernel alone, µs", "kernel_p50_ms", 1000, 1),
            ("device p50, µs", "device_p50_ms", 1000, 1),
            ("device p95", "device_p95_ms", 1000, 1),
            ("wall p50, µs", "wall_p50_ms", 1000, 1),
            ("MB to move", "bytes", 1e-6, 2),
            ("copy, GB/s", "copy_bytes_per_second", 1e-9, 0),
            ("of it", "share_of_copy", 1, 3),
        ),
    ),
    "pipeline": (
        "The main path, one face a frame, frames in memory",
        ("model", "runtime", "precision", "device", "picture"),
        (
            ("frames/s", "frames_per_second", 1, 1),
            ("to the device, a frame", "host_to_device", 1, 2),
            ("MB", "host_to_device_bytes", 1e-6, 2),
            ("to the host", "device_to_host", 1, 2),
            ("MB ", "device_to_host_bytes", 1e-6, 2),
            ("kernels", "kernels", 1, 1),
            ("device idle", "idle", 1, 3),
        ),
    ),
    "film": (
        "fhrt run --video",
        ("model", "runtime", "precision", "device", "picture", "frames"),
        (
            ("frames/s", "frames_per_second", 1, 1),
            ("s", "seconds", 1, 2),
            ("s with the start", "wall_seconds", 1, 2),
        ),
    ),
    "memory": (
        "Out of memory",
        ("model", "runtime", "precision", "device", "batch", "outcome"),
        (
            ("warnings", "warnings", 1, 0),
            ("batch_max before", "batch_max_before", 1, 0),
            ("after", "batch_max_after", 1, 0),
            ("largest difference", "largest", 1, 6),
        ),
    ),
    "sanitizer": (
        "compute-sanitizer",
        ("tool", "ended", "summary"),
        (("passed", "passed", 1, 0),),
    ),
}


def markdown(results: dict[str, Any]) -> str:
    """When and where, how it was measured, each step's rows, what could not be had."""
    steps: list[Row] = results["steps"]
    facts = next((step.get("facts", {}) for step in steps if step["name"] == "environment"), {})
    parts = [f"# gpu_check, {results['date']}\n", _machine(results, facts)]
    if results["device"] == "cpu":
        parts.append(ON_CPU)
    parts.append(f"{results['method']}\n")
    lines = [[s["name"], s["status"], f"{s['seconds']:.1f}", s["reason"]] for s in steps]
    parts += ["## Steps\n", _table(["step", "status", "s", "reason"], lines)]
    for step in steps:
        if step["name"] in SECTIONS and step.get("rows"):
            heading, words, columns = SECTIONS[step["name"]]
            parts += [f"## {heading}\n", _rows(step["rows"], words, columns)]
        for row in step.get("rows", []):
            parts += [f"- failed: {name}" for name in row.get("failures", [])]
            parts += [f"- not run, {n}: {why}" for why, n in row.get("reasons", {}).items()]
    gaps = [[s["name"], g["what"], g["reason"]] for s in steps for g in s.get("gaps", [])]
    if gaps:
        parts += ["\n## Not to be had here\n", _table(["step", "what", "reason"], gaps)]
    return "\n".join(parts)


def comma_separated(rounds: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([ROUNDS, *rounds])
    return text.getvalue()


def _machine(results: dict[str, Any], facts: dict[str, Any]) -> str:
    parts = [results["system"]]
    if facts:
        parts = [facts["processor"], f"{facts['cores']} cores"]
        if gpu := facts["gpu"]:
            parts.append(f"{gpu['name']} (driver {gpu['driver']})")
        parts += [f"{name} {value}" for name, value in facts.get("nvml", {}).items()]
        parts += [f"{name} {version}" for name, version in facts["versions"].items()]
        parts.append(f"commit {facts.get('commit') or 'not known'}")
    return f"{'; '.join(map(str, parts))}.\n"


def _rows(rows: Sequence[Row], words: Sequence[str], columns: Sequence[Column]) -> str:
    """Without the columns that no row has."""
    shown = [column for column in columns if any(row.get(column[1]) is not None for row in rows)]
    lines = []
    for row in rows:
        cells = [_cell(row.get(word, "")) for word in words]
        for _, key, factor, decimals in shown:
            value = row.get(key)
            cells.append("" if value is None else f"{value * factor:.{decimals}f}")
        lines.append(cells)
    return _table([*words, *(heading.strip() for heading, *_ in shown)], lines)


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    clean = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in clean)
