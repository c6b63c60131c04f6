"""`fhrt bench`: latency against quality, beside the peers; and the gate against an earlier run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

RESULTS = Path("benchmarks/results")


def bench(
    model: Annotated[
        list[str] | None,
        typer.Argument(help="Names of `fhrt models`, or ONNX files; restore and restore-gan else."),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime", help="onnx, openvino, openvino-bf16, openvino-bf16x2, torch; all else."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="fp32, fp16, bf16, int8; all else.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="cpu, cuda:N; cpu and cuda:0 else.")
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option("--batch", min=1, help="Faces a call; 1 and 4 else.")
    ] = None,
    size: Annotated[
        list[int] | None,
        typer.Option("--size", min=1, help="Sides; the smallest and largest of the model else."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help="gate, networks, whole, peers, scaling, memory; repeatable; all else."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Aligned faces, or their folders 256 and 512: adds quality."),
    ] = None,
    embedder: Annotated[
        Path | None, typer.Option(help="A face recognition ONNX file: adds identity.")
    ] = None,
    niqe: Annotated[
        Path | None, typer.Option(help="NIQE's parameters, niqe_pris_params.npz: adds NIQE.")
    ] = None,
    artifacts: Annotated[
        Path, typer.Option(help="Where `fhrt export --to fp16` and the like have written.")
    ] = Path("artifacts"),
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for all.")] = 0,
    seeded: Annotated[
        bool,
        typer.Option("--seeded", help="Made-up weights for the models named: latency alone."),
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds and points.")] = False,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Results go to OUTPUT/MACHINE.")
    ] = RESULTS,
    source: Annotated[
        Path | None, typer.Option("--from", help="Earlier results in place of a new run.")
    ] = None,
    expression: Annotated[
        str, typer.Option("--best", help='Name the fastest with, e.g., "psnr>27,ms<50".')
    ] = "",
    against: Annotated[
        Path | None,
        typer.Option("--against", help="Earlier results: exit with 1 where this run is worse."),
    ] = None,
    slower: Annotated[
        float, typer.Option(min=1.0, help="How many times as slow is still no regression.")
    ] = 1.10,
    worse: Annotated[float, typer.Option(min=0.0, help="dB of PSNR that may be lost.")] = 0.1,
) -> int:
    """Measure latency, memory and quality of models, runtimes and precisions, and their peers.

    Writes results.json, results.csv, table.md and figures to benchmarks/results/MACHINE and prints
    the table. What cannot be had here is a line under Gaps. `--from DIR --best "psnr>27,ms<50"`
    asks earlier results. `--against DIR` compares with results of the same kind of machine.
    """
    from fhrt.bench import best, gate
    from fhrt.bench.results import read, table, write
    from fhrt.bench.suite import PARTS, Options, run
    from fhrt.errors import UsageError, known_names

    # what is wrong is said before minutes of work
    for part in only or ():
        if part not in PARTS:
            raise UsageError(f"unknown part {part!r}{known_names(part, PARTS)}")
    if seeded and (data or not model):
        raise UsageError("--seeded is for models named, and such weights have no quality")
    if against and source is None and only and "gate" not in only:
        raise UsageError("--against compares what --only gate measures: name it too")
    if source is not None and not (expression or against):
        raise UsageError("--from is for --best or --against")
    best.check(expression)
    earlier = read(against) if against is not None else None
    options = Options(
        tuple(model or ()),
        tuple(runtime or ()),
        tuple(precision or ()),
        tuple(device or ()),
        tuple(batch or ()),
        tuple(size or ()),
        threads,
        parts=tuple(only or PARTS),
        seeded=seeded,
        artifacts=artifacts,
        data=data,
        embedder=embedder,
        niqe=niqe,
        **(_QUICK if quick else {}),
    )
    if source is not None:
        results = read(source)
    else:
        if seeded:
            _seed(options.models)
        results = run(options, _say)
    failures: list[gate.Finding] = []
    if earlier is not None:
        failures = (
            gate.compare(earlier, results, slower, worse)
            if source is not None
            else _confirmed(earlier, results, options, slower, worse)
        )
    if source is None:
        folder = output / results["machine"]["kind"]
        write(folder, results)
        print(table(results))
        _say(f"written to {folder}")
    if expression:
        print(_named(best.best(results, expression)))
    for failure in failures:
        print(f"fhrt: {failure.text}", file=sys.stderr)
    return 1 if failures else 0


_QUICK: dict[str, Any] = {
    "rounds": 5, "most": 5.0, "frames": 6, "long": 24, "compiled": False, "quick": True,
}  # fmt: skip


def _confirmed(
    earlier: dict[str, Any], results: dict[str, Any], options: Any, slower: float, worse: float
) -> list[Any]:
    from fhrt.bench import gate
    from fhrt.bench.cases import plan
    from fhrt.bench.suite import steady_rows

    def again() -> list[dict[str, Any]]:
        setups, _ = plan(
            options.models, options.runtimes, options.precisions, options.devices, options.artifacts
        )
        return steady_rows(options, setups, _say)

    return gate.confirmed(earlier, results, again, slower, worse)


def _seed(models: tuple[str, ...]) -> None:
    """Make what is not there yet, and have it found in place of real weights by this process and
    those that it starts."""
    import os

    from fhrt.bench.peers import seed
    from fhrt.models import recipe
    from fhrt.runtime.session import need
    from fhrt.weights import cache_folder

    for module in ("torch", "onnxscript"):
        need(module, "bench")
    folder = cache_folder() / "seeded"
    for name in models:
        found = recipe(name)
        if not (folder / f"{name}.onnx").is_file():
            _say(f"making seeded weights of {name} in {folder}")
            seed(found, folder)
    os.environ["FHRT_WEIGHTS"] = str(folder)


def _named(row: dict[str, Any]) -> str:
    figures = [f"{row['ms']:.1f} ms a face"]
    figures += [f"PSNR {row['psnr']:.2f} dB"] if "psnr" in row else []
    return (
        f"{row['model']}: --runtime {row['runtime']}, {row['precision']}, on {row['device']}, "
        f"{row['batch']} faces of {row['size']} a call: {', '.join(figures)}"
    )


def _say(line: str) -> None:
    print(f"fhrt bench: {line}", file=sys.stderr, flush=True)
