"""The whole of a photograph and of a film, and the stages in it, as the main path's own clocks have
them; beside them the peers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from fhrt.bench import memory, scenes
from fhrt.bench.cases import Gap, Setup
from fhrt.bench.ceiling import TRIED, fastest_product
from fhrt.bench.counts import count_networks
from fhrt.bench.peers import Peer, Scene, decode_all_then_process, photo_peers
from fhrt.bench.timing import Times, alternate
from fhrt.detect import DetectFaces
from fhrt.errors import RuntimeMissing
from fhrt.faces import Face, Picture, choose_side
from fhrt.pictures import encode_photo, encode_picture, read_photo
from fhrt.quality.metrics import psnr
from fhrt.restorer import Restorer
from fhrt.video.stream import restore_video

Row = dict[str, Any]
PEER_SCENES = ((scenes.HD, 4), ((1920, 1080), 1), ((1920, 1080), 16))
STAGES = ("decode", "detect", "crop", "restore", "paste", "encode")


def restorer_of(setup: Setup, threads: int) -> Restorer:
    """A Restorer that runs as the setup says. Raises as Restorer does."""
    own = setup.precision == "fp32" and setup.runtime != "tensorrt"
    model: str | Path = setup.model if own else setup.file
    return Restorer(model, device=setup.device, runtime=setup.runtime, threads=threads)


def restores(setup: Setup) -> bool:
    """Whether a Restorer can run it: it makes a face of the same size of a face."""
    return setup.recipe.scale == 1


@dataclass
class _Photos:
    """One setup's calls beside a product of matrices of `work` FLOP, and the seconds of the stages
    in each."""

    times: Times
    stages: list[dict[str, float]]
    work: float

    def share(self, stage: str, flops: float) -> float:
        """Of the product's FLOP/s, right before and after."""
        return flops / self.work / self.times.over([spent[stage] for spent in self.stages])

    def part(self, stage: str) -> float:
        """Of the time of `Restorer.restore`."""
        return median(spent[stage] / spent["all"] for spent in self.stages)


def photo_rows(setups: Sequence[Setup], threads: int, rounds: int, most: float) -> list[Row]:
    """A JPEG of 1280×720 with four faces, from its bytes to those of the restored one: wall-clock
    percentiles, and the median seconds of each stage. The setups take turns.

    share: of the machine's ceiling, over all of `Restorer.restore`, thus without the JPEG: `share
    detect` and `share restore`, of its two stages that have networks, by the part of the time that
    they take. Each is of the ceiling at the precision that it computes in. On the CPU."""
    scene = scenes.four_faces()
    data = encode_picture(scene, Path("scene.jpg"))
    setups = [setup for setup in setups if restores(setup)]
    restorers = {setup.key: restorer_of(setup, threads) for setup in setups}

    def once(restorer: Restorer, stages: list[dict[str, float]]) -> None:
        spent: dict[str, float] = {}
        with_clock = _Clock(spent)
        photo = with_clock("decode", lambda: read_photo(data))
        restored = with_clock("all", lambda: restorer.restore(photo.picture))
        with_clock("encode", lambda: encode_photo(photo, restored.picture, 1, "JPEG"))
        stages.append(spent | restored.seconds)

    def beside(precision: str, keys: Sequence[str]) -> dict[str, _Photos]:
        product = fastest_product("cpu", 0, threads, precision)
        stages: dict[str, list[dict[str, float]]] = {key: [] for key in keys}
        calls: dict[str, Callable[[], object]] = {"product": product.call}
        calls |= {key: partial(once, restorers[key], stages[key]) for key in keys}
        times = alternate(calls, rounds, most, beside="product", sure=keys)
        timed = {key: stages[key][-len(times[key].calls) :] for key in keys}
        return {key: _Photos(times[key], timed[key], product.work) for key in keys}

    photos = beside("fp32", list(restorers))
    lowered = [setup.key for setup in setups if setup.multiplies == "bf16"]
    in_bf16 = beside("bf16", lowered) if lowered else {}
    rows = []
    for setup in setups:
        own = photos[setup.key]
        row: Row = {
            "kind": "photo",
            "key": f"photo {setup.key}",
            "work": "1280×720 JPEG, four faces",
            **own.times.figures(),
            "stages": {stage: median(spent[stage] for spent in own.stages) for stage in STAGES},
        }
        if setup.device == "cpu" and setup.precision != "int8":
            flops = count_networks(restorers[setup.key], scene, setup.file)
            restoring = in_bf16.get(setup.key, own)
            shares = {
                "detect": own.share("detect", flops["detect"]),
                "restore": restoring.share("restore", setup.products * flops["restore"]),
            }
            row |= {f"share {stage}": share for stage, share in shares.items()}
            row["share"] = sum(share * own.part(stage) for stage, share in shares.items())
        rows.append(row)
    return rows


