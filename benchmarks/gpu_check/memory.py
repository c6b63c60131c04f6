"""A batch that is far too large: what each runtime does with it while the GPU is nearly full."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from gpu_check.engines import ways
from gpu_check.latency import gap
from gpu_check.steps import Context, Report

TIMES = 8  # of the largest batch that a session takes at once
KEPT = 0.5  # of what the session held: what is left free


def memory(report: Report, context: Context) -> None:
    """A row for each model and way: the batch it was given, what became of it, how many warnings
    were heard, batch_max before and after, and the largest difference from what it gives when
    memory is not short. On a CPU nothing is short."""
    from fhrt.runtime.session import open_session

    for name, side in context.models[-1:]:
        for way in ways(name, context):
            with gap(report, f"{name} {way}"), ExitStack() as held:
                free = _free(context)
                session: Any = open_session(way.model, context.device, way.runtime)
                most = session.batch_max
                count = (1 if context.quick else TIMES) * most + 1
                given = np.random.default_rng(2).random((count, 3, side, side), np.float32)
                session(given[:most])
                taken = free - _free(context)
                expected = session(given)
                if context.on_gpu:
                    _closed(session)
                    del session
                    _fill(held, int(KEPT * taken))
                    session, outcome, heard = _reopened(way, given, context)
                else:
                    outcome, heard = _called(session, given)
                row: dict[str, Any] = {"model": name, "runtime": way.runtime}
                row |= {"precision": way.precision, "device": context.device, "batch": count}
                row |= {"warnings": heard, "batch_max_before": most, "held_bytes": taken}
                row["batch_max_after"] = getattr(session, "batch_max", None)
                if isinstance(outcome, str):
                    row["outcome"] = outcome
                else:
                    halved = row["batch_max_after"] != most
                    row["outcome"] = "smaller batches" if halved else "in parts, nothing was short"
                    row["largest"] = float(np.abs(outcome - expected).max())
                report.row(**row)
                if session is not None:
                    _closed(session)


def _reopened(way: Any, given: Any, context: Context) -> tuple[Any, Any, int]:
    from fhrt.runtime.session import open_session

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            session = open_session(way.model, context.device, way.runtime)
            outcome: Any = session(given)
        except Exception as error:  # each library raises its own
            lines = str(error).strip().splitlines() or [""]
            return None, f"{type(error).__name__}: {lines[0][:300]}", _warnings(heard)
    return session, outcome, _warnings(heard)


def _called(session: Any, given: Any) -> tuple[Any, int]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        return session(given), _warnings(heard)


def _warnings(heard: list[warnings.WarningMessage]) -> int:
    return sum(issubclass(each.category, RuntimeWarning) for each in heard)


def _fill(held: ExitStack, left: int) -> None:
    """Take the GPU's memory, but for about `left` bytes, until `held` closes."""
    from fhrt.runtime import cuda

    piece = 8 << 30
    while piece >= 1 << 20:
        free, _ = cuda.call("cuMemGetInfo")
        if free - left < piece:
            piece //= 2
            continue
        try:
            cuda.device_memory(held, piece)
        except cuda.OutOfMemory:
            piece //= 2


def _free(context: Context) -> int:
    if not context.on_gpu:
        return 0
    from fhrt.runtime import cuda
    from gpu_check.clock import Events

    Events()
    return int(cuda.call("cuMemGetInfo")[0])


def _closed(session: Any) -> None:
    import gc

    if hasattr(session, "close"):
        session.close()
    gc.collect()
    with suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
