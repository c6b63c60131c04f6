"""The main path on a GPU: a frame goes up once and comes down once.

Faces are cut out, restored and put back on the stream of the session. Frames go up and come down
on a stream each, and events keep the order. There are two sets of buffers: while the faces of one
group are restored, the frames of the next go up, and while the caller finds faces, the last come
down.
"""

from __future__ import annotations

import warnings
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from fhrt.carry import Found
from fhrt.cuda.launch import Gpu, crop_faces, paste_faces
from fhrt.errors import DeviceLost, FhrtError, RuntimeMissing, first_line
from fhrt.faces import Matrix, Picture, choose_side, crop_matrix, enlarge
from fhrt.runtime import cuda
from fhrt.runtime.session import parse_device

Clock: TypeAlias = Callable[[str], AbstractContextManager[None]]

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the legacy default stream
WAITED_FOR = 1 | 2  # CU_EVENT_BLOCKING_SYNC: leave the core to the decoder; _DISABLE_TIMING
ALIGNED = 256  # bytes, as cuMemAlloc's


@runtime_checkable
class DeviceSession(Protocol):
    """A session that also takes arrays of its GPU and then gives such an array, float32 (N, 3, H,
    W), read and written on the stream of `gpu`; else see `fhrt.runtime.session.Session`."""

    name: str
    sizes: tuple[int, ...]
    batch_max: int
    device: str
    gpu: Gpu

    def __call__(self, batch: Any) -> Any: ...


