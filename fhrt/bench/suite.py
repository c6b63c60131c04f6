"""All of a run, in order: what the gate compares, latencies, the whole and its stages, peers,
scaling, counts, memory, quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from fhrt.bench import memory, quality, scaling, scenes, steady, whole
from fhrt.bench.cases import Gap, Setup, batch_of, open_setup, plan, shapes
from fhrt.bench.ceiling import Ceiling, fastest_product, open_copy
from fhrt.bench.counts import count_graph, count_path
from fhrt.bench.machine import describe
from fhrt.bench.timing import Times, alternate
from fhrt.errors import FhrtError, RuntimeMissing
from fhrt.quality.protocols import files_of
from fhrt.runtime.session import Session, need, parse_device

PARTS = ("gate", "networks", "whole", "peers", "scaling", "memory")
Results = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What to measure. models, runtimes, precisions, devices, batches, sizes: see `cases.plan` and
    `cases.shapes`; empty for the usual ones. threads: CPU threads, 0 for all. rounds: of short
    calls; a group of calls begins no new round after `most` seconds. frames: of the film that is
    timed. long: of the one whose memory is measured. parts: what of PARTS is measured. compiled:
    whether torch.compile is tried. seeded: whether the weights mean nothing. quick: fewer points of
    the curves."""

    models: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    threads: int = 0
    rounds: int = 40
    most: float = 60.0
    frames: int = 24
    long: int = 640
    parts: tuple[str, ...] = PARTS
    compiled: bool = True
    seeded: bool = False
    quick: bool = False
    artifacts: Path = Path("artifacts")
    data: Path | None = None
    embedder: Path | None = None
    niqe: Path | None = None


