"""Milliseconds a face: every way to run a model, beside what the machine can do at most."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpu_check.clock import WARM, Call, Events, figures, host_copy, in_turn, wall
from gpu_check.engines import Way, ways
from gpu_check.steps import Context, Report

SIDE = {"cuda": 8192, "cpu": 256}  # of the products of matrices
Ceiling = tuple[Callable[[], float], float]  # a timed call, and its FLOP or bytes
COMPILED = (1, 4, 8)  # batches: each takes torch.compile a minute or so


@dataclass(frozen=True)
class Case:
    """session: from NumPy to NumPy. prepare: a batch to a call on copies of it that lie on the GPU;
    None on a CPU. stream: what that call's work goes to."""

    runtime: str
    precision: str
    session: Any
    prepare: Callable[[Any], Call] | None
    stream: int = 0

    @property
    def key(self) -> str:
        return f"{self.runtime} {self.precision}"


def latency(report: Report, context: Context) -> None:
    """A row for each model, way and batch; each group of one batch in turn with the ceilings."""
    events = Events() if context.on_gpu else None
    with ExitStack() as held:
        ceilings: dict[str, Ceiling] = {}
        with gap(report, "the machine's ceilings"):
            for ceiling, found in _ceilings(events, held):
                ceilings[ceiling] = found
        for name, side in context.models:
            cases = [*_opened(name, events, report, context)]
            work = _Work(ways(name, context), side)
            for batch in context.batches:
                if context.left() < 10:
                    report.gap(f"{name}, {batch} crops", "no time was left")
                    continue
                with gap(report, f"{name}, {batch} crops"):
                    _group(name, side, batch, cases, ceilings, work, events, report, context)
        if context.on_gpu and not context.quick:
            for name, side in context.models:
                _compiled(name, side, ceilings, events, report, context)


@contextmanager
def gap(report: Report, what: str) -> Iterator[None]:
    """What goes wrong with one thing is noted, and the others go on."""
    import traceback

    try:
        yield
    except Exception as error:
        traceback.print_exc()
        report.gap(what, error)


def _group(
    name: str,
    side: int,
    batch: int,
    cases: list[Case],
    ceilings: dict[str, Ceiling],
    work: _Work,
    events: Events | None,
    report: Report,
    context: Context,
) -> None:
    given = np.random.default_rng(1).random((batch, 3, side, side), np.float32)
    walls: dict[str, Callable[[], float]] = {}
    devices: dict[str, Callable[[], float]] = {}
    for case in cases:
        with gap(report, f"{name} {case.key}, {batch} crops"):
            for _ in range(WARM):
                made = case.session(given)
            if made.shape[:2] != given.shape[:2] or not np.isfinite(made).all():
                raise ValueError(f"gives {made.shape}, or values that are not finite")
            if events is not None and case.prepare is not None:
                call = case.prepare(given)
                for _ in range(WARM):
                    call()
                devices[case.key] = partial(events.time, call, case.stream)
            walls[case.key] = partial(wall, partial(case.session, given))
    machine = {key: timed for key, (timed, _) in ceilings.items()}
    on_device = in_turn(devices | machine, context.rounds, context.seconds)
    on_host = in_turn(walls, context.rounds, context.seconds)
    for case in (case for case in cases if case.key in walls):
        about = {"model": name, "runtime": case.runtime, "precision": case.precision}
        about |= {"device": case.session.device, "batch": batch, "side": side}
        row: dict[str, Any] = {**about, "batch_max": case.session.batch_max}
        clocks = {"device": on_device.get(case.key), "wall": on_host[case.key]}
        for clock, taken in clocks.items():
            if taken is not None:
                row |= figures(taken, clock, batch)
                lines = [[*about.values(), clock, i, ms] for i, ms in enumerate(taken)]
                report.raw += lines
        with gap(report, f"operations of {name} {case.key}"):
            median = row.get("device_p50_ms", row["wall_p50_ms"])
            row |= work.shares(case, batch, median, ceilings, on_device)
        report.row(**row)


