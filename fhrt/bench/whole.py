"""The whole of a photograph and of a film, and the stages in it, as the main path's own clocks have
them; beside them the peers."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.bench import memory, scenes
from fhrt.bench.cases import Gap, Setup
from fhrt.bench.peers import decode_all_then_process, photo_peers
from fhrt.bench.timing import alternate
from fhrt.detect import DetectFaces
from fhrt.errors import RuntimeMissing
from fhrt.faces import Face, Picture, choose_side
from fhrt.pictures import encode_photo, encode_picture, read_photo
from fhrt.quality.metrics import psnr
from fhrt.restorer import Restorer
from fhrt.video.stream import restore_video

Row = dict[str, Any]
STAGES = ("decode", "detect", "crop", "restore", "paste", "encode")


def restorer_of(setup: Setup, threads: int) -> Restorer:
    """A Restorer that runs as the setup says. Raises as Restorer does."""
    model: str | Path = setup.model if setup.precision == "fp32" else setup.file
    return Restorer(model, device=setup.device, runtime=setup.runtime, threads=threads)


def restores(setup: Setup) -> bool:
    """Whether a Restorer can run it: it makes a face of the same size of a face. (bf16 in OpenVINO
    is no model of its own, and is opened otherwise.)"""
    rounded = setup.runtime == "openvino" and setup.precision == "bf16" and not setup.recipe.file
    return setup.recipe.scale == 1 and not rounded


def photo_rows(setups: Sequence[Setup], threads: int, rounds: int, most: float) -> list[Row]:
    """A JPEG of 1280×720 with four faces, from its bytes to those of the restored one: wall-clock
    percentiles, and the median seconds of each stage. The setups take turns."""
    data = encode_picture(scenes.four_faces(), Path("scene.jpg"))
    stages: dict[str, list[dict[str, float]]] = defaultdict(list)

    def once(key: str, restorer: Restorer) -> Callable[[], object]:
        def call() -> None:
            spent: dict[str, float] = {}
            with_clock = _Clock(spent)
            photo = with_clock("decode", lambda: read_photo(data))
            restored = restorer.restore(photo.picture)
            with_clock("encode", lambda: encode_photo(photo, restored.picture, 1, "JPEG"))
            stages[key].append(spent | restored.seconds)

        return call

    calls = {s.key: once(s.key, restorer_of(s, threads)) for s in setups if restores(s)}
    times = alternate(calls, rounds, most)
    return [
        {
            "kind": "photo",
            "key": f"photo {key}",
            "work": "1280×720 JPEG, four faces",
            **times[key].figures(),
            "stages": {
                stage: float(np.median([spent[stage] for spent in stages[key]])) for stage in STAGES
            },
        }
        for key in calls
    ]


def film_rows(setup: Setup, frames: int, threads: int, rounds: int) -> tuple[list[Row], list[Gap]]:
    """A film of 1280×720 with four faces a frame: fhrt, and every frame decoded into a list first;
    in turn, with the peak memory of each in a process of its own (ONNX Runtime on the CPU)."""
    rows: list[Row] = []
    gaps: list[Gap] = []
    with tempfile.TemporaryDirectory() as folder:
        film, out = Path(folder) / "film.mp4", Path(folder) / "out.mp4"
        scenes.write_film(film, scenes.four_faces(), frames)
        restorer = restorer_of(setup, threads)
        reports: list[dict[str, float]] = []
        calls: dict[str, Callable[[], object]] = {
            "fhrt": lambda: reports.append(restore_video(film, out, restorer).seconds),
            "decode all, then process": lambda: decode_all_then_process(film, out, restorer),
        }
        times = alternate(calls, rounds, warm=1)
        for name, taken in times.items():
            row: Row = {
                "kind": "film" if name == "fhrt" else "peer",
                "key": f"film {name} {setup.key}",
                "work": f"1280×720, {frames} frames, four faces each",
                **taken.figures(),
            }
            if name == "fhrt":
                row["stages"] = {
                    stage: float(np.median([spent[stage] for spent in reports])) / frames
                    for stage in STAGES
                }
            else:
                row |= {"name": name, "how": "the same reader, restorer and writer, in a list"}
                row["times_fhrt"] = row["p50"] / rows[0]["p50"]
            try:
                task = {"film": str(film), "whole": name != "fhrt", "threads": threads}
                row["host_bytes"] = memory.measure(task)["host_bytes"]
            except RuntimeMissing as error:
                gaps.append(Gap(f"peak memory of {row['key']}", str(error)))
            rows.append(row)
    return rows, gaps


def peer_rows(
    setups: Sequence[Setup], threads: int, rounds: int, most: float, compiled: bool
) -> tuple[list[Row], list[Gap]]:
    """Four given faces of 1280×720 restored by fhrt in every runtime and by the peers, in turn, on
    one device. agrees: PSNR in dB of a peer's picture and fhrt's over the four crops, which shows
    that it does the same work."""
    setups = [setup for setup in setups if restores(setup) and setup.precision == "fp32"]
    if not setups:
        return [], []
    first = setups[0]
    picture = scenes.four_faces()
    calls: dict[str, Callable[[], Picture]] = {}
    faces = None
    for setup in setups:
        restorer = restorer_of(setup, threads)
        if faces is None:
            faces = restorer.detect(picture)
            side = choose_side(faces[0].landmarks, 1, restorer.session.sizes)
        restorer.detect = _finding(faces)
        calls[f"fhrt, {setup.runtime}"] = _picture_of(restorer, picture)
    assert faces is not None
    peers, gaps = photo_peers(first.recipe, picture, faces, side, first.device, threads, compiled)
    for peer in peers:
        calls[peer.name] = peer.call
    times = alternate(calls, rounds, most)
    ours = calls[f"fhrt, {first.runtime}"]()
    how = {peer.name: peer.how for peer in peers}
    fastest = min(times[f"fhrt, {setup.runtime}"].figures()["p50"] for setup in setups)
    rows = []
    for name, taken in times.items():
        figures = taken.figures()
        rows.append(
            {
                "kind": "peer",
                "key": f"faces {name} {first.name} {first.device}",
                "name": name,
                "how": how.get(name, "Restorer, the faces given"),
                "work": "1280×720, four given faces",
                **figures,
                "times_fhrt": figures["p50"] / fastest,
                "agrees": min(100.0, psnr(calls[name](), ours)),
            }
        )
    return rows, gaps


def _finding(faces: list[Face]) -> DetectFaces:
    return lambda picture: list(faces)


def _picture_of(restorer: Restorer, picture: Picture) -> Callable[[], Picture]:
    return lambda: restorer.restore(picture).picture


class _Clock:
    """Notes the seconds of a call under a name."""

    def __init__(self, spent: dict[str, float]) -> None:
        self.spent = spent

    def __call__(self, stage: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = call()
        self.spent[stage] = time.perf_counter() - start
        return made