@dataclass(frozen=True)
class _Array:
    """Part of an allocation, contiguous, as `fhrt.cuda.launch` takes it."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = None  # what must not be freed before this

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return cuda.interface(self.address, self.shape, self.dtype)


class _Buffers:
    """Memory of one group: as many bytes on the device as, pinned, on the host, and an event for
    the end of each of its three ways. Raises as `cuda.call`."""

    def __init__(self, size: int) -> None:
        self.size = size
        held = ExitStack()
        self.close = held.close
        try:
            self.device = cuda.device_memory(held, size)
            self.host = cuda.pinned_memory(held, size // 4).view(np.uint8)
            self.uploaded, self.computed, self.downloaded = (_event(held) for _ in range(3))
        except BaseException:
            self.close()
            raise


@dataclass(eq=False)
class _Frame:
    """A frame with faces, and where the picture and the result lie in the buffers."""

    found: Found
    source: int
    base: int
    shape: tuple[int, int, int]  # of the result

    @property
    def end(self) -> int:
        return self.base + prod(self.shape)


@dataclass(eq=False)
class _Part:
    """What goes through at once: pictures, and those of them that have faces, in buffers."""

    group: list[Found]
    frames: dict[int, _Frame]
    buffers: _Buffers
    computed: bool = False


_Cut: TypeAlias = tuple[_Frame, Matrix]


class GpuFrames:
    """Restores the faces of frames on the GPU of a session.

    scale: 1, 2 or 4, output size over input size. May be used by several threads. Where memory does
    not suffice, fewer frames or faces go at once, and a RuntimeWarning says so once. Raises
    DeviceLost once the GPU has failed, FhrtError where a single frame does not fit into its memory.
    """

    def __init__(self, session: DeviceSession, scale: int = 1) -> None:
        from cuda import core

        self._session, self._gpu, self._scale = session, session.gpu, scale
        self._index = parse_device(session.device)[1]
        self._frames_most, self._faces_most = 1 << 30, 1 << 30
        self._warned = False
        self._spare: list[_Buffers] = []
        held = ExitStack()
        core.Device(self._index).set_current()
        (self._context,) = cuda.call("cuCtxGetCurrent")
        self._up, self._down = (_stream(held) for _ in range(2))
        weakref.finalize(self, _release, self._spare, held, self._context)

    def restore(
        self, groups: Iterable[list[Found]], clock: Clock
    ) -> Iterator[tuple[list[Found], list[Picture]]]:
        """Pictures with their faces -> the same, a group or a part of one at a time, with the
        restored pictures, uint8 (H·scale, W·scale, 3). Takes two groups ahead of what it gives.
        clock: counts the host's seconds of a stage."""
        running: deque[_Part] = deque()  # at most two, the older one first
        waiting: list[Found] = []
        upcoming = iter(groups)
        try:
            while (waiting := waiting or next(upcoming, [])) or running:
                part = self._place(waiting, len(running)) if len(running) < 2 and waiting else None
                if part is None:
                    outputs = self._finish(running[0], clock)
                    yield running.popleft().group, outputs
                    continue
                running.append(part)
                waiting = waiting[len(part.group) :]
                self._upload(part, clock)
                if len(running) == 2:  # after the upload: a session may wait for its result
                    self._compute(running[0], clock)
        finally:
            self._abandon(running)

    def _place(self, group: list[Found], running: int) -> _Part | None:
        """As many frames as there is memory for, and where those with faces will lie; None where
        one that is running must give its memory first."""
        while True:
            part, frames, size = group[: self._frames_most], {}, ALIGNED
            for number, (picture, faces) in enumerate(part):
                if faces:
                    height, width = (self._scale * side for side in picture.shape[:2])
                    base = _aligned(size + picture.nbytes)
                    frames[number] = _Frame((picture, faces), size, base, (height, width, 3))
                    size = _aligned(frames[number].end)
            try:
                with self._working():
                    return _Part(part, frames, self._take(size))
            except cuda.OutOfMemory:
                if len(part) > 1 or not running:
                    self._frames_most = self._fewer(len(part), "frames")
                if running:
                    return None

    def _take(self, size: int) -> _Buffers:
        """Buffers of at least `size` bytes: used ones where these are large enough."""
        with suppress(IndexError):  # another thread may take the last
            spare = self._spare.pop()
            if spare.size >= size:
                return spare
            spare.close()
        return _Buffers(size)

    def _upload(self, part: _Part, clock: Clock) -> None:
        """Start the way up: one copy a frame, with the enlarged picture behind it where there is
        one, by OpenCV as on the CPU."""
        buffers, host = part.buffers, part.buffers.host
        with clock("upload"), self._working():
            for frame in part.frames.values():
                picture = frame.found[0]
                end = frame.source + picture.nbytes
                np.copyto(host[frame.source : end].reshape(picture.shape), picture)
                if self._scale > 1:
                    end = frame.end
                    larger = enlarge(picture, self._scale)
                    np.copyto(host[frame.base : end].reshape(frame.shape), larger)
                there, here = (at + frame.source for at in (buffers.device, host.ctypes.data))
                cuda.call("cuMemcpyHtoDAsync", there, here, end - frame.source, self._up)
            cuda.call("cuEventRecord", buffers.uploaded, self._up)

    def _compute(self, part: _Part, clock: Clock) -> None:
        """Restore the faces of a part and start its way down."""
        if part.computed:
            return
        part.computed = True
        buffers, stream = part.buffers, int(self._gpu.stream.handle)
        with clock("restore"), self._working():
            cuda.call("cuStreamWaitEvent", stream, buffers.uploaded, 0)
            if self._scale == 1:
                for frame in part.frames.values():
                    there, here = (buffers.device + at for at in (frame.base, frame.source))
                    cuda.call("cuMemcpyDtoDAsync", there, here, prod(frame.shape), stream)
            by_side: dict[int, list[_Cut]] = defaultdict(list)
            for frame in part.frames.values():
                for face in frame.found[1]:
                    side = choose_side(face.landmarks, self._scale, self._session.sizes)
                    by_side[side].append((frame, crop_matrix(face.landmarks, side)))
            for side, cuts in by_side.items():
                self._restore_faces(buffers.device, cuts, side)
            cuda.call("cuEventRecord", buffers.computed, stream)
            cuda.call("cuStreamWaitEvent", self._down, buffers.computed, 0)
            for frame in part.frames.values():
                here, there = buffers.host.ctypes.data + frame.base, buffers.device + frame.base
                cuda.call("cuMemcpyDtoHAsync", here, there, prod(frame.shape), self._down)
            cuda.call("cuEventRecord", buffers.downloaded, self._down)

    def _restore_faces(self, device: int, cuts: list[_Cut], side: int) -> None:
        """Faces of one size, batch after batch. They are cut out of the pictures as these came, and
        the results lie elsewhere, so that no face sees what was made of its neighbour."""
        while cuts:
            some = cuts[: min(self._faces_most, self._session.batch_max)]
            try:
                with self._errors():
                    before, after = self._run(device, some, side)
            except cuda.OutOfMemory:
                self._faces_most = self._fewer(len(some), f"faces of {side}×{side}")
                continue
            cuts = cuts[len(some) :]
            crops = zip(before, after, some, strict=True)
            for frame, each in groupby(crops, key=lambda crop: crop[2][0]):
                olds, news, faces = zip(*each, strict=True)
                base = _Array(device + frame.base, frame.shape, np.dtype(np.uint8))
                matrices = [matrix for _, matrix in faces]
                paste_faces(self._gpu, base, olds, news, matrices, self._scale)

    def _run(self, device: int, cuts: list[_Cut], side: int) -> tuple[list[_Array], list[_Array]]:
        """The faces as they are cut out and as the session restores them."""
        shape = (len(cuts), 3, side, side)
        batch = cuda.DeviceArray(shape, self._index, self._gpu.stream)
        pictures = [
            _Array(device + frame.source, frame.found[0].shape, np.dtype(np.uint8))
            for frame, _ in cuts
        ]
        crop_faces(self._gpu, pictures, [matrix for _, matrix in cuts], batch)
        return self._rows(batch), self._rows(self._session(batch))

    def _rows(self, batch: Any) -> list[_Array]:
        view = self._gpu.view(batch)
        starts = (view.address + number * view.strides[0] for number in range(view.shape[0]))
        return [_Array(start, view.shape[1:], view.dtype, batch) for start in starts]

    def _finish(self, part: _Part, clock: Clock) -> list[Picture]:
        """The restored pictures of a part, whose buffers are free afterwards."""
        self._compute(part, clock)
        buffers = part.buffers
        with clock("download"), self._working():
            cuda.call("cuEventSynchronize", buffers.downloaded)
            outputs = []
            for number, (picture, _) in enumerate(part.group):
                if frame := part.frames.get(number):
                    made = buffers.host[frame.base : frame.end]
                    outputs.append(made.reshape(frame.shape).copy())
                else:
                    outputs.append(enlarge(picture, self._scale))
            if len(part.group) <= self._frames_most:
                self._spare.append(buffers)
            else:  # memory has become short
                buffers.close()
        return outputs

    def _abandon(self, running: Iterable[_Part]) -> None:
        """Wait for what nobody will ask for any more, and free its buffers."""
        with suppress(FhrtError), cuda.within(self._context):
            for part in running:
                for stream in (self._up, int(self._gpu.stream.handle), self._down):
                    cuda.free("cuStreamSynchronize", stream)
                part.buffers.close()

    def _fewer(self, count: int, what: str) -> int:
        """Half as many at once. Raises FhrtError where it was but one."""
        device, name = self._session.device, self._session.name
        if count == 1:
            raise FhrtError(
                f"{name}: not even one of the {what} fits into the memory of {device}; "
                "make the pictures smaller, or free memory"
            )
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{name}: {count} {what} do not fit into the memory of {device} at once: "
                "fewer are taken",
                RuntimeWarning,
                stacklevel=2,
            )
        return count // 2

    @contextmanager
    def _working(self) -> Iterator[None]:
        """On this GPU, whichever thread it is; failures as the class says, or OutOfMemory."""
        with self._errors(), cuda.within(self._context):
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (DeviceLost, cuda.OutOfMemory):
            raise
        except Exception as error:
            # the kinds that cuda.core raises are not public, but where they are from is
            if type(error).__module__.startswith("cuda.") and "OUT_OF_MEMORY" in str(error):
                raise cuda.OutOfMemory(first_line(error)) from error
            if type(error).__module__.startswith("cuda.") or isinstance(error, RuntimeMissing):
                raise DeviceLost(
                    f"{self._session.device} is lost: {first_line(error)}; nothing runs on it in "
                    "this process any more: start again"
                ) from error
            raise


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _stream(held: ExitStack) -> int:
    (stream,) = cuda.call("cuStreamCreate", NON_BLOCKING)
    held.callback(cuda.free, "cuStreamDestroy", stream)
    return int(stream)


def _event(held: ExitStack) -> Any:
    (event,) = cuda.call("cuEventCreate", WAITED_FOR)
    held.callback(cuda.free, "cuEventDestroy", event)
    return event


def _release(spare: list[_Buffers], held: ExitStack, context: Any) -> None:
    """Free what is held, from any thread, as the garbage collector may."""
    with suppress(FhrtError, RuntimeError), cuda.within(context):
        for buffers in spare:
            buffers.close()
        held.close()
