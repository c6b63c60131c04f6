"""A device that is lost in the middle of a film: one line, and the finished part kept."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from fhrt.errors import DeviceLost, RuntimeMissing
from fhrt.video.stream import restore_video
from fhrt.video.writer import Encoding

CLIPS = Path(__file__).resolve().parents[2].parent / "shared" / "video"
TALKING = CLIPS / "talking_512x512_30fps_audio.mp4"
QUICK = Encoding(crf=30, preset="ultrafast")
LOSSLESS = Encoding(crf=0, preset="ultrafast")


class Losing:
    """Gives `count` negatives, in groups of 4, and then loses its device."""

    def __init__(self, count: int) -> None:
        self.count = count

    def frames(self, pictures: Iterable[np.ndarray]) -> Iterator[Any]:
        pictures, done = iter(pictures), 0
        while group := list(islice(pictures, 4)):
            for picture in group:
                if done == self.count:
                    raise DeviceLost("cuda:0 is lost: cuEventSynchronize gives X; start again")
                done += 1
                yield SimpleNamespace(picture=255 - picture, faces=(None,), seconds={})


def film(path: Path, frames: int) -> Path:
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", 25, {"crf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for number in range(frames):
            rgb = np.full((48, 64, 3), 20 + number, np.uint8)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(rgb).reformat(format="yuv444p")))
        made.mux(stream.encode(None))
    return path


def lost(source: Path, target: Path, count: int, encoding: Encoding) -> str:
    with pytest.raises(DeviceLost) as raised:
        restore_video(source, target, Losing(count), encoding=encoding)
    alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("fhrt")]
    assert not alive
    assert isinstance(raised.value, RuntimeMissing) and "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".webm"])
@pytest.mark.parametrize("count", [1, 7, 64, 119])
def test_the_frames_before_are_kept_and_can_be_played(
    count: int, suffix: str, tmp_path: Path
) -> None:
    source, target = film(tmp_path / "source.mkv", 120), tmp_path / f"film{suffix}"
    said = lost(source, target, count, LOSSLESS)
    part = tmp_path / f"film.part{suffix}"
    assert said == (
        f"cuda:0 is lost: cuEventSynchronize gives X; start again; {count} frames are in {part}"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [part.name, "source.mkv"]
    with av.open(str(part)) as made:
        grey = [frame.to_ndarray(format="gray").mean() for frame in made.decode(video=0)]
    assert len(grey) == count
    assert np.abs(np.array(grey) - (235 - np.arange(count))).max() < 2


def test_without_a_finished_frame_nothing_is_left(tmp_path: Path) -> None:
    source = film(tmp_path / "source.mkv", 20)
    assert lost(source, tmp_path / "film.mp4", 0, QUICK).endswith("start again")
    assert [path.name for path in tmp_path.iterdir()] == ["source.mkv"]


def test_a_film_of_before_is_not_overwritten_by_a_part(tmp_path: Path) -> None:
    source, target = film(tmp_path / "source.mkv", 20), tmp_path / "film.mp4"
    target.write_bytes(b"the film of yesterday")
    lost(source, target, 5, QUICK)
    assert target.read_bytes() == b"the film of yesterday"


@pytest.mark.skipif(not TALKING.is_file(), reason="../shared is not here")
def test_the_part_has_its_sound(tmp_path: Path) -> None:
    lost(TALKING, tmp_path / "film.mp4", 60, QUICK)
    lengths: dict[str, Fraction] = {}
    with av.open(str(tmp_path / "film.part.mp4")) as made:
        for packet in made.demux():
            if packet.size:
                end = (packet.pts + packet.duration) * packet.time_base
                lengths[packet.stream.type] = max(end, lengths.get(packet.stream.type, end))
    assert lengths["video"] == 2 and abs(lengths["audio"] - 2) < 0.75