def film_rows(
    setup: Setup, frames: int, long: int, threads: int, rounds: int
) -> tuple[list[Row], list[Gap]]:
    """A film of 1280×720 with four faces a frame: fhrt, and every frame decoded into a list first,
    in turn. The peak memory of each, and the seconds again, are those of a film of `long` frames,
    in a process of its own (ONNX Runtime on the CPU)."""
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
        others = [name for name in calls if name != "fhrt"]
        times = alternate(calls, rounds, warm=1, beside="fhrt", sure=others)
        scenes.write_film(film, scenes.four_faces(), long)
        for name, taken in times.items():
            row: Row = {
                "kind": "film" if name == "fhrt" else "peer",
                "key": f"film {name} {setup.key}",
                "work": f"1280×720, {frames} frames, four faces each",
                **taken.figures(),
            }
            if name == "fhrt":
                row["stages"] = {
                    stage: median(spent[stage] for spent in reports) / frames for stage in STAGES
                }
            else:
                row |= {"name": name, "how": "the same reader, restorer and writer, in a list"}
                row["times_fhrt"] = taken.over()
            try:
                task = {"film": str(film), "whole": name != "fhrt", "threads": threads}
                found = memory.measure(task)
                row |= {"host_bytes": found["host_bytes"], "long_seconds": found["seconds"]}
                row["work"] += f"; memory: {long} frames"
            except RuntimeMissing as error:
                gaps.append(Gap(f"peak memory of {row['key']}", str(error)))
            rows.append(row)
    return rows, gaps


def peer_rows(
    setups: Sequence[Setup], threads: int, rounds: int, most: float, compiled: bool
) -> tuple[list[Row], list[Gap]]:
    """The given faces of PEER_SCENES restored by fhrt in every runtime and by the peers, in turn,
    on one device. times_fhrt: over the fastest of ours in the peers' precision, right before and
    after. agrees: PSNR in dB of a picture and that of fhrt in the first runtime, which shows that
    it does the same work."""
    setups = [setup for setup in setups if restores(setup)]
    if not setups:
        return [], []
    first = setups[0]
    restorers = {f"fhrt, {setup.runtime}": restorer_of(setup, threads) for setup in setups}
    ours = [f"fhrt, {s.runtime}" for s in setups if s.multiplies == "fp32"] or list(restorers)
    detect, sizes = restorers[ours[0]].detect, restorers[ours[0]].session.sizes
    peers: list[Peer] | None = None
    gaps: list[Gap] = []
    rows = []
    for (width, height), count in PEER_SCENES:
        picture = scenes.photograph(width, height, count)
        faces = detect(picture)
        scene = Scene(picture, faces, choose_side(faces[0].landmarks, 1, sizes))
        if peers is None:
            peers, gaps = photo_peers(first.recipe, scene, first.device, threads, compiled)
        calls: dict[str, Callable[[], Picture]] = {}
        for name, restorer in restorers.items():
            restorer.detect = _finding(faces)
            calls[name] = _picture_of(restorer, picture)
        calls |= {peer.name: partial(peer.call, scene) for peer in peers}
        fastest = _fastest({name: calls[name] for name in ours})
        others = [name for name in calls if name != fastest]
        times = alternate(calls, rounds, most, beside=fastest, sure=others)
        expected = calls[ours[0]]()
        how = {peer.name: peer.how for peer in peers}
        work = f"{width}×{height}, given faces: {len(faces)}"
        rows += [
            {
                "kind": "peer",
                "key": f"faces {name} {first.name} {first.device} {width}×{height} {len(faces)}",
                "name": name,
                "how": how.get(name, "Restorer, the faces given"),
                "work": work,
                **taken.figures(),
                **({} if name == fastest else {"error": taken.error()}),
                "times_fhrt": 1.0 if name == fastest else taken.over(),
                "agrees": min(100.0, psnr(calls[name](), expected)),
            }
            for name, taken in times.items()
        ]
    return rows, gaps


def _fastest(calls: Mapping[str, Callable[[], object]]) -> str:
    first, *others = calls
    tried = alternate(calls, TRIED, beside=first)
    return min(calls, key=lambda name: tried[name].over() if name in others else 1.0)


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
