"""Frames over a GPU whose streams are late (late_gpu.py), against the same session on the CPU; and
on a GPU, where there is one."""

from __future__ import annotations

import gc
import inspect
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from late_gpu import (
    LateDriver,
    LateGpu,
    LateSession,
    gpu_standin,
    put_in_place,
    put_library_in_place,
    put_onnxruntime_in_place,
    runtime_cases,
)

import fhrt.runtime.frames
from fhrt.errors import DeviceLost, FhrtError
from fhrt.faces import TEMPLATE, Face, Picture, enlarge
from fhrt.restorer import Restored, Restorer
from fhrt.runtime import cuda
from fhrt.runtime.session import open_session

pytestmark = pytest.mark.skipif(
    int(cv2.__version__.split(".")[0]) < 5, reason="OpenCV 4 samples at 1/32 of a pixel only"
)


class Negative:
    """A session of the host that gives each picture's negative: whatever is not put where it was
    cut out is seen at once."""

    name, scale, sizes, batch_max = "negative", 1, (64, 96), 8
    device, runtime, precision = "cpu", "numpy", "fp32"

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        assert np.isfinite(batch).all()
        return 1 - batch


def faces_of(picture: Picture, count: int, rng: np.random.Generator) -> list[Face]:
    """Faces of 20 to 200 pixels, of any turn, every third with its middle on a border."""
    height, width = picture.shape[:2]
    faces = []
    for number in range(count):
        size, angle = rng.uniform(20, 200), rng.uniform(-np.pi, np.pi)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        centre = rng.uniform(0, 1, 2) * [width, height]
        if number % 3 == 0:
            centre[number % 2] = 0
        landmarks = (TEMPLATE / 512 - 0.5) @ turn * size + centre
        box = np.concatenate([centre - size / 2, centre + size / 2])
        faces.append(Face(box.astype(np.float32), landmarks.astype(np.float32), 0.9))
    return faces


def film(astronaut: Picture, frames: int, sizes: int = 1) -> list[Picture]:
    """Views of a portrait, of one size or of several."""
    shapes = [(150, 201), (111, 256), (256, 111)][:sizes]
    views = []
    for number in range(frames):
        height, width = shapes[number % sizes]
        views.append(np.ascontiguousarray(astronaut[number * 9 :, number * 5 :][:height, :width]))
    return views


