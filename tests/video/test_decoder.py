"""Which decoder reads a film: what is said where there is no NVDEC, and on a GPU that its frames
are those of the CPU, bit for bit."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest

from fhrt.errors import InputError, UsageError
from fhrt.faces import Picture
from fhrt.runtime.gpu import find_gpu
from fhrt.video.reader import Frame, Reader
from fhrt.video.stream import restore_video

REQUIRED = os.environ.get("FHRT_REQUIRE") == "gpu"
without_gpu = pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")


def film(path: Path, picture: Picture, codec: str, pixels: str, frames: int = 60) -> Path:
    """A view that moves over a portrait and turns, in `frames` frames, with B-frames where the
    encoder makes them."""
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, 25)
        stream.width, stream.height, stream.pix_fmt = 320, 192, pixels
        for number in range(frames):
            turn = cv2.getRotationMatrix2D((256, 256), 2 * number, 0.7)
            turn[:, 2] -= [100 - number, 160]
            view = cv2.warpAffine(picture, turn, (320, 192), borderMode=cv2.BORDER_REFLECT)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(view).reformat(format=pixels)))
        made.mux(stream.encode(None))
    return path


def hashes(reader: Reader, count: int | None = None) -> list[str]:
    frames = (item for item in reader if isinstance(item, Frame))
    return [hashlib.sha256(frame.picture).hexdigest() for frame in islice(frames, count)]


@without_gpu
def test_without_a_gpu_one_warning_and_the_frames_of_the_cpu(
    astronaut: Picture, tmp_path: Path
) -> None:
    source = film(tmp_path / "film.mp4", astronaut, "libx264", "yuv420p")
    with pytest.warns(
        RuntimeWarning, match="not by the video decoder of cuda: there is no GPU"
    ) as said:
        reader = Reader(source, "cuda")
        found = hashes(reader)
    assert len(said) == 1 and "\n" not in str(said[0].message) and not reader.on_gpu
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found == hashes(Reader(source)) == hashes(Reader(source, "auto"))
    assert len(set(found)) == 60


def test_a_codec_that_no_gpu_decodes_is_decoded_on_the_cpu(
    astronaut: Picture, tmp_path: Path
) -> None:
    source = film(tmp_path / "film.mkv", astronaut, "ffv1", "yuv420p", 5)
    with pytest.warns(RuntimeWarning, match=r"film.mkv is decoded on .*: there is none for ffv1$"):
        reader = Reader(source, "cuda:0")
    assert not reader.on_gpu
    assert hashes(reader) == hashes(Reader(source, "cpu"))
    with warnings.catch_warnings():  # who asked for what is there is not told of what is not
        warnings.simplefilter("error")
        assert not Reader(source, "auto").on_gpu


def test_frames_that_come_from_the_cpu_after_all_are_told_of_once(
    astronaut: Picture, tmp_path: Path
) -> None:
    source = film(tmp_path / "film.mp4", astronaut, "libx264", "yuv420p", 5)
    reader = Reader(source)
    reader.on_gpu, reader.decoder = True, "cuda"  # as where NVDEC refuses a profile
    with pytest.warns(RuntimeWarning, match="it does not take yuv420p of this codec") as said:
        assert len(hashes(reader)) == 5
    assert len(said) == 1 and not reader.on_gpu


def test_a_film_that_cannot_be_read_is_refused_as_ever(tmp_path: Path) -> None:
    text = tmp_path / "film.mp4"
    text.write_text("no film")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=r"film\.mp4"):
            Reader(text, "cuda")
        with pytest.raises(InputError, match=r"none\.mp4"):
            Reader(tmp_path / "none.mp4", "cuda")
        with pytest.raises(UsageError, match="unknown device 'gpu'"):
            Reader(text, "gpu")


@without_gpu
def test_a_film_is_restored_with_either_decoder(astronaut: Picture, tmp_path: Path) -> None:
    source = film(tmp_path / "film.mp4", astronaut, "libx264", "yuv420p", 9)

    class Nothing:
        def frames(self, pictures: Iterable[Picture]) -> Iterator[Any]:
            for picture in pictures:
                yield SimpleNamespace(picture=picture, faces=(), seconds={})

    with pytest.warns(RuntimeWarning, match="decoded on the CPU"):
        done = restore_video(source, tmp_path / "target.mp4", Nothing(), decoder="cuda")
    assert done.frames == 9


@pytest.mark.parametrize(
    "pixels, surface, size",
    [
        ("yuv420p", "nv12", (321, 193)),
        ("yuv420p", "nv12", (1280, 720)),
        ("yuv420p10le", "p010le", (320, 193)),  # swscale reads or writes odd widths wrongly
        ("yuv420p10le", "p010le", (1280, 720)),
    ],
)
def test_a_surface_of_nvdec_becomes_the_rgb_of_the_planes(
    pixels: str, surface: str, size: tuple[int, int], astronaut: Picture, tmp_path: Path
) -> None:
    """What makes hashes of the two decoders comparable: only the layout of the samples differs."""
    source = film(tmp_path / "film.mkv", astronaut, "ffv1", "yuv420p", 1)
    colour = Reader(source).colour
    picture = cv2.resize(astronaut, size, interpolation=cv2.INTER_AREA)
    planes = av.VideoFrame.from_ndarray(picture).reformat(format=pixels)
    both = planes.reformat(format=surface)
    colour = type(colour)(**{**vars(colour), "width": size[0], "height": size[1]})
    made = [colour.convert(frame, "rgb24").to_ndarray() for frame in (planes, both)]
    assert np.array_equal(*made) and made[0].std() > 10


CODECS = [
    ("libx264", "yuv420p", "film.mp4"),
    ("libx265", "yuv420p", "film.mp4"),
    ("libx265", "yuv420p10le", "film.mkv"),
    ("libvpx-vp9", "yuv420p", "film.webm"),
]


@pytest.mark.parametrize("codec, pixels, name", CODECS)
def test_every_frame_of_nvdec_has_the_hash_that_it_has_on_the_cpu(
    codec: str, pixels: str, name: str, astronaut: Picture, tmp_path: Path
) -> None:
    """H.264, HEVC and VP9 say what comes out to the bit; a frame that is read before it is there
    shows as another hash."""
    if find_gpu() is None:
        if REQUIRED:
            pytest.fail("FHRT_REQUIRE=gpu: there is no NVIDIA GPU, or no driver for it")
        pytest.skip("there is no NVIDIA GPU, or no driver for it")
    source = film(tmp_path / name, astronaut, codec, pixels, 200)
    expected = hashes(Reader(source, "cpu"))
    for _ in range(3):
        reader = Reader(source, "cuda:0")
        assert hashes(reader) == expected and reader.on_gpu
