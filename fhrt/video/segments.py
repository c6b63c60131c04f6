"""A film on several devices: they take segments of it in turn, and the results come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, islice
from typing import TYPE_CHECKING, TypeAlias

from fhrt.errors import UsageError
from fhrt.faces import Picture
from fhrt.video.stream import FrameRestorer

if TYPE_CHECKING:
    from fhrt.restorer import Restored

    Segment: TypeAlias = tuple[list[Restored], Exception | None]

AHEAD = 2  # segments a device has at most, so that it has its next one when it is done with one


class InTurn:
    """Several restorers as one, of a device each, with a thread each.

    length: frames of a segment; with `Restorer(every=…)`, faces are looked for in the first and
    last of each. Up to two segments a device are held in memory. An error of a restorer is raised
    where its result would be, after the frames before it; the others finish theirs and stop. Raises
    UsageError without a restorer, or for a length below 1.
    """

    def __init__(self, restorers: Sequence[FrameRestorer], length: int = 16) -> None:
        if not restorers or length < 1:
            raise UsageError(
                f"{len(restorers)} restorers and segments of {length} frames: 1 of each at least"
            )
        self.restorers, self.length = restorers, length

    def frames(self, pictures: Iterable[Picture]) -> Iterator[Restored]:
        """As `Restorer.frames`; `pictures` is read by the thread that calls this."""
        upcoming = iter(pictures)
        segments = iter(lambda: list(islice(upcoming, self.length)), [])
        waiting: deque[Future[Segment]] = deque()
        with ExitStack() as held:
            pools = []
            for number in range(len(self.restorers)):
                pools.append(ThreadPoolExecutor(1, f"fhrt-device-{number}"))
                held.callback(pools[-1].shutdown, wait=True, cancel_futures=True)
            turns = cycle(zip(pools, self.restorers, strict=True))
            for (pool, restorer), segment in zip(turns, segments, strict=False):
                waiting.append(pool.submit(_restore, restorer, segment))
                if len(waiting) == AHEAD * len(pools):
                    yield from _results(waiting.popleft())
            while waiting:
                yield from _results(waiting.popleft())


def _restore(restorer: FrameRestorer, segment: list[Picture]) -> Segment:
    """The results, as many as there are, and the error that came in place of the others."""
    done: list[Restored] = []
    try:
        for result in restorer.frames(segment):
            done.append(result)
    except Exception as error:
        return done, error
    return done, None


def _results(future: Future[Segment]) -> Iterator[Restored]:
    done, error = future.result()
    yield from done
    if error is not None:
        raise error