def assert_agree(found: list[Restored], expected: list[Restored]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.picture.shape == other.picture.shape and one.faces == other.faces
        apart = np.abs(one.picture.astype(int) - other.picture)
        assert (apart <= 1).mean() >= 0.999, (apart.max(), (apart > 1).mean())


@pytest.fixture
def late(library: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Opens a session on a late GPU, and gives what restores on it and on the CPU."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")

    def start(seed: int = 0, session: Any = None, **options: Any) -> Any:
        session = session or Negative()
        driver = LateDriver(seed)
        put_in_place(monkeypatch, driver)
        on_gpu = LateSession(session, LateGpu(library, driver))

        def run(session: Any, pictures: list[Picture], faces: list[list[Face]]) -> Any:
            monkeypatch.setattr("fhrt.restorer.open_fitting", lambda *_: session)
            known = iter(faces)
            monkeypatch.setattr("fhrt.restorer.open_detector", lambda *_: lambda _: next(known))
            return Restorer(**options).frames(pictures)

        return SimpleNamespace(
            driver=driver,
            session=on_gpu,
            run=run,
            on_gpu=lambda *film: run(on_gpu, *film),
            on_cpu=lambda *film: list(run(session, *film)),
        )

    return start


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("frames", [1, 7])
@pytest.mark.parametrize("count", [0, 1, 4, 20])
def test_faces_are_restored_as_on_the_cpu_with_one_way_up_and_one_down_a_frame(
    count: int, frames: int, scale: int, late: Callable[..., Any], astronaut: Picture
) -> None:
    rng = np.random.default_rng(count)
    pictures = film(astronaut, frames)
    kept = [picture.copy() for picture in pictures]
    faces = [faces_of(picture, count, rng) for picture in pictures]
    here = late(seed=count + frames + scale, scale=scale)
    found = list(here.on_gpu(pictures, faces))
    assert_agree(found, here.on_cpu(pictures, faces))
    assert all(np.array_equal(a, b) for a, b in zip(pictures, kept, strict=True))
    ways = here.driver.ways
    size = pictures[0].nbytes
    if count:
        assert not np.array_equal(found[0].picture, enlarge(pictures[0], scale))
        assert len(ways["up"]) == frames and min(ways["up"]) >= size
        assert ways["down"] == [size * scale**2] * frames
        spent = {stage for result in found for stage in result.seconds}
        assert spent == {"detect", "upload", "restore", "download"}
    else:  # it would only come back as it went
        assert ways == {"up": [], "down": []}


@pytest.mark.parametrize("seed", range(6))
def test_frames_and_faces_of_several_sizes_go_together(
    seed: int, late: Callable[..., Any], astronaut: Picture
) -> None:
    rng = np.random.default_rng(seed)
    pictures = film(astronaut, 7, sizes=3)
    faces = [faces_of(picture, int(rng.integers(0, 5)), rng) for picture in pictures]
    here = late(seed)
    assert_agree(list(here.on_gpu(pictures, faces)), here.on_cpu(pictures, faces))
    sides = {shape[2] for shape in here.session.shapes}
    assert sides == {64, 96} and max(shape[0] for shape in here.session.shapes) <= 8
    assert len(here.driver.ways["up"]) == sum(bool(found) for found in faces)


def test_the_restoring_network_gives_the_same_as_on_the_cpu(
    late: Callable[..., Any], damaged: Picture, restorer: Restorer
) -> None:
    faces = [restorer.detect(damaged)]
    here = late(session=restorer.session)
    found = list(here.on_gpu([damaged], faces))
    assert faces[0] and not np.array_equal(found[0].picture, damaged)
    assert_agree(found, here.on_cpu([damaged], faces))


def test_the_next_frames_go_up_before_a_session_is_asked(
    late: Callable[..., Any], astronaut: Picture
) -> None:
    pictures = film(astronaut, 12)
    faces = [faces_of(picture, 1, np.random.default_rng(0)) for picture in pictures]
    here = late(group=2)
    above: list[int] = []
    session, driver = here.session, here.driver

    class Watching:
        def __getattr__(self, name: str) -> object:
            return getattr(session, name)

        def __call__(self, batch: Any) -> Any:
            above.append(len(driver.ways["up"]))
            return session(batch)

    results = here.run(Watching(), pictures, faces)
    next(results)
    assert above[0] == 4 and len(driver.ways["down"]) == 2
    list(results)
    assert above == [4, 6, 8, 10, 12, 12]
    assert driver.overlap > 0


@pytest.mark.parametrize("event", ["uploaded", "computed", "downloaded"])
def test_an_event_that_is_not_waited_for_is_seen_by_these_tests(
    event: str, late: Callable[..., Any], astronaut: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = film(astronaut, 12)
    faces = [faces_of(picture, 1, np.random.default_rng(0)) for picture in pictures]
    number = ["uploaded", "computed", "downloaded"].index(event)

    def forgetful(function: str, *arguments: Any) -> tuple[Any, ...]:
        waits = {"cuStreamWaitEvent": 1, "cuEventSynchronize": 0}
        if function in waits:
            mark = arguments[waits[function]]
            if mark in marks[number]:
                return ()
        made = call(function, *arguments)
        if function == "cuEventCreate":
            marks[next(turn) % 3].add(made[0])
        return made

    def differs(seed: int) -> bool:
        here = late(seed)
        try:
            found = list(here.on_gpu(pictures, faces))
            assert_agree(found, here.on_cpu(pictures, faces))
        except AssertionError:
            return True
        return False

    call = cuda.call
    marks: list[set[int]] = [set(), set(), set()]
    turn = iter(range(1000))
    assert not any(differs(seed) for seed in range(8))
    monkeypatch.setattr(cuda, "call", forgetful)
    assert any(differs(seed) for seed in range(8))


def test_where_memory_is_short_fewer_frames_go_at_once_and_that_is_said_once(
    late: Callable[..., Any], astronaut: Picture
) -> None:
    pictures = film(astronaut, 9)
    landmarks = (TEMPLATE * (60 / 512) + [50, 40]).astype(np.float32)
    faces = [[Face(np.float32([50, 40, 110, 100]), landmarks, 0.9)]] * 9
    here = late()
    size = 2 * 256 * -(-pictures[0].nbytes // 256)  # of a frame and its result
    crops = 2 * 4 * 3 * 64 * 64  # of a face, cut out and restored
    here.driver.capacity = 2 * 2 * (size + crops) + crops  # two sets of two frames, but not of four
    with pytest.warns(
        RuntimeWarning, match="4 frames do not fit into the memory of cuda:0"
    ) as said:
        found = list(here.on_gpu(pictures, faces))
    assert len(said) == 1
    assert_agree(found, here.on_cpu(pictures, faces))
    assert len(here.driver.ways["up"]) == len(here.driver.ways["down"]) == 9
    assert [shape[0] for shape in here.session.shapes] == [4, 2, 2, 1]
    here.driver.capacity = size // 2
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(FhrtError, match=r"^negative: not even one of the frames fits [^\n]*$"),
    ):
        list(here.on_gpu(pictures, faces))


@pytest.mark.parametrize("sets", [1, 2])
def test_a_frame_at_a_time_goes_on_where_one_set_of_buffers_fits(
    sets: int, late: Callable[..., Any], astronaut: Picture
) -> None:
    pictures = film(astronaut, 5)
    landmarks = (TEMPLATE * (60 / 512) + [50, 40]).astype(np.float32)
    faces = [[Face(np.float32([50, 40, 110, 100]), landmarks, 0.9)]] * 5
    here = late(group=1)
    size = 256 + 2 * 256 * -(-pictures[0].nbytes // 256)  # of a set of buffers
    here.driver.capacity = sets * size + 2 * 4 * 3 * 64 * 64
    assert_agree(list(here.on_gpu(pictures, faces)), here.on_cpu(pictures, faces))


def test_where_memory_is_short_the_batch_halves_and_that_is_said_once(
    late: Callable[..., Any], astronaut: Picture
) -> None:
    pictures = film(astronaut, 5)
    faces = [faces_of(picture, 7, np.random.default_rng(0)) for picture in pictures]
    here = late()
    here.session.limit = 3
    with pytest.warns(RuntimeWarning, match="8 faces of .* do not fit into the memory") as said:
        found = list(here.on_gpu(pictures, faces))
    assert len(said) == 1
    assert_agree(found, here.on_cpu(pictures, faces))
    assert max(shape[0] for shape in here.session.shapes) == 2
    here.session.limit = 0
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(FhrtError, match=r"not even one of the faces of .* fits"),
    ):
        list(here.on_gpu(pictures, faces))


@pytest.mark.parametrize("works", [5, 30, 60, 90])
def test_what_was_finished_before_the_device_was_lost_is_given_and_right(
    works: int, late: Callable[..., Any], astronaut: Picture
) -> None:
    pictures = film(astronaut, 24)
    faces = [faces_of(picture, 1, np.random.default_rng(0)) for picture in pictures]
    here = late()
    here.driver.lost_after = works
    found = []
    with pytest.raises(DeviceLost, match=r"^cuda:0 is lost: cu\w+ gives [^\n]*: start again$"):
        for result in here.on_gpu(pictures, faces):
            found.append(result)
    assert len(found) < 24 and len(found) >= (4 if works > 60 else 0)
    assert_agree(found, here.on_cpu(pictures, faces)[: len(found)])


def test_nothing_is_held_once_nobody_asks_any_more(
    late: Callable[..., Any], astronaut: Picture
) -> None:
    pictures = film(astronaut, 24)
    faces = [faces_of(picture, 2, np.random.default_rng(0)) for picture in pictures]
    here = late()
    driver = here.driver
    results = here.on_gpu(pictures, faces)
    next(results)
    assert driver.blocks and driver.pinned and driver.events and len(driver.queues) == 3
    assert driver.done["cuMemHostAlloc"] == 2  # two sets of buffers
    del results
    gc.collect()
    driver.reach_all()
    assert not driver.blocks and not driver.pinned and not driver.events
    assert len(driver.queues) == 1 and not driver.stack


def test_threads_share_a_gpu(
    late: Callable[..., Any], astronaut: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = film(astronaut, 12, sizes=3)
    faces = [faces_of(picture, 2, np.random.default_rng(n)) for n, picture in enumerate(pictures)]
    here = late()
    monkeypatch.setattr("fhrt.restorer.open_fitting", lambda *_: here.session)
    known = {picture.tobytes(): found for picture, found in zip(pictures, faces, strict=True)}
    detect = lambda picture: known[picture.tobytes()]  # noqa: E731
    monkeypatch.setattr("fhrt.restorer.open_detector", lambda *_: detect)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(Restorer().restore, pictures))
    assert_agree(found, here.on_cpu(pictures, faces))


def test_buffers_are_used_again(late: Callable[..., Any], astronaut: Picture) -> None:
    pictures = film(astronaut, 24)
    faces = [faces_of(picture, 1, np.random.default_rng(0)) for picture in pictures]
    here = late()
    list(here.on_gpu(pictures, faces))
    assert here.driver.done["cuMemHostAlloc"] == 2


@pytest.mark.parametrize(
    "release", [min(gpu_standin.NAMES), max(gpu_standin.NAMES)]
)  # one a library
def test_an_engine_takes_faces_that_never_leave_the_gpu(
    release: str,
    library: Path,
    astronaut: Picture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = LateDriver()
    gpu = LateGpu(library, driver)
    put_library_in_place(monkeypatch, release, driver, gpu)
    folder = runtime_cases.artifact(tmp_path / "restore-tensorrt", release)
    pictures = film(astronaut, 3)
    faces = [faces_of(picture, 2, np.random.default_rng(0)) for picture in pictures]

    def run(*where: str) -> list[Restored]:
        known = iter(faces)
        monkeypatch.setattr("fhrt.restorer.open_detector", lambda *_: lambda _: next(known))
        return list(
            Restorer(where[0], device=where[1], runtime=where[2], threads=1).frames(pictures)
        )

    found = run(str(folder), "cuda:0", "tensorrt")
    assert len(driver.ways["up"]) == len(driver.ways["down"]) == 3
    assert "crop_faces" in gpu.launched and "paste_faces" in gpu.launched
    assert_agree(found, run("restore", "cpu", "onnx"))


def test_onnx_runtime_takes_faces_that_never_leave_the_gpu(
    library: Path, astronaut: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = LateDriver()
    gpu = LateGpu(library, driver)
    opened = put_onnxruntime_in_place(monkeypatch, driver, gpu)
    pictures = film(astronaut, 7)
    faces = [faces_of(picture, 5, np.random.default_rng(n)) for n, picture in enumerate(pictures)]

    def run(device: str) -> list[Restored]:
        known = iter(faces)
        monkeypatch.setattr("fhrt.restorer.open_detector", lambda *_: lambda _: next(known))
        restorer = Restorer("restore", device=device, runtime="onnx", threads=1)
        return list(restorer.frames(pictures))

    found = run("cuda:0")
    (graph,) = opened
    assert sum(graph.batches) == 35 and max(graph.batches) == 8
    assert len(driver.ways["up"]) == len(driver.ways["down"]) == 7
    assert driver.overlap and not driver.done["cuStreamSynchronize"]
    assert_agree(found, run("cpu"))
    graph.says = "Failed to allocate memory for requested buffer of size 1"
    with pytest.warns(RuntimeWarning), pytest.raises(FhrtError, match="not even one of the faces"):
        run_again(monkeypatch, opened, pictures, faces, graph.says)
    with pytest.raises(DeviceLost, match=r"^cuda:0 is lost: CUDA failure 700: [^\n]*start again$"):
        run_again(monkeypatch, opened, pictures, faces, "CUDA failure 700: illegal access; GPU=0")


def run_again(
    patch: pytest.MonkeyPatch, opened: list[Any], pictures: list[Picture], faces: Any, says: str
) -> None:
    """On a GPU whose next run fails."""
    known = iter(faces)
    patch.setattr("fhrt.restorer.open_detector", lambda *_: lambda _: next(known))
    restorer = Restorer("restore", device="cuda:0", runtime="onnx", threads=1)
    opened[-1].says = says
    list(restorer.frames(pictures))


def test_the_late_driver_takes_what_the_real_one_takes() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    own = LateDriver()
    for name in own.functions():
        real = list(inspect.signature(getattr(driver, name)).parameters)
        assert list(inspect.signature(getattr(own, name)).parameters) == real, name
    source = Path(str(fhrt.runtime.frames.__file__)).read_text()
    assert set(re.findall(r'"(cu[A-Z]\w+)"', source)) <= set(own.functions())


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A session over an engine built now, on a GPU."""
    from test_contract import on_gpu

    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    session: Any = on_gpu(["tensorrt", "cuda", "fp32"], tmp_path)
    yield session
    session.close()


def test_on_a_gpu_frames_are_restored_as_on_the_cpu(
    engine: Any, damaged: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = film(damaged, 7, sizes=3)
    rng = np.random.default_rng(0)
    faces = [faces_of(picture, count, rng) for count, picture in enumerate(pictures)]

    def run(session: Any, scale: int) -> list[Restored]:
        known = iter(faces)
        monkeypatch.setattr("fhrt.restorer.open_fitting", lambda *_: session)
        monkeypatch.setattr("fhrt.restorer.open_detector", lambda *_: lambda _: next(known))
        return list(Restorer(scale=scale).frames(pictures))

    for scale in (1, 2):
        assert_agree(run(engine, scale), run(open_session("restore", "cpu", "onnx"), scale))