def run(options: Options, say: Callable[[str], None] = lambda _: None) -> Results:
    """Measure; the results, as results.json holds them. say: is told what is being done. Raises
    UsageError for unknown words, RuntimeMissing without what a bench needs, ModelError for a model
    file that is none, InputError for data without pictures."""
    for module in ("onnx", "onnxruntime", "skimage"):
        need(module, "bench")
    if options.data is not None and not (options.data / "256").is_dir():
        files_of(options.data)  # said before minutes of work
    machine = describe(options.threads)
    say("opening")
    setups, gaps = plan(
        options.models, options.runtimes, options.precisions, options.devices, options.artifacts
    )
    if not setups:
        raise RuntimeMissing(f"nothing can be measured here: {gaps[0].reason}")
    rows = steady_rows(options, setups, say) if "gate" in options.parts else []
    found: dict[str, Any] = {}
    if "networks" in options.parts:
        measured, missing = _network_rows(options, setups, say)
        rows, gaps = rows + measured, gaps + missing
    fp32 = [s for s in setups if s.precision == "fp32"]
    path = [s for s in fp32 if whole.restores(s) and s.device == "cpu" and s.runtime == "onnx"][:1]
    if "whole" in options.parts:
        say("photographs")
        rows += whole.photo_rows(setups, options.threads, options.rounds, options.most)
        for setup in path:
            say("films")
            rounds = max(3, options.rounds // 5)
            measured, missing = whole.film_rows(
                setup, options.frames, options.long, options.threads, rounds
            )
            rows, gaps = rows + measured, gaps + missing
        gaps.append(Gap("a server, and clients of it", "fhrt has none yet"))
    if "peers" in options.parts:
        for device in dict.fromkeys(setup.device for setup in fp32):
            say(f"peers on {device}")
            same = [s for s in fp32 if s.device == device and s.name == fp32[0].name]
            measured, missing = whole.peer_rows(
                same, options.threads, options.rounds, options.most, options.compiled
            )
            rows, gaps = rows + measured, gaps + missing
    if "scaling" in options.parts:
        for setup in path:
            say("scaling")
            rounds = max(3, options.rounds // 2)
            found["scaling"] = scaling.measure(setup, options.threads, rounds, options.quick)
    if options.data is not None and not options.seeded:
        say("quality")
        scores, missing = quality.score(
            setups, options.data, options.threads, options.embedder, options.niqe
        )
        gaps += missing
        found["quality"] = scores
    return {
        "machine": machine,
        "seeded": options.seeded,
        "rows": rows,
        "counts": _counts(setups, path) if "gate" in options.parts else {},
        **found,
        "gaps": [gap.__dict__ for gap in gaps],
    }


def steady_rows(
    options: Options, setups: Sequence[Setup], say: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """The rows that the gate compares (see `steady`)."""
    say("what the gate compares")
    rows = steady.network_rows(setups, options.rounds)
    if model := path_model(setups):
        rows += steady.path_rows(model, options.rounds)
    return rows


def path_model(setups: Sequence[Setup]) -> str:
    """The model that the main path is measured with: the first one that fits, "" for none."""
    fits = (s.model for s in setups if whole.restores(s) and s.key.endswith(" onnx fp32 cpu"))
    return next(fits, "")


def _network_rows(
    options: Options, setups: Sequence[Setup], say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[Gap]]:
    """Every setup at every shape; those of a model, device, shape and kind of product in turn, with
    the ceilings."""
    rows: list[dict[str, Any]] = []
    gaps: list[Gap] = []

    def group(setup: Setup) -> tuple[str, str, str]:
        return setup.name, setup.device, setup.multiplies

    for name, device, word in dict.fromkeys(map(group, setups)):
        same = [s for s in setups if group(s) == (name, device, word)]
        kind, index = parse_device(device)
        sessions = {s.key: open_setup(s, options.threads) for s in same}
        copy = open_copy(kind, index, options.threads)
        product = fastest_product(kind, index, options.threads, word)
        most = min(session.batch_max for session in sessions.values())
        for batch, side in shapes(same[0], most, options.batches, options.sizes):
            say(f"{name} on {device}, {batch}×{side}")
            given = batch_of(batch, side)
            calls: dict[str, Callable[[], object]] = {
                s.key: partial(sessions[s.key], given) for s in same
            }
            calls |= {"copy": copy.call, "product": product.call}
            sure = [setup.key for setup in same if setup.precision != "int8"]
            times = alternate(calls, options.rounds, options.most, beside="product", sure=sure)
            for setup in same:
                row: dict[str, Any] = {
                    "kind": "network",
                    "key": f"network {setup.key} {batch}×{side}",
                    "setup": setup.key,
                    "model": setup.name,
                    "runtime": setup.runtime,
                    "precision": setup.precision,
                    "computes": _computed(setup, sessions[setup.key]),
                    "device": sessions[setup.key].device,
                    "batch": batch,
                    "size": side,
                    **times[setup.key].figures(),
                }
                row["ms"] = 1000 * row["p50"] / batch
                for part in (
                    partial(_share, setup, (batch, 3, side, side), times, product, copy),
                    partial(_memory, setup, batch, side, options),
                ):
                    try:
                        row |= part()
                    except FhrtError as error:
                        gaps.append(Gap(f"figures of {row['key']}", str(error)))
                rows.append(row)
    return rows, gaps


def _computed(setup: Setup, session: Session) -> str:
    """In what most products are: a session of a graph of integers does not know that."""
    return "int8" if setup.precision == "int8" else session.precision


def _share(
    setup: Setup,
    shape: tuple[int, ...],
    times: dict[str, Times],
    product: Ceiling,
    copy: Ceiling,
) -> dict[str, Any]:
    """What a call computes and moves, and the two ceilings; bound: the one that it would take
    longer at, and share: of that one (Williams and others, Roofline, 2009), with its relative
    standard error. Raises as `count_graph`."""
    work = count_graph(setup.file, shape)
    found: dict[str, Any] = {
        **work.figures(),
        "flops_per_second": product.work / median(times["product"].wall),
        "bytes_per_second": copy.work / median(times["copy"].wall),
    }
    if setup.precision != "int8":  # whose products no product of floats is a ceiling of
        floors = {  # in times of the product
            "product": setup.products * work.flops / product.work,
            "copy": work.bytes / copy.work * times["copy"].over(),
        }
        if setup.multiplies == "bf16":  # its values have half the bytes of the file's
            floors["copy"] /= 2
        found["bound"] = max(floors, key=lambda name: floors[name])
        found["share"] = floors[found["bound"]] / times[setup.key].over()
        found["error"] = times[setup.key].error()
    return found


def _memory(setup: Setup, batch: int, side: int, options: Options) -> dict[str, float]:
    """Peak memory and energy, where asked for. Raises RuntimeMissing."""
    if "memory" not in options.parts:
        return {}
    call = [setup.model, setup.runtime, setup.precision, setup.device, str(options.artifacts)]
    return memory.measure({"call": call, "batch": batch, "side": side, "threads": options.threads})


def _counts(setups: Sequence[Setup], path: Sequence[Setup]) -> dict[str, dict[str, int]]:
    """Of every file at one picture of its smallest size, and of the main path for eight pictures of
    four faces, with one thread: exact, and compared by the gate."""
    found: dict[str, dict[str, int]] = {}
    for setup in setups:
        side = shapes(setup, 1, [1])[0][1]
        key = f"{setup.name} {setup.precision} 1×{side}"
        if key not in found:
            found[key] = count_graph(setup.file, (1, 3, side, side)).figures()
    for setup in path:
        with steady.one_thread():
            restorer = whole.restorer_of(setup, threads=1)
            pictures = [scenes.four_faces() for _ in range(8)]
            found[f"path {setup.name}"] = count_path(restorer, pictures)
    return found
