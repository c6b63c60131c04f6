"""A film restored: one thread decodes, the caller's drives the restorer, one encodes.

Two bounded queues join them, so that memory does not grow with the film. The first error, wherever
it happens, stops all three, leaves no file behind, and is the one that the caller sees. But where a
GPU is lost, what was restored by then is finished and kept.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from fhrt.errors import DeviceLost, FhrtError
from fhrt.faces import Face, Picture
from fhrt.video.reader import Frame, Reader
from fhrt.video.writer import DEFAULT, Encoding, Writer

if TYPE_CHECKING:
    from fhrt.restorer import Restored
    from fhrt.video.reader import Packet

T = TypeVar("T")
QUEUE = 6  # frames or packets: enough to even out slow frames, and 150 MB of RGB at 4K


class FrameRestorer(Protocol):
    """What a film needs of `fhrt.Restorer`: one result for each picture, in order. It is lazy, and
    may take some pictures ahead of the first result to work on them together."""

    def frames(self, pictures: Iterable[Picture]) -> Iterator[Restored]: ...


@dataclass(frozen=True)
class Progress:
    """Frames restored so far, of how many (None: unknown), and the faces found in them."""

    frames: int
    total: int | None
    faces: int


@dataclass(frozen=True)
class VideoReport:
    """What was done, and the seconds each stage worked (they overlap; waiting is not counted)."""

    frames: int
    faces: int
    frames_with_faces: int
    seconds: dict[str, float]


def restore_video(
    source: Path,
    target: Path,
    restorer: FrameRestorer,
    *,
    report: Callable[[Progress], None] | None = None,
    encoding: Encoding = DEFAULT,
    decoder: str = "cpu",
) -> VideoReport:
    """Restore the film `source` into `target`, whose suffix chooses the container. Timestamps,
    rotation, colours, sound and subtitles stay as they are; a frame in which nothing changed is
    encoded from its decoded pixels, without a way through RGB. `report` is called after each frame.
    decoder: as for `Reader`.

    DeviceLost: the restorer's device has failed; the frames before that are in NAME.part.SUFFIX.
    InputError: a film that cannot be read to its end, or a target that cannot be written or cannot
    hold the source's sound or subtitles. UsageError: a suffix that is no container.
    """
    with Reader(source, decoder) as reader, Writer(target, reader, encoding) as writer:
        line = Line()
        decoded: Pipe[Frame | Packet | None] = Pipe(line)
        restored: Pipe[tuple[Frame, Picture | None] | Packet | None] = Pipe(line)
        waiting: deque[Frame] = deque()  # what the restorer has seen and not yet given back
        count = Counter[str]()
        seconds: defaultdict[str, float] = defaultdict(float)
        lost: list[DeviceLost] = []

        def decode() -> None:
            items = iter(reader)
            item: Frame | Packet | None
            while True:
                with _timed(seconds, "decode"):
                    item = next(items, None)
                decoded.put(item)
                if item is None:
                    return

        def pictures() -> Iterator[Picture]:
            # Packets overtake the frames that the restorer holds, by less than a batch; the muxer
            # puts them in order again.
            while (item := decoded.get()) is not None:
                if isinstance(item, Frame):
                    waiting.append(item)
                    yield item.picture
                else:
                    restored.put(item)

        def restore() -> None:
            line.start("fhrt-decode", decode)
            line.start("fhrt-encode", encode)
            upright = pictures()
            for result in until_lost(restorer.frames(upright)):
                frame = waiting.popleft()
                same = not result.faces and np.array_equal(result.picture, frame.picture)
                restored.put((frame, None if same else result.picture))
                count["frames"] += 1
                count["faces"] += len(result.faces)
                count["frames with faces"] += bool(result.faces)
                for stage, spent in result.seconds.items():
                    seconds[stage] += spent
                if report:
                    report(Progress(count["frames"], reader.frames, count["faces"]))
            if not lost and (waiting or next(upright, None) is not None):
                raise FhrtError(f"the restorer gave back only {count['frames']} frames of {source}")
            restored.put(None)

        def until_lost(results: Iterator[Restored]) -> Iterator[Restored]:
            try:
                yield from results
            except DeviceLost as error:
                if not count["frames"]:
                    raise
                lost.append(error)

        def encode() -> None:
            while (item := restored.get()) is not None:
                with _timed(seconds, "encode"):
                    if isinstance(item, tuple):
                        writer.frame(*item)
                    else:
                        writer.packet(item)
            with _timed(seconds, "encode"):
                writer.finish()
            if lost:  # raised here, where nothing is left to be written: it stops the decoder
                part = target.with_suffix(f".part{target.suffix}")
                writer.commit(part)
                raise DeviceLost(f"{lost[0]}; {count['frames']} frames are in {part}") from lost[0]

        line.run(restore)
        line.wait()
        writer.commit()
    return VideoReport(count["frames"], count["faces"], count["frames with faces"], dict(seconds))


def find_faces(
    source: Path,
    detect: Callable[[Picture], list[Face]],
    *,
    report: Callable[[Progress], None] | None = None,
) -> Iterator[tuple[int, list[Face]]]:
    """Number and faces of each frame of a film, upright as a player shows it; writes nothing.

    InputError: a film that cannot be read to its end.
    """
    with Reader(source) as reader:
        number = faces = 0
        for item in reader:
            if isinstance(item, Frame):
                found = detect(item.picture)
                yield number, found
                number, faces = number + 1, faces + len(found)
                if report:
                    report(Progress(number, reader.frames, faces))


@contextmanager
def _timed(seconds: defaultdict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - start


class Stopped(Exception):
    """Another stage has failed: leave quietly."""


class Line:
    """The stages that work side by side, and the first error of any, at which all leave."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self.threads: list[threading.Thread] = []
        self.working = 0

    def start(self, name: str, stage: Callable[[], None]) -> None:
        def work() -> None:
            self.run(stage)
            with self.changed:
                self.working -= 1
                self.changed.notify_all()

        self.working += 1
        self.threads.append(threading.Thread(target=work, name=name))
        self.threads[-1].start()

    def run(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except Stopped:
            pass
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        with self.changed:
            self.error = self.error or error
            self.changed.notify_all()

    def pause_until(self, possible: Callable[[], bool]) -> None:
        """Called by a stage that holds `changed`."""
        self.changed.wait_for(lambda: self.error or possible())
        if self.error:
            raise Stopped

    def wait(self) -> None:
        """Until every stage has left; then raise the first error. An interrupt is one too. (A join
        that is interrupted takes a living thread for dead in Python 3.11, hence the count.)"""
        while self.working:
            try:
                with self.changed:
                    self.changed.wait_for(lambda: not self.working)
            except KeyboardInterrupt as error:
                self.fail(error)
        for thread in self.threads:
            thread.join()
        if self.error:
            raise self.error


class Pipe(Generic[T]):
    """A bounded queue between two stages; both ends raise Stopped once any stage has failed."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.items: deque[T] = deque()

    def put(self, item: T) -> None:
        with self.line.changed:
            self.line.pause_until(lambda: len(self.items) < QUEUE)
            self.items.append(item)
            self.line.changed.notify_all()

    def get(self) -> T:
        with self.line.changed:
            self.line.pause_until(lambda: bool(self.items))
            self.line.changed.notify_all()
            return self.items.popleft()
