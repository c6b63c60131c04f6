"""What is measured for the gate: figures that repeat on a machine with neighbours.

One thread; the time that its threads waited for a core taken off; the ratio to something like it,
done right before and right after; and the median over the rounds. Networks, the detector and the
whole picture are compared with a product of matrices that stays in the core's cache, cutting out
and pasting with as many crops weighed, warped and added by NumPy and OpenCV alone, a film with
restoring its frames alone.

On two cores with six to nine other processes at work, wall-clock times went up threefold, and their
ratios moved by 14 to 66 % from one series of 20 rounds to another (largest over least of six).
These ratios, then over a reference once a round, moved by 3 to 11 % (networks), 5 (detector), 5 to
12 (whole picture). Cutting out and pasting, which are bound by memory, moved by 11 and 20 % between
no neighbours and five, three of which did nothing but copy: there, a fifth more is seen on a quiet
machine only (there, over this reference, seven of eight processes differed by 5 and 4 %, and
pasting in the eighth by a quarter). On a GPU, whose work waits for no core, it is the wall clock.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fhrt.bench import scenes
from fhrt.bench.cases import Setup, batch_of, open_setup, shapes
from fhrt.bench.ceiling import PRODUCTS, open_product
from fhrt.bench.peers import torch_threads_kept
from fhrt.bench.timing import Clock, alternate
from fhrt.faces import Picture, choose_side, crop, crop_matrix, paste
from fhrt.restorer import Restorer
from fhrt.runtime.session import parse_device
from fhrt.video.reader import Frame, Reader
from fhrt.video.stream import restore_video

Row = dict[str, Any]
FRAMES = 6
REPEATED = 4  # what is short, to be as long as a slice of the scheduler


def network_rows(setups: Sequence[Setup], rounds: int) -> list[Row]:
    """One row a setup: one picture of the smallest size."""
    rows = []
    for device in dict.fromkeys(setup.device for setup in setups):
        kind, index = parse_device(device)
        same = [setup for setup in setups if setup.device == device]
        for name in dict.fromkeys(setup.name for setup in same):
            with one_thread():
                product = open_product(kind, index, 1, "fp32", *PRODUCTS[kind][0])
                calls: dict[str, Callable[[], object]] = {}
                for setup in (setup for setup in same if setup.name == name):
                    session = open_setup(setup, threads=1)
                    side = shapes(setup, 1, [1])[0][1]
                    calls[f"steady {setup.key} 1×{side}"] = partial(session, batch_of(1, side))
                rows += _rows(calls, product.call, rounds, kind)
    return rows


def path_rows(model: str, rounds: int) -> list[Row]:
    """The parts of the main path on the CPU, over 1280×720 with four faces, in ONNX Runtime, the
    whole of it, and a film of six such frames. The film, which has threads of its own, goes by the
    time of all cores; what waits in it without computing is not seen."""
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        picture = scenes.four_faces()
        restorer = Restorer(model, device="cpu", runtime="onnx", threads=1)
        faces = restorer.detect(picture)
        sides = [choose_side(face.landmarks, 1, restorer.session.sizes) for face in faces]
        matrices = [crop_matrix(f.landmarks, s) for f, s in zip(faces, sides, strict=True)]

        befores = [crop(picture, m, s) for m, s in zip(matrices, sides, strict=True)]
        afters = [255 - before for before in befores]
        base = picture.copy()

        def cut() -> None:
            for _ in range(REPEATED):
                for matrix, side in zip(matrices, sides, strict=True):
                    crop(picture, matrix, side)

        def put() -> None:
            for _ in range(REPEATED):
                for before, after, matrix in zip(befores, afters, matrices, strict=True):
                    paste(base, before, after, matrix)

        weights = np.random.default_rng(0).random((sides[0], sides[0], 3), np.float32)
        turn = np.array([[1.1, 0.1, 3.0], [-0.1, 1.1, 10.0]])
        part = picture[: round(1.17 * sides[0]), : round(1.17 * sides[0])].copy()

        def blend() -> None:
            for _ in range(REPEATED):
                for before, after in zip(befores, afters, strict=True):
                    change = cv2.subtract(after, before, dtype=cv2.CV_32F)
                    change *= weights
                    change = cv2.warpAffine(change, turn, part.shape[1::-1])
                    cv2.add(part, change, dst=part, dtype=cv2.CV_8U)

        film, out = Path(folder) / "film.mp4", Path(folder) / "out.mp4"
        scenes.write_film(film, picture, FRAMES)
        with Reader(film) as reader:
            frames = [item.picture for item in reader if isinstance(item, Frame)]
        calls: dict[str, Callable[[], object]] = {
            "steady detect": lambda: restorer.detect(picture),
            "steady photo": lambda: restorer.restore(picture),
        }
        rows = _rows(calls, open_product(threads=1).call, rounds, "cpu")
        calls = {"steady crop": cut, "steady paste": put}
        rows += _rows(calls, blend, 2 * rounds, "cpu")
        calls = {"steady film": lambda: restore_video(film, out, restorer)}
        alone = partial(_exhaust, restorer, frames)
        return rows + _rows(calls, alone, max(3, rounds // 3), "film")


def _exhaust(restorer: Restorer, frames: Sequence[Picture]) -> None:
    for _ in restorer.frames(frames):
        pass


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV with one thread, and torch set back at the end."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with torch_threads_kept():
            yield
    finally:
        cv2.setNumThreads(threads)


def _rows(
    calls: dict[str, Callable[[], object]], reference: Callable[[], object], rounds: int, kind: str
) -> list[Row]:
    clocks: dict[str, Clock] = {"cuda": "wall", "film": "cpu"}
    clock = clocks.get(kind, "busy")
    times = alternate(
        {"reference": reference, **calls}, rounds, beside="reference", sure=list(calls), clock=clock
    )
    return [
        {
            "kind": "steady",
            "key": key,
            "ratio": times[key].over(clock=clock),
            "seconds": float(np.median(times[key].by(clock))),
            "rounds": len(times[key].calls),
        }
        for key in calls
    ]
