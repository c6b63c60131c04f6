"""How time grows: with the faces of a picture, its size, the length of a film, and with `-j`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.bench import scenes
from fhrt.bench.cases import Setup
from fhrt.bench.timing import alternate
from fhrt.bench.whole import restorer_of
from fhrt.errors import RuntimeMissing
from fhrt.pictures import encode_picture
from fhrt.runtime.cpu import usable_cores
from fhrt.video.stream import restore_video

FACES = (1, 2, 4, 8, 16)
SIZES = ((640, 360), (1280, 720), (1920, 1080), (3840, 2160))
FRAMES = (8, 16, 32, 64)
PHOTOS = 12


def measure(
    setup: Setup, threads: int, rounds: int, quick: bool = False
) -> dict[str, dict[str, Any]]:
    """{name: {axis, points: [[x, seconds], …], slope}}: the median of the first point, and for the
    others so many times that as it took right before and after; with the slope of their line in
    logarithms, 1 where time grows as fast as x. quick: the two lowest points of each alone."""
    points = 2 if quick else None
    restorer = restorer_of(setup, threads)

    def restore(width: int, height: int, faces: int) -> Callable[[], object]:
        return partial(restorer.restore, scenes.photograph(width, height, faces))

    found = {
        "faces": _curve(
            "faces in 1920×1080", {float(n): restore(1920, 1080, n) for n in FACES[:points]}, rounds
        ),
        "size": _curve(
            "megapixels, two faces",
            {w * h / 1e6: restore(w, h, 2) for w, h in SIZES[:points]},
            rounds,
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        scene = scenes.photograph(640, 360, 1)
        films: dict[float, Callable[[], object]] = {}
        for frames in FRAMES[:points]:
            film = place / f"{frames}.mp4"
            scenes.write_film(film, scene, frames)
            films[float(frames)] = partial(restore_video, film, place / "out.mp4", restorer)
        found["length"] = _curve("frames of 640×360, one face each", films, max(3, rounds // 3))
        photos = place / "photos"
        photos.mkdir()
        data = encode_picture(scenes.four_faces(), Path("scene.jpg"))
        for number in range(PHOTOS):
            (photos / f"{number}.jpg").write_bytes(data)
        cores = usable_cores()
        jobs = sorted({1, 2, 4, cores})[:points]
        runs: dict[float, Callable[[], object]] = {
            float(j): partial(_run, photos, place / "out", setup, j) for j in jobs
        }
        found["workers"] = _curve(
            f"fhrt run -j, {PHOTOS} photographs of four faces", runs, max(2, rounds // 5)
        )
    return found


def slope(points: list[list[float]]) -> float:
    """Of the straight line nearest to the logarithms.

    >>> round(slope([[1, 3], [2, 12], [4, 48]]), 6)
    2.0
    """
    x, y = np.log(np.array(points, float)).T
    return float(np.polyfit(x, y, 1)[0])


def _curve(axis: str, calls: dict[float, Callable[[], object]], rounds: int) -> dict[str, Any]:
    first, *others = calls
    named = {str(x): call for x, call in calls.items()}
    times = alternate(named, rounds, warm=1, beside=str(first), sure=list(map(str, others)))
    seconds = float(np.median(times[str(first)].wall))
    points = [[first, seconds], *([x, seconds * times[str(x)].over()] for x in others)]
    return {"axis": axis, "points": points, "slope": slope(points)}


def _run(photos: Path, target: Path, setup: Setup, jobs: int) -> None:
    """The command itself, in a process of its own, from its start to its end."""
    words = ["run", str(photos), "-o", str(target), "-j", str(jobs), "-y"]
    words += ["--model", setup.model, "--runtime", setup.runtime, "--device", setup.device]
    command = [sys.executable, "-m", "fhrt.cli.main", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "FHRT_SCALE": "1"}
    )
    if done.returncode:
        raise RuntimeMissing(f"fhrt run -j {jobs} failed: {done.stderr.strip()[-200:]}")
