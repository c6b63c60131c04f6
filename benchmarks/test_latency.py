"""The cases of `fhrt bench`, in pytest-benchmark's own tables, files and comparisons.

    pytest benchmarks/test_latency.py --benchmark-json=out.json

What cannot be had here is skipped with the reason. `fhrt bench` measures the same calls in turn,
which pytest-benchmark, one after the other, does not: compare its figures only on a quiet machine.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fhrt.bench import scenes
from fhrt.bench.cases import (
    BATCHES,
    DEVICES,
    MODELS,
    Setup,
    batch_of,
    open_setup,
    setup_of,
    shapes,
)
from fhrt.bench.counts import count_graph
from fhrt.bench.whole import restorer_of, restores
from fhrt.errors import FhrtError
from fhrt.models import PRECISIONS, recipe
from fhrt.pictures import encode_photo, encode_picture, read_photo
from fhrt.runtime.session import RUNTIMES, Session
from fhrt.video.stream import restore_video

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"
ROUNDS = 10
WAYS = [
    (model, runtime, precision, device)
    for model in MODELS
    for runtime in RUNTIMES
    if runtime != "auto"
    for precision in PRECISIONS
    for device in DEVICES
]
CASES = [
    (*way, batch, side)
    for way in WAYS
    for side in sorted({min(recipe(way[0]).sizes), max(recipe(way[0]).sizes)})
    for batch in BATCHES
]
FILMED = [way for way in WAYS if way[0] == MODELS[0] and way[2] == "fp32"]


@cache
def opened(*way: str) -> tuple[Setup, Session] | str:
    """The session of a case, or why there is none."""
    model, runtime, precision, device = way
    try:
        setup = setup_of(model, runtime, precision, device, ARTIFACTS)
        return setup, open_setup(setup)
    except FhrtError as error:
        return str(error)


def must_open(*way: str) -> tuple[Setup, Session]:
    found = opened(*way)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case)))
def test_network(benchmark: Any, case: tuple[Any, ...]) -> None:
    setup, session = must_open(*case[:4])
    batch, side = case[4:]
    assert (batch, side) in shapes(setup, session.batch_max)
    given = batch_of(batch, side)
    benchmark.extra_info |= count_graph(setup.file, given.shape).figures()
    output = benchmark.pedantic(session, (given,), rounds=ROUNDS, warmup_rounds=2)
    assert output.shape == given.shape


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_photo(benchmark: Any, way: tuple[str, ...]) -> None:
    setup, _ = must_open(*way)
    if not restores(setup):
        pytest.skip("a Restorer does not open bf16 in OpenVINO")
    restorer = restorer_of(setup, threads=0)
    data = encode_picture(scenes.four_faces(), Path("scene.jpg"))

    def whole() -> bytes:
        photo = read_photo(data)
        restored = restorer.restore(photo.picture)
        assert len(restored.faces) == 4
        return encode_photo(photo, restored.picture, 1, "JPEG")

    benchmark.pedantic(whole, rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.parametrize("way", FILMED, ids=" ".join)
def test_film(benchmark: Any, way: tuple[str, ...], tmp_path: Path) -> None:
    setup, _ = must_open(*way)
    restorer = restorer_of(setup, threads=0)
    film = tmp_path / "film.mp4"
    scenes.write_film(film, scenes.four_faces(), 12)
    report = benchmark.pedantic(
        lambda: restore_video(film, tmp_path / "out.mp4", restorer), rounds=3, warmup_rounds=1
    )
    assert (report.frames, report.faces) == (12, 48)