class _Work:
    """What a face costs in operations and a batch in bytes, counted once a file."""

    def __init__(self, found: list[Way], side: int) -> None:
        self._files = {way.precision: way.file for way in reversed(found)}
        self._side = side
        self._known: dict[str, tuple[int, int, int]] = {}

    def shares(
        self,
        case: Case,
        batch: int,
        milliseconds: float,
        ceilings: dict[str, Ceiling],
        taken: dict[str, list[float]],
    ) -> dict[str, float]:
        """flops, bytes, and their share of the product of the precision and of the copy: what
        these would have taken over what the batch took."""
        flops, first, more = self._count(case.precision)
        moved = first + (batch - 1) * more
        found: dict[str, float] = {"flops": flops * batch, "bytes": moved}
        product = f"product {case.precision}"
        product = product if product in taken else "product fp32"
        for key, amount, share in (
            (product, flops * batch, "share"),
            ("copy", moved, "share_of_copy"),
        ):
            if key in taken:
                rate = ceilings[key][1] / float(np.median(taken[key]))
                found[f"{share}_ceiling"] = 1000 * rate
                found[share] = amount / rate / milliseconds
        return found

    def _count(self, precision: str) -> tuple[int, int, int]:
        from fhrt.bench.counts import count_graph

        if precision not in self._known:
            file = self._files.get(precision) or self._files["fp32"]
            shape = (3, self._side, self._side)
            one, two = (count_graph(file, (n, *shape)) for n in (1, 2))
            self._known[precision] = one.flops, one.bytes, two.bytes - one.bytes
        return self._known[precision]


def _opened(name: str, events: Events | None, report: Report, context: Context) -> Iterator[Case]:
    from fhrt.runtime.frames import DeviceSession
    from fhrt.runtime.session import open_session

    for way in ways(name, context):
        with gap(report, f"{name} {way}"):
            if way.runtime == "torch" and events is not None:
                for precision in ("fp32", "fp16"):
                    yield _torch(name, precision, False)
                continue
            session = open_session(way.model, context.device, way.runtime)
            if isinstance(session, DeviceSession):
                stream, prepare = int(session.gpu.stream.handle), _resident(session)
                yield Case(session.runtime, way.precision, session, prepare, stream)
            else:
                yield Case(way.runtime, way.precision, session, None)


def _torch(name: str, precision: str, compiled: bool) -> Case:
    """What runtime.torch runs, without its copies."""
    import torch

    from fhrt.models import recipe
    from fhrt.runtime.torch import DTYPES, TorchSession

    session = TorchSession(recipe(name), "cuda", 0, 0, precision, compiled)

    def prepare(batch: Any) -> Call:
        given = torch.from_numpy(batch).to("cuda:0", memory_format=torch.channels_last)

        def call() -> object:
            lower = torch.autocast("cuda", DTYPES[precision], precision != "fp32")
            full = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
            with torch.inference_mode(), full, lower:
                return session._network(given)

        return call

    return Case("torch.compile" if compiled else "torch", precision, session, prepare)


def _resident(session: Any) -> Callable[[Any], Call]:
    """A session given an array of its GPU."""
    from fhrt.runtime import cuda

    def prepare(batch: Any) -> Call:
        given = cuda.DeviceArray(batch.shape, 0, session.gpu.stream)
        cuda.call("cuMemcpyHtoD", given.address, batch.ctypes.data, batch.nbytes)
        cuda.call("cuCtxSynchronize")
        return lambda: session(given)

    return prepare


def _ceilings(events: Events | None, held: ExitStack) -> Iterator[tuple[str, Ceiling]]:
    """By name: a timed call, and what it does in FLOP or bytes."""
    import torch

    yield "copy", events.copy(held) if events else host_copy()
    if events and not torch.cuda.is_available():
        raise RuntimeError("this torch has no CUDA: no product of matrices")
    kinds = {"fp16": torch.float16, "fp32": torch.float32} if events else {"fp32": torch.float32}
    place, side = ("cuda:0", SIDE["cuda"]) if events else ("cpu", SIDE["cpu"])
    for name, kind in kinds.items():
        a, b = (torch.randn(side, side, device=place, dtype=kind) for _ in range(2))
        c = torch.empty_like(a)
        call = partial(torch.mm, a, b, out=c)
        for _ in range(WARM):
            call()
        timed = partial(events.time, call, 0) if events else partial(wall, call)
        yield f"product {name}", (timed, 2.0 * side**3)


def _compiled(
    name: str,
    side: int,
    ceilings: dict[str, Ceiling],
    events: Events | None,
    report: Report,
    context: Context,
) -> None:
    """torch.compile in FP16, at few batches, in turn with torch eager."""
    work = _Work(ways(name, context), side)
    for batch in (batch for batch in COMPILED if batch in context.batches):
        if context.left() < 60:
            report.gap(f"{name} torch.compile fp16, {batch} crops", "no time was left")
            continue
        with gap(report, f"{name} torch.compile fp16, {batch} crops"):
            cases = [_torch(name, "fp16", True)]
            _group(name, side, batch, cases, ceilings, work, events, report, context)
