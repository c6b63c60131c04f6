"""Frames in, restored frames out: the whole main path on one screen.

detect → crop → restore the crops of a few frames in batches → paste what changed back.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fhrt.carry import Found, follow
from fhrt.detect import open_detector
from fhrt.errors import InputError, UsageError
from fhrt.exporting.engine_cache import open_fitting
from fhrt.faces import Face, Matrix, Picture, choose_side, crop, crop_matrix, enlarge, paste
from fhrt.layout import to_batch, to_pictures
from fhrt.runtime.frames import DeviceSession, GpuFrames
from fhrt.runtime.session import Session

SCALES = (1, 2, 4)


@dataclass(frozen=True, eq=False)
class Restored:
    """A restored picture: uint8 (H·scale, W·scale, 3) RGB, the faces found in the input's pixels,
    and the seconds that each stage took for it."""

    picture: Picture
    faces: tuple[Face, ...]
    seconds: dict[str, float]


@dataclass(eq=False)
class _Crop:
    """A face on its way through the network."""

    frame: int
    matrix: Matrix
    before: Picture
    after: Picture | None = None


@dataclass(eq=False)
class _Clock:
    """Seconds a stage."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start


_Done: TypeAlias = tuple[list[Found], list[Picture]]
_Path: TypeAlias = Callable[[Iterable[list[Found]], _Clock], Iterator[_Done]]


class Restorer:
    """Finds and restores the faces of pictures.

    model: a name of `fhrt models`, or what `fhrt export` made: an ONNX file, a folder.
    scale: 1, 2 or 4, output size over input size. device: auto, cpu or cuda:N. runtime: see
    `fhrt.runtime.session.open_session`. detector: a YuNet ONNX file to use in place of the bundled
    detector. threshold: least score of a face, None for the detector's own. threads: CPU threads,
    0 for all. group: frames whose faces are restored together. every: of a film's frames, how many
    go by from one in which faces are looked for to the next (`fhrt.carry`).

    A session that takes arrays of its GPU has all of crop, restore and paste done there
    (`fhrt.runtime.frames`).

    An engine that does not fit the machine is replaced by one that does (`open_fitting`).

    Raises UsageError for words it does not know, RuntimeMissing where a device or runtime that was
    asked for cannot be had, ModelError for a model or detector file that cannot be used; and
    DeviceLost, from `frames` and `restore`, once such a GPU has failed.
    """

    def __init__(
        self,
        model: str | Path = "restore",
        *,
        scale: int = 1,
        device: str = "auto",
        runtime: str = "auto",
        detector: str | Path | None = None,
        threshold: float | None = None,
        threads: int = 0,
        group: int = 4,
        every: int = 1,
    ) -> None:
        if scale not in SCALES:
            raise UsageError(f"scale {scale} is not one of {', '.join(map(str, SCALES))}")
        if every < 1:
            raise UsageError(f"every {every} is less than 1, which looks for faces in each frame")
        self.scale, self.group, self.every = scale, group, every
        self.session: Session = open_fitting(model, device, runtime, threads)
        if self.session.scale != 1:
            name, factor = self.session.name, self.session.scale
            raise UsageError(
                f"{name} enlarges {factor} times: it is no model for a face in a picture"
            )
        path = Path(detector) if detector is not None else None
        self.detect = open_detector(path, device, threads, threshold)
        self._gpu: GpuFrames | None = None
        if isinstance(self.session, DeviceSession):
            self._gpu = GpuFrames(self.session, scale)

    def restore(self, picture: Picture) -> Restored:
        """Restore one picture, uint8 (H, W, 3) RGB. Raises InputError for any other array."""
        return next(self.frames([picture]))

    def frames(self, pictures: Iterable[Picture]) -> Iterator[Restored]:
        """Restore pictures, uint8 (H, W, 3) RGB each, in order, one result a picture.

        Pulls at most `group` pictures before it gives their results; with `every`, so many more,
        and on a GPU three groups. Raises InputError for an array that is no such picture.
        """
        clock = _Clock()

        def detect(picture: Picture) -> list[Face]:
            with clock("detect"):
                return self.detect(picture)

        found = follow(map(checked, pictures), detect, self.every)
        groups = iter(lambda: list(islice(found, self.group)), [])
        path: _Path = self._gpu.restore if self._gpu else self._on_cpu
        for group, outputs in path(groups, clock):
            share = {stage: seconds / len(group) for stage, seconds in clock.seconds.items()}
            clock.seconds.clear()
            for (_, faces), output in zip(group, outputs, strict=True):
                yield Restored(output, tuple(faces), dict(share))

    def _on_cpu(self, groups: Iterable[list[Found]], clock: _Clock) -> Iterator[_Done]:
        for group in groups:
            with clock("crop"):
                crops = [
                    self._cut(picture, i, face)
                    for i, (picture, faces) in enumerate(group)
                    for face in faces
                ]
            with clock("restore"):
                self._run(crops)
            with clock("paste"):
                outputs = [enlarge(picture, self.scale) for picture, _ in group]
                for part in crops:
                    assert part.after is not None
                    paste(outputs[part.frame], part.before, part.after, part.matrix, self.scale)
            yield group, outputs

    def _cut(self, frame: Picture, index: int, face: Face) -> _Crop:
        side = choose_side(face.landmarks, self.scale, self.session.sizes)
        matrix = crop_matrix(face.landmarks, side)
        return _Crop(index, matrix, crop(frame, matrix, side))

    def _run(self, crops: list[_Crop]) -> None:
        """Restore crops in place: those of one size together, at most `batch_max` at a time."""
        by_side: dict[int, list[_Crop]] = defaultdict(list)
        for part in crops:
            by_side[part.before.shape[0]].append(part)
        step = self.session.batch_max
        for same in by_side.values():
            for group in (same[i : i + step] for i in range(0, len(same), step)):
                outputs = self.session(to_batch([part.before for part in group]))
                for part, output in zip(group, to_pictures(outputs), strict=True):
                    part.after = output


def restore(picture: Picture, **options: Any) -> Restored:
    """Restore the faces of one picture, uint8 (H, W, 3) RGB; options as for `Restorer`.

    The networks stay loaded for the next call with the same options. Raises as Restorer does, and
    InputError for an array that is no such picture.

    >>> import numpy as np, fhrt
    >>> grey = np.full((64, 64, 3), 128, np.uint8)
    >>> restored = fhrt.restore(grey)
    >>> restored.picture.shape, restored.faces
    ((64, 64, 3), ())
    """
    return _restorer(**options).restore(picture)


@lru_cache(maxsize=2)
def _restorer(**options: Any) -> Restorer:
    return Restorer(**options)


def checked(picture: Picture) -> Picture:
    """The picture. Raises InputError unless it is a uint8 array (H, W, 3) with a pixel or more."""
    shape, kind = getattr(picture, "shape", None), getattr(picture, "dtype", None)
    if kind != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(f"a picture is a uint8 array (H, W, 3); this one is {kind} {shape}")
    return picture
