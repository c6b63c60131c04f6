"""`fhrt run`: restore photos and videos."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fhrt.cli.inputs import Item
    from fhrt.faces import Face
    from fhrt.restorer import Restorer
    from fhrt.video.stream import FrameRestorer


class Scale(StrEnum):
    """Output size over input size."""

    same = "1"
    double = "2"
    fourfold = "4"


@dataclass(frozen=True)
class Options:
    """What `fhrt run` was asked to do with each item. film: what restores films, on all devices;
    decoder: what decodes them."""

    film: FrameRestorer
    decoder: str
    overwrite: bool
    skip_existing: bool
    dry_run: bool
    as_json: bool
    debug: bool = False


@dataclass
class Outcome:
    """What became of one item: a line of `--json`."""

    input: str
    output: str | None = None
    faces: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""
    error: str | None = None
    exit_code: int = 0


def run(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Photos, folders, globs; - reads stdin.")
    ] = None,
    video: Annotated[
        list[Path] | None, typer.Option("--video", help="A video file; may be given again.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="A file, a folder, or - for stdout."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            envvar="FHRT_MODEL",
            help="A name of `fhrt models`, an ONNX file, or an artifact's folder.",
        ),
    ] = "restore",
    scale: Annotated[
        Scale, typer.Option(envvar="FHRT_SCALE", help="Output size over input size.")
    ] = Scale.same,
    device: Annotated[
        str,
        typer.Option(
            envvar="FHRT_DEVICE", help="auto, cpu or cuda:N; cuda:0,cuda:1 share out a film."
        ),
    ] = "auto",
    runtime: Annotated[
        str,
        typer.Option(
            envvar="FHRT_RUNTIME",
            help="auto, onnx, onnx-tensorrt, openvino, openvino-bf16, openvino-bf16x2, torch, "
            "tensorrt.",
        ),
    ] = "auto",
    detector: Annotated[
        Path | None, typer.Option(envvar="FHRT_DETECTOR", help="A YuNet ONNX file of your own.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(envvar="FHRT_THRESHOLD", help="Least score of a face, 0 to 1.")
    ] = None,
    every: Annotated[
        int,
        typer.Option(
            min=1, envvar="FHRT_EVERY", help="Find faces in every K-th frame of a film only."
        ),
    ] = 1,
    decoder: Annotated[
        str, typer.Option(envvar="FHRT_DECODER", help="Of films: cpu, cuda:N or auto.")
    ] = "cpu",
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", min=1, envvar="FHRT_JOBS", help="Photos at a time.")
    ] = 1,
    overwrite: Annotated[bool, typer.Option("-y", "--yes", help="Overwrite outputs.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave outputs that are there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Find faces and report; write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a file on stdout.")
    ] = False,
) -> int:
    """Restore the faces of photos and videos.

    Writes NAME_restored beside each input unless -o says otherwise. Exit code: 0 all done,
    1 failed, 2 usage, 3 some items failed, 130 interrupted. FHRT_* variables set defaults.
    """
    from fhrt.cli.inputs import STANDARD, plan
    from fhrt.errors import UsageError
    from fhrt.restorer import Restorer
    from fhrt.runtime.session import parse_device
    from fhrt.video.segments import InTurn

    if overwrite and skip_existing:
        raise UsageError("-y and --skip-existing exclude each other")
    items = plan(inputs or [], video or [], output)
    if as_json and any(item.target == STANDARD for item in items) and not dry_run:
        raise UsageError("--json and a picture cannot both go to stdout; name a file with -o")
    parse_device(decoder)
    debug = bool((context.obj or {}).get("debug"))
    restorers = [
        Restorer(
            model,
            scale=int(scale.value),
            device=word,
            runtime=runtime,
            detector=detector,
            threshold=threshold,
            every=every,
        )
        for word in device.split(",")
    ]
    restorer = restorers[0]
    film = InTurn(restorers) if len(restorers) > 1 else restorer
    options = Options(film, decoder, overwrite, skip_existing, dry_run, as_json, debug)
    codes = []
    with _progress(items) as advance:
        for outcome in _outcomes(items, restorer, options, jobs, advance):
            codes.append(outcome.exit_code)
            _print(outcome, restorer, options)
    if not any(codes):
        return 0
    return min(codes) if all(codes) else 3


def _outcomes(
    items: list[Item], restorer: Restorer, options: Options, jobs: int, advance: Advance
) -> Iterator[Outcome]:
    """Outcomes in the order of the items; photos `jobs` at a time."""

    def one(item: Item) -> Outcome:
        outcome = _attempt(item, restorer, options, advance)
        advance(items=1, faces=0 if item.video else len(outcome.faces))
        return outcome

    if jobs == 1:
        yield from map(one, items)
        return
    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(one, items)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _attempt(item: Item, restorer: Restorer, options: Options, advance: Advance) -> Outcome:
    """Restore one item; what goes wrong with it becomes its outcome, and the others go on."""
    from fhrt.cli.inputs import STANDARD
    from fhrt.errors import FhrtError, InputError

    outcome = Outcome(str(item.source))
    start = time.perf_counter()
    try:
        if item.target != STANDARD and item.target.exists() and not options.dry_run:
            if options.skip_existing:
                outcome.note = "skipped: the output is there"
                return outcome
            if not options.overwrite:
                raise InputError(f"{item.target} exists: -y overwrites it")
        if not options.dry_run and item.target != STANDARD:
            _make_folder(item.target.parent)
        (_video if item.video else _photo)(item, restorer, options, outcome, advance)
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        kind = "" if isinstance(error, FhrtError) else f"{type(error).__name__}: "
        outcome.output, outcome.error = None, kind + str(error).replace("\n", " ")
        outcome.exit_code = error.exit_code if isinstance(error, FhrtError) else 1
    finally:
        outcome.seconds["total"] = time.perf_counter() - start
    return outcome


def _photo(
    item: Item, restorer: Restorer, options: Options, outcome: Outcome, advance: Advance
) -> None:
    from fhrt.cli.inputs import STANDARD
    from fhrt.pictures import encode_photo, format_of, read_photo, write_atomically

    start = time.perf_counter()
    data = sys.stdin.buffer.read() if item.source == STANDARD else None
    photo = read_photo(item.source if data is None else data, str(item.source))
    outcome.seconds["read"] = time.perf_counter() - start
    if options.dry_run:
        start = time.perf_counter()
        outcome.faces = [describe(face) for face in restorer.detect(photo.picture)]
        outcome.seconds["detect"] = time.perf_counter() - start
        return
    format = photo.format if item.target == STANDARD else format_of(item.target)
    restored = restorer.restore(photo.picture)
    outcome.seconds |= restored.seconds
    outcome.faces = [describe(face) for face in restored.faces]
    start = time.perf_counter()
    if not restored.faces and restorer.scale == 1 and format == photo.format:
        content = item.source.read_bytes() if data is None else data
        outcome.note = "no face found: copied through"
    else:
        content = encode_photo(photo, restored.picture, restorer.scale, format)
        outcome.note = "" if restored.faces else "no face found: only converted or enlarged"
    if item.target == STANDARD:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_atomically(item.target, content)
    outcome.seconds["write"] = time.perf_counter() - start
    outcome.output = str(item.target)


def _video(
    item: Item, restorer: Restorer, options: Options, outcome: Outcome, advance: Advance
) -> None:
    from fhrt.video.stream import Progress, find_faces, restore_video

    done = 0

    def report(progress: Progress) -> None:
        nonlocal done
        advance(frames=progress.frames - done, total_frames=progress.total, faces=progress.faces)
        done = progress.frames

    if options.dry_run:
        seen = find_faces(item.source, restorer.detect, report=report)
        outcome.faces = [describe(face) | {"frame": i} for i, faces in seen for face in faces]
        return
    result = restore_video(
        item.source, item.target, options.film, report=report, decoder=options.decoder
    )
    outcome.seconds |= result.seconds
    outcome.note = f"{result.frames} frames, {result.faces} faces"
    if not result.faces:
        outcome.note = f"no face found in {result.frames} frames"
    outcome.output = str(item.target)


def describe(face: Face) -> dict[str, Any]:
    """A face as `--json` shows it, in pixels of the input, rounded to hundredths."""
    return {
        "box": [round(float(v), 2) for v in face.box],
        "landmarks": [[round(float(v), 2) for v in point] for point in face.landmarks],
        "score": round(float(face.score), 4),
    }


def _make_folder(folder: Path) -> None:
    from fhrt.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from error


def _print(outcome: Outcome, restorer: Restorer, options: Options) -> None:
    """Data on stdout with --json; otherwise a line on stderr."""
    if options.as_json:
        line = {
            "input": outcome.input,
            "output": outcome.output,
            "faces": outcome.faces,
            "seconds": {k: round(v, 4) for k, v in outcome.seconds.items()},
            "device": restorer.session.device,
            "runtime": restorer.session.runtime,
            "error": outcome.error,
        }
        if outcome.note:
            line["note"] = outcome.note
        print(json.dumps(line), flush=True)
    elif outcome.error:
        print(f"fhrt: {outcome.error}", file=sys.stderr)
    else:
        said = outcome.note or f"{len(outcome.faces)} face{'s' * (len(outcome.faces) != 1)}"
        where = f" -> {outcome.output}" if outcome.output else ""
        print(f"{outcome.input}{where}: {said}, {outcome.seconds['total']:.2f} s", file=sys.stderr)


Advance = Callable[..., None]


class _progress:
    """A progress line on stderr with items, faces, frames a second and the time left; silent
    without a terminal. Gives the function that moves it on."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items

    def __enter__(self) -> Advance:
        self._bar: Any = None
        if not sys.stderr.isatty():
            return lambda **_: None
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.description}"),
            BarColumn(),
            TextColumn("{task.fields[faces]} faces {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.start()
        bar, start, total, total_faces = self._bar, 0.0, 0, 0
        task = bar.add_task("items", total=len(self._items), faces=0, rate="")
        film: Any = None

        def advance(
            items: int = 0, faces: int = 0, frames: int = 0, total_frames: int | None = None
        ) -> None:
            nonlocal film, total_faces, total, start
            if frames:
                if film is None:
                    film = bar.add_task("frames", total=total_frames, faces=0, rate="")
                    total, start = 0, time.perf_counter()
                total += frames
                rate = total / max(time.perf_counter() - start, 1e-6)
                bar.update(film, advance=frames, faces=faces, rate=f"{rate:.1f} frames/s")
                return
            total_faces += faces
            bar.update(task, advance=items, faces=total_faces)
            if film is not None:
                bar.remove_task(film)
                film = None

        return advance

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
