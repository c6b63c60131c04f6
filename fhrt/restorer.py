"""Frames in, restored frames out: the whole main path on one screen.

detect → crop → restore the crops of a few frames in batches → paste what changed back.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.detect import open_detector
from fhrt.errors import InputError, UsageError
from fhrt.faces import Face, Matrix, Picture, choose_side, crop, crop_matrix, enlarge, paste
from fhrt.layout import to_batch, to_pictures
from fhrt.runtime.session import Session, open_session

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


class Restorer:
    """Finds and restores the faces of pictures.

    model: a name of `fhrt models`, or what `fhrt export` made: an ONNX file, a folder.
    scale: 1, 2 or 4, output size over input size. device: auto, cpu or cuda:N. runtime: see
    `fhrt.runtime.session.open_session`. detector: a YuNet ONNX file to use in place of the bundled
    detector. threshold: least score of a face, None for the detector's own. threads: CPU threads,
    0 for all. group: frames whose faces are restored together.

    Raises UsageError for words it does not know, RuntimeMissing where a device or runtime that was
    asked for cannot be had, ModelError for a model or detector file that cannot be used.
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
    ) -> None:
        if scale not in SCALES:
            raise UsageError(f"scale {scale} is not one of {', '.join(map(str, SCALES))}")
        self.scale, self.group = scale, group
        self.session: Session = open_session(model, device, runtime, threads)
        if self.session.scale != 1:
            name, factor = self.session.name, self.session.scale
            raise UsageError(
                f"{name} enlarges {factor} times: it is no model for a face in a picture"
            )
        path = Path(detector) if detector is not None else None
        self.detect = open_detector(path, device, threads, threshold)

    def restore(self, picture: Picture) -> Restored:
        """Restore one picture, uint8 (H, W, 3) RGB. Raises InputError for any other array."""
        return next(self.frames([picture]))

    def frames(self, pictures: Iterable[Picture]) -> Iterator[Restored]:
        """Restore pictures, uint8 (H, W, 3) RGB each, in order, one result a picture.

        Pulls at most `group` pictures before it gives their results. Raises InputError for an
        array that is no such picture.
        """
        upcoming = iter(pictures)
        while frames := list(islice(upcoming, self.group)):
            yield from self._restore(frames)

    def _restore(self, frames: list[Picture]) -> Iterator[Restored]:
        for frame in frames:
            check_picture(frame)
        clock = _Clock()
        with clock("detect"):
            faces = [self.detect(frame) for frame in frames]
        with clock("crop"):
            crops = [
                self._cut(frames[i], i, face) for i, found in enumerate(faces) for face in found
            ]
        with clock("restore"):
            self._run(crops)
        with clock("paste"):
            outputs = [enlarge(frame, self.scale) for frame in frames]
            for part in crops:
                assert part.after is not None
                paste(outputs[part.frame], part.before, part.after, part.matrix, self.scale)
        share = {stage: seconds / len(frames) for stage, seconds in clock.seconds.items()}
        for output, found in zip(outputs, faces, strict=True):
            yield Restored(output, tuple(found), dict(share))

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


def check_picture(picture: Picture) -> None:
    """Raise InputError unless this is a uint8 array (H, W, 3) with at least one pixel."""
    shape, kind = getattr(picture, "shape", None), getattr(picture, "dtype", None)
    if kind != np.uint8 or shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(f"a picture is a uint8 array (H, W, 3); this one is {kind} {shape}")
