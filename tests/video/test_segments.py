"""Segments of a film on several restorers of the host: who gets which, in which order they return,
and what is left of an error."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from fhrt.errors import DeviceLost, UsageError
from fhrt.restorer import Restorer
from fhrt.video.segments import InTurn
from fhrt.video.stream import restore_video
from fhrt.video.writer import Encoding


class Adding:
    """Adds one to each picture. together: a barrier at which every restorer waits before its first
    segment, so that none can be served by another. lost: the picture at which its device fails."""

    def __init__(self, together: threading.Barrier | None = None, lost: int = -1) -> None:
        self.together, self.lost = together, lost
        self.segments: list[list[int]] = []
        self.threads: set[int] = set()

    def frames(self, pictures: Iterable[np.ndarray]) -> Iterator[Any]:
        self.segments.append([])
        self.threads.add(threading.get_ident())
        if self.together and len(self.segments) == 1:
            self.together.wait(10)
        for picture in pictures:
            number = int(picture[0, 0, 0])
            if number == self.lost:
                raise DeviceLost("cuda:1 is lost: start again")
            self.segments[-1].append(number)
            yield SimpleNamespace(picture=picture + 1, faces=(), seconds={})


def numbered(count: int) -> list[np.ndarray]:
    return [np.full((2, 2, 3), number, np.uint8) for number in range(count)]


def numbers(results: Iterable[Any]) -> list[int]:
    return [int(result.picture[0, 0, 0]) for result in results]


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 8, 30, 31])
def test_each_gets_its_segments_in_turn_and_the_results_are_in_order(
    devices: int, count: int
) -> None:
    each = [Adding() for _ in range(devices)]
    assert numbers(InTurn(each, 4).frames(numbered(count))) == list(range(1, count + 1))
    segments = [list(range(i, min(i + 4, count))) for i in range(0, count, 4)]
    assert [restorer.segments for restorer in each] == [
        segments[i::devices] for i in range(devices)
    ]
    assert all(len(restorer.threads) <= 1 for restorer in each)


def test_all_work_at_the_same_time() -> None:
    together = threading.Barrier(3)
    each = [Adding(together) for _ in range(3)]
    assert numbers(InTurn(each, 2).frames(numbered(12))) == list(range(1, 13))


def test_no_more_than_two_segments_a_device_are_taken_ahead() -> None:
    taken = 0

    def pictures() -> Iterator[np.ndarray]:
        nonlocal taken
        for picture in numbered(60):
            taken += 1
            yield picture

    results = InTurn([Adding(), Adding()], 3).frames(pictures())
    next(results)
    assert taken == 12
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fhrt")]


def test_frames_before_a_lost_device_are_given_and_no_thread_is_left() -> None:
    done = []
    with pytest.raises(DeviceLost, match="cuda:1 is lost"):
        for result in InTurn([Adding(), Adding(lost=21)], 4).frames(numbered(60)):
            done.append(result)
    assert numbers(done) == list(range(1, 22))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fhrt")]


def test_what_cannot_be_dealt_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="0 restorers"):
        InTurn([])
    with pytest.raises(UsageError, match="segments of 0 frames"):
        InTurn([Adding()], 0)


def test_two_real_restorers_give_what_one_gives(restorer: Restorer, damaged: np.ndarray) -> None:
    pictures = [np.ascontiguousarray(damaged[:300, 10 * i : 10 * i + 400]) for i in range(5)]
    another = Restorer(device="cpu", runtime="onnx", threads=1)
    found = list(InTurn([restorer, another], 2).frames(pictures))
    for one, expected in zip(found, restorer.frames(pictures), strict=True):
        assert np.array_equal(one.picture, expected.picture) and len(one.faces) == 1


def test_a_film_goes_through_several_restorers(tmp_path: Path) -> None:
    source, target = tmp_path / "source.mkv", tmp_path / "target.mkv"
    with av.open(str(source), "w") as film:
        stream = film.add_stream("ffv1", 25)
        stream.width = stream.height = 32
        stream.pix_fmt = "bgr0"
        for number in range(23):
            rgb = np.full((32, 32, 3), 5 * number, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(rgb)))
        film.mux(stream.encode(None))
    report = restore_video(
        source, target, InTurn([Adding(), Adding()], 4), encoding=Encoding(0, "ultrafast")
    )
    with av.open(str(target)) as film:
        grey = [frame.to_ndarray(format="gray").mean() for frame in film.decode(video=0)]
    assert report.frames == 23
    assert np.abs(np.array(grey) - (5 * np.arange(23) + 1)).max() < 3
