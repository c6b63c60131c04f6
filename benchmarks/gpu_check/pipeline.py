"""Frames a second: the main path over frames in memory, and `fhrt run --video` over a film."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpu_check import trace
from gpu_check.clock import figures, in_turn, wall
from gpu_check.engines import Way, ways
from gpu_check.latency import gap
from gpu_check.steps import Context, Report

SIZE, SMALL = (1920, 1080), (480, 360)
ROUNDS = 5


def pipeline(report: Report, context: Context) -> None:
    """A row for each model and way: frames in memory, one face each, through `Restorer.frames`,
    with the seconds of its stages; copies and idle time of the GPU as torch.profiler counts them.
    The trace of one frame is kept, of the first way of each model."""
    from fhrt.restorer import Restorer

    frames = _frames(context)
    for name, _ in context.models:
        restorers: dict[str, tuple[Way, Any]] = {}
        for way in ways(name, context)[: 1 if context.quick else None]:
            with gap(report, f"{name} {way}"):
                restorer = Restorer(way.model, device=context.device, runtime=way.runtime)
                found = [len(done.faces) for done in restorer.frames(frames)]  # warm, too
                if set(found) != {1}:
                    raise ValueError(f"one face a frame is wanted; it finds {sorted(set(found))}")
                restorers[str(way)] = way, restorer
        stages: dict[str, list[dict[str, float]]] = {key: [] for key in restorers}
        timed: dict[str, Callable[[], float]] = {
            key: partial(wall, partial(_through, restorer, frames, stages[key]))
            for key, (_, restorer) in restorers.items()
        }
        taken = in_turn(timed, min(ROUNDS, context.rounds), context.seconds)
        for number, (key, (way, restorer)) in enumerate(restorers.items()):
            row: dict[str, Any] = {"model": name, "runtime": way.runtime}
            row |= {"precision": way.precision, "device": restorer.session.device}
            row |= {"frames": len(frames), "picture": _size(context)}
            row |= figures(taken[key], "wall", len(frames))
            row["frames_per_second"] = 1000 / row.pop("wall_ms_a_face")
            row["stages_ms"] = {
                stage: 1000 * float(np.mean([spent[stage] for spent in stages[key]]))
                for stage in stages[key][0]
            }
            with gap(report, f"copies of {name} {way}"):
                kept = context.out / f"trace-{name}.json"
                several = context.work / "trace.json"
                if number == 0:
                    one = partial(_through, restorer, frames[:1])
                    trace.record(one, kept, context.on_gpu)
                call = partial(_through, restorer, frames)
                events = trace.record(call, several, context.on_gpu)
                row |= trace.summary(events, len(frames))
            report.row(**row)


def film(report: Report, context: Context) -> None:
    """A row for each model: the first way that there is, `fhrt run --video` in a process of its
    own. seconds: of the film; wall: with the start of Python and the networks."""
    from fhrt.bench.scenes import write_film

    size = SMALL if context.quick else SIZE
    source = context.work / f"film-{size[1]}-{4 * context.frames}.mp4"
    if not source.is_file():
        beside = source.with_name("film.part.mp4")
        write_film(beside, _scene(context), 4 * context.frames)
        beside.replace(source)
    for name, _ in context.models:
        for way in ways(name, context):
            command = [sys.executable, "-m", "fhrt.cli.main", "run", "--video", str(source), "-y"]
            command += ["-o", str(context.work / "restored.mp4"), "--model", str(way.model)]
            command += ["--device", context.device, "--runtime", way.runtime, "--json"]
            print("+", *command, flush=True)
            spent: list[subprocess.CompletedProcess[str]] = []
            call = partial(
                subprocess.run, command, capture_output=True, text=True, check=False,
                timeout=max(1.0, context.left()),
            )  # fmt: skip
            whole = wall(lambda call=call, spent=spent: spent.append(call()))
            print(spent[0].stdout, spent[0].stderr, flush=True)
            lines = spent[0].stderr.strip().splitlines()[-1:] or [""]
            told = json.loads(spent[0].stdout.splitlines()[-1]) if spent[0].stdout else {}
            if spent[0].returncode:
                report.gap(f"film {name} {way}", told.get("error") or lines[0])
                continue
            seconds = told["seconds"]["total"]
            report.row(
                model=name,
                runtime=told["runtime"],
                precision=way.precision,
                device=told["device"],
                frames=4 * context.frames,
                picture=_size(context),
                seconds=seconds,
                wall_seconds=whole / 1000,
                frames_per_second=4 * context.frames / seconds,
                stages_seconds=told["seconds"],
            )
            break


def _frames(context: Context) -> list[Any]:
    """The face moves a little from one to the next."""
    picture = _scene(context)
    return [np.roll(picture, -2 * number, axis=1).copy() for number in range(context.frames)]


def _scene(context: Context) -> Any:
    """One face in the middle, where it stays whole while a film moves to the left."""
    from fhrt.bench.scenes import photograph

    size = SMALL if context.quick else SIZE
    return np.roll(photograph(*size, 1), size[0] // 2 - 150, axis=1)


def _size(context: Context) -> str:
    return "×".join(map(str, SMALL if context.quick else SIZE))


def _through(
    restorer: Any, frames: list[Any], stages: list[dict[str, float]] | None = None
) -> None:
    """stages: where the seconds of each frame go."""
    for done in restorer.frames(frames):
        if stages is not None:
            stages.append(done.seconds)
