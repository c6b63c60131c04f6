"""Films through `restore_video`, against what PyAV itself reads of the source and of the result."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType

from fhrt.errors import FhrtError, InputError, UsageError
from fhrt.video.reader import Frame, Reader
from fhrt.video.stream import restore_video
from fhrt.video.writer import Encoding

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
CLIPS = SHARED / "video"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")

TALKING = CLIPS / "talking_512x512_30fps_audio.mp4"
ROTATED = CLIPS / "rotated90_film_1280x544_23976fps_audio.mp4"
VARIABLE = CLIPS / "face_then_noface_960x540_vfr_hevc_audio.mov"
OLD_AVI = CLIPS / "hand_occlusion_320x240_25fps_xvid_audio_mp3.avi"
QUICK = Encoding(crf=30, preset="ultrafast")
LOSSLESS = Encoding(crf=0, preset="ultrafast")
UNTAGGED, BT709, LIMITED, FULL = 2, 1, 1, 2


class Identity:
    """Gives every picture back: `batch` at a time, `scale` times as large, with `faces` in it."""

    def __init__(self, scale: int = 1, faces: int = 0, batch: int = 3) -> None:
        self.scale, self.faces, self.batch = scale, faces, batch
        self.seen: list[np.ndarray] = []

    def frames(self, pictures: Iterable[np.ndarray]) -> Iterator[Any]:
        pictures = iter(pictures)
        while batch := list(islice(pictures, self.batch)):
            self.seen += [] if self.seen else batch[:1]
            for picture in batch:
                grown = picture.repeat(self.scale, 0).repeat(self.scale, 1)
                yield SimpleNamespace(
                    picture=grown, faces=(None,) * self.faces, seconds={"restore": 0.5}
                )


def decoded(path: Path, count: int | None = None) -> list[av.VideoFrame]:
    with av.open(str(path)) as film:
        return list(islice(film.decode(video=0), count))


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as film:
        found = [frame.pts * frame.time_base for frame in film.decode(video=0)]
        # What FFmpeg guesses for AVI, which has no such times, is right but out of order.
        return sorted(found) if film.format.name == "avi" else found


def length(path: Path) -> Fraction:
    """Seconds to the end of the last frame."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        return stream.duration * stream.time_base


def copied(path: Path) -> dict[int, list[tuple[Any, ...]]]:
    """Per audio and subtitle stream: pts, dts and duration in seconds, and bytes of all packets."""
    streams: dict[int, list[tuple[Any, ...]]] = {}
    with av.open(str(path)) as film:
        for packet in film.demux():
            if packet.size and packet.stream.type in ("audio", "subtitle"):
                unit = packet.time_base
                streams.setdefault(packet.stream.index, []).append(
                    (packet.pts * unit, packet.dts * unit, packet.duration * unit, bytes(packet))
                )
    return streams


def synthetic(
    path: Path,
    frames: int = 12,
    size: tuple[int, int] = (64, 48),
    pts: Iterable[int] | None = None,
    picture: np.ndarray | None = None,
    turn: tuple[int, bool] | None = None,
    **tags: Any,
) -> Path:
    """A small film, 1/600 s the unit of time, in which `tags` of the codec context are set."""
    stamps = list(pts if pts is not None else range(0, frames * 20, 20))
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", 30, {"crf": "10", "preset": "ultrafast"})
        stream.width, stream.height = size
        stream.time_base = stream.codec_context.time_base = Fraction(1, 600)
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if turn:
            stream.set_display_rotation(turn[0], hflip=turn[1])
        for index, stamp in enumerate(stamps):
            rgb = np.full((size[1], size[0], 3), 60, np.uint8)
            rgb[:, : 1 + index % size[0]] = (200, 120, 40)
            frame = av.VideoFrame.from_ndarray(rgb if picture is None else picture)
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = stamp, Fraction(1, 600)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return path


def nothing_left(folder: Path, *names: str) -> bool:
    """Only `names` in the folder, and no thread of ours alive."""
    alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("fhrt")]
    return not alive and sorted(path.name for path in folder.iterdir()) == sorted(names)


def difficult(name: str) -> Any:
    quick = {TALKING.name, VARIABLE.name, OLD_AVI.name}
    return pytest.param(name, marks=() if name in quick else pytest.mark.slow)


@needs_shared
@pytest.mark.parametrize(
    "name", [difficult(path.name) for path in sorted(CLIPS.glob("*"))] if CLIPS.is_dir() else []
)
def test_a_clip_keeps_its_frames_its_times_and_its_sound(name: str, tmp_path: Path) -> None:
    source, target = CLIPS / name, tmp_path / name
    done = restore_video(source, target, Identity(), encoding=QUICK)
    expected = times(source)
    assert done.frames == len(expected)
    assert times(target) == expected
    assert copied(target) == copied(source)
    assert length(target) == length(source)
    assert nothing_left(tmp_path, name)


@needs_shared
def test_b_frames_of_the_encoder_change_no_time(tmp_path: Path) -> None:
    target = tmp_path / "film.mov"
    restore_video(VARIABLE, target, Identity(), encoding=Encoding(35, "superfast"))
    with av.open(str(target)) as film:
        assert film.streams.video[0].codec_context.has_b_frames
    assert times(target) == times(VARIABLE)


def subtitled(path: Path, codec: str, texts: list[bytes]) -> Path:
    """The talking clip with its sound twice and subtitles, made with PyAV alone."""
    with av.open(str(TALKING)) as talking, av.open(str(path), "w") as film:
        (picture,), (sound,) = talking.streams.video, talking.streams.audio
        video = film.add_stream_from_template(picture)
        tracks = [film.add_stream_from_template(sound) for _ in range(2)]
        for track, language in zip(tracks, ("eng", "deu"), strict=True):
            track.metadata["language"] = language
        tracks[1].disposition = 0
        words = film.add_mux_stream(codec)
        words.time_base = Fraction(1, 1000)
        words.metadata["language"] = "fra"
        for index, text in enumerate(texts):
            packet = av.Packet(text)
            packet.pts = packet.dts = 500 + index * 2000
            packet.duration, packet.time_base, packet.stream = 1500, Fraction(1, 1000), words
            film.mux(packet)
        for packet in talking.demux(picture, sound):
            if packet.dts is None:
                continue
            for stream in tracks if packet.stream is sound else [video]:
                again = av.Packet(bytes(packet))
                again.pts, again.dts, again.duration = packet.pts, packet.dts, packet.duration
                again.time_base, again.is_keyframe = packet.time_base, packet.is_keyframe
                again.stream = stream
                film.mux(again)
    return path


@needs_shared
@pytest.mark.parametrize("suffix, codec", [(".mkv", "subrip"), (".mp4", "mov_text")])
def test_two_sound_tracks_and_subtitles_are_copied(suffix: str, codec: str, tmp_path: Path) -> None:
    texts = [b"one", b"two, longer", b"three"]
    if codec == "mov_text":  # a length, then the text
        texts = [len(text).to_bytes(2, "big") + text for text in texts]
    source = subtitled(tmp_path / f"source{suffix}", codec, texts)
    target = tmp_path / f"target{suffix}"
    restore_video(source, target, Identity(), encoding=QUICK)
    before, after = copied(source), copied(target)
    assert sorted(before) == [1, 2, 3] and len(before[1]) > 600
    assert {text for *_, text in before[3]} >= set(texts)
    assert after == before
    with av.open(str(target)) as film, av.open(str(source)) as original:
        kinds = [(s.type, s.language, int(s.disposition)) for s in film.streams]
        assert kinds == [(s.type, s.language, int(s.disposition)) for s in original.streams]
        assert [kind[1] for kind in kinds[1:]] == ["eng", "deu", "fra"]


@needs_shared
def test_subtitles_that_the_container_cannot_hold_are_refused_before_decoding(
    tmp_path: Path,
) -> None:
    source = subtitled(tmp_path / "source.mkv", "subrip", [b"one"])
    restorer = Identity()
    with pytest.raises(InputError, match=r"\.mp4 cannot hold the subtitle \(srt\).*film\.mkv"):
        restore_video(source, tmp_path / "film.mp4", restorer)
    assert not restorer.seen and nothing_left(tmp_path, "source.mkv")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_variable_rate_and_a_late_start_are_kept(suffix: str, tmp_path: Path) -> None:
    stamps = [30, 50, 70, 115, 116, 300, 301, 600]
    source = synthetic(tmp_path / f"source{suffix}", pts=stamps)
    restore_video(source, tmp_path / f"target{suffix}", Identity(), encoding=QUICK)
    kept = times(tmp_path / f"target{suffix}")
    assert kept == times(source)
    if suffix != ".mkv":  # which rounds to milliseconds already in the source
        assert kept == [Fraction(stamp, 600) for stamp in stamps]


def test_avi_refuses_a_variable_rate(tmp_path: Path) -> None:
    source = synthetic(tmp_path / "source.mp4", pts=[0, 10, 12, 14, 200, 400])
    with pytest.raises(InputError, match=r"variable frame rate.*\.mkv"):
        restore_video(source, tmp_path / "target.avi", Identity(), encoding=QUICK)
    assert nothing_left(tmp_path, "source.mp4")


@pytest.mark.parametrize("suffix", [".webm", ".avi", ".mkv"])
def test_another_container_keeps_the_frames(suffix: str, tmp_path: Path) -> None:
    source = synthetic(tmp_path / "source.mp4")
    target = tmp_path / f"target{suffix}"
    restore_video(source, target, Identity(), encoding=Encoding(20, "superfast"))
    frames = decoded(target)
    assert len(frames) == 12
    assert (PictureType.B in {frame.pict_type for frame in frames}) == (suffix == ".mkv")
    for before, after in zip(decoded(source), frames, strict=True):
        difference = after.to_ndarray().astype(int) - before.to_ndarray()
        assert np.abs(difference).mean() < 3


def test_the_encoder_chooses_its_own_key_frames(tmp_path: Path) -> None:
    source = synthetic(tmp_path / "source.mp4", gop_size=1)
    restore_video(source, tmp_path / "target.mp4", Identity(), encoding=QUICK)
    assert sum(frame.key_frame for frame in decoded(source)) == 12
    assert sum(frame.key_frame for frame in decoded(tmp_path / "target.mp4")) == 1


@pytest.mark.parametrize("faces", [0, 1])
def test_aspect_ratio_and_colour_tags_are_kept(faces: int, tmp_path: Path) -> None:
    tags = {
        "colorspace": BT709,
        "color_range": FULL,
        "color_primaries": 9,
        "color_trc": 16,
        "sample_aspect_ratio": Fraction(4, 3),
    }
    source = synthetic(tmp_path / "source.mp4", **tags)
    restore_video(source, tmp_path / "target.mp4", Identity(faces=faces), encoding=LOSSLESS)
    with av.open(str(tmp_path / "target.mp4")) as film:
        stream = film.streams.video[0]
        found = {name: getattr(stream.codec_context, name) for name in tags}
        assert found == tags
        assert stream.sample_aspect_ratio == Fraction(4, 3)
    # The same numbers, not only the same tags.
    for before, after in zip(decoded(source), decoded(tmp_path / "target.mp4"), strict=True):
        difference = after.to_ndarray().astype(int) - before.to_ndarray()
        assert np.abs(difference[: before.height]).max() <= faces


def test_an_untagged_film_stays_untagged(tmp_path: Path) -> None:
    source = synthetic(tmp_path / "source.mp4")
    restore_video(source, tmp_path / "target.mp4", Identity(faces=1), encoding=QUICK)
    context = av.open(str(tmp_path / "target.mp4")).streams.video[0].codec_context
    assert (context.colorspace, context.color_range) == (UNTAGGED, 0)
    assert (context.color_primaries, context.color_trc) == (UNTAGGED, UNTAGGED)


@needs_shared
def test_an_untouched_frame_keeps_its_pixels_and_a_restored_one_its_brightness(
    tmp_path: Path,
) -> None:
    restore_video(OLD_AVI, tmp_path / "none.mkv", Identity(), encoding=LOSSLESS)
    restore_video(OLD_AVI, tmp_path / "face.mkv", Identity(faces=1), encoding=LOSSLESS)
    source = decoded(OLD_AVI, 40)
    for before, same in zip(source, decoded(tmp_path / "none.mkv", 40), strict=True):
        assert np.array_equal(before.to_ndarray(), same.to_ndarray())
    for before, near in zip(source, decoded(tmp_path / "face.mkv", 40), strict=True):
        difference = near.to_ndarray().astype(float) - before.to_ndarray()
        luma, chroma = difference[: before.height], difference[before.height :]
        assert abs(luma.mean()) < 0.1 and abs(chroma.mean()) < 0.2
        assert np.abs(luma).mean() < 0.5


@needs_shared
def test_a_rotated_clip_is_upright_for_the_restorer_and_rotated_again_in_the_file(
    tmp_path: Path,
) -> None:
    restorer = Identity(faces=1)
    restore_video(ROTATED, tmp_path / "target.mp4", restorer, encoding=QUICK)
    before, after = decoded(ROTATED, 1)[0], decoded(tmp_path / "target.mp4", 1)[0]
    assert before.rotation == after.rotation == -90
    assert (after.width, after.height) == (1280, 544)
    stored = before.to_ndarray(format="rgb24").astype(int)
    upright = np.rot90(stored, before.rotation // 90)  # both count counter-clockwise
    assert restorer.seen[0].shape == (1280, 544, 3)
    assert np.abs(restorer.seen[0] - upright).mean() < 3
    assert np.abs(after.to_ndarray(format="rgb24") - stored).mean() < 6


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_every_orientation_is_undone_and_written_again(
    degrees: int, mirrored: bool, tmp_path: Path
) -> None:
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :24] = 255  # a bright corner, top left
    source = synthetic(tmp_path / "source.mp4", picture=stored, turn=(degrees, mirrored))
    restorer = Identity(faces=1)
    restore_video(source, tmp_path / "target.mp4", restorer, encoding=QUICK)
    expected = np.rot90(stored, degrees // 90)
    expected = expected[:, ::-1] if mirrored else expected
    assert restorer.seen[0].shape == expected.shape
    assert np.abs(restorer.seen[0].astype(int) - expected).mean() < 4
    before, after = decoded(source, 1)[0], decoded(tmp_path / "target.mp4", 1)[0]
    matrices = [frame.side_data.get("DISPLAYMATRIX") for frame in (before, after)]
    if degrees or mirrored:  # a matrix that does nothing is not stored
        assert bytes(matrices[0]) == bytes(matrices[1])
    assert np.abs(after.to_ndarray(format="rgb24").astype(int) - stored).mean() < 4


def test_scale_two_doubles_the_film_and_odd_sizes_are_kept(tmp_path: Path) -> None:
    source = synthetic(tmp_path / "odd.mp4", size=(63, 47), pix_fmt="yuv444p")
    restore_video(source, tmp_path / "same.mp4", Identity(faces=1), encoding=QUICK)
    done = restore_video(source, tmp_path / "double.mp4", Identity(scale=2), encoding=QUICK)
    same, double = decoded(tmp_path / "same.mp4"), decoded(tmp_path / "double.mp4")
    assert (same[0].width, same[0].height, same[0].format.name) == (63, 47, "yuv444p")
    assert (double[0].width, double[0].height, double[0].format.name) == (126, 94, "yuv420p")
    assert len(double) == done.frames == 12


def test_progress_and_report_count_frames_faces_and_seconds(tmp_path: Path) -> None:
    source = synthetic(tmp_path / "source.mp4")
    steps: list[Any] = []
    done = restore_video(
        source, tmp_path / "target.mp4", Identity(faces=2), report=steps.append, encoding=QUICK
    )
    assert [(step.frames, step.total, step.faces) for step in steps] == [
        (n, 12, 2 * n) for n in range(1, 13)
    ]
    assert (done.frames, done.faces, done.frames_with_faces) == (12, 24, 12)
    assert done.seconds["restore"] == 6.0
    assert done.seconds["decode"] > 0 and done.seconds["encode"] > 0


def test_chapters_and_title_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    with (
        av.open(str(synthetic(tmp_path / "plain.mkv"))) as plain,
        av.open(str(source), "w") as film,
    ):
        film.metadata["title"] = "A film"
        chapter = {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000)}
        film.set_chapters([{**chapter, "metadata": {"title": "First"}}])
        stream = film.add_stream_from_template(plain.streams.video[0])
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = stream
                film.mux(packet)
    restore_video(source, tmp_path / "target.mkv", Identity(), encoding=QUICK)
    with av.open(str(tmp_path / "target.mkv")) as film:
        assert film.metadata["title"] == "A film"
        assert [chapter["metadata"]["title"] for chapter in film.chapters()] == ["First"]


def truncated(folder: Path, name: str, options: dict[str, str], share: float) -> Path:
    """A film of 100 noisy frames in the container of the name, of which a share is kept."""
    path = folder / name
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    plain = synthetic(folder / "plain.mkv", frames=300, picture=noise)
    with av.open(str(plain)) as source, av.open(str(path), "w", options=options) as film:
        stream = film.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                film.mux(packet)
    plain.unlink()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


@pytest.mark.parametrize(
    "name, options, share",
    [
        ("index_last.mp4", {}, 0.6),
        ("index_first.mp4", {"movflags": "faststart"}, 0.6),
        ("fragments.mp4", {"movflags": "frag_keyframe"}, 0.61),
        ("matroska.mkv", {}, 0.6),
    ],
)
def test_a_film_cut_short_is_refused_and_nothing_is_left(
    name: str, options: dict[str, str], share: float, tmp_path: Path
) -> None:
    whole = truncated(tmp_path, name, options, 1)
    assert restore_video(whole, tmp_path / f"out_{name}", Identity(), encoding=QUICK).frames == 300
    (tmp_path / f"out_{name}").unlink()
    cut = truncated(tmp_path, name, options, share)
    with pytest.raises(InputError, match=name):
        restore_video(cut, tmp_path / f"out_{name}", Identity(), encoding=QUICK)
    assert nothing_left(tmp_path, name)


@needs_shared
def test_a_cut_avi_is_refused(tmp_path: Path) -> None:
    whole = OLD_AVI.read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(InputError, match=r"cut\.avi"):
        restore_video(tmp_path / "cut.avi", tmp_path / "out.mkv", Identity(), encoding=QUICK)
    assert nothing_left(tmp_path, "cut.avi")


@pytest.mark.parametrize("content", [b"", b"Dear diary, this is not a film.\n" * 40])
def test_an_empty_file_and_a_text_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "source.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"source\.mp4"):
        restore_video(tmp_path / "source.mp4", tmp_path / "target.mp4", Identity())
    assert nothing_left(tmp_path, "source.mp4")


def test_a_sound_file_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as sound:
        stream = sound.add_stream("pcm_s16le", 8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        sound.mux(stream.encode(frame))
    with pytest.raises(InputError, match=r"sound\.wav has no video"):
        restore_video(tmp_path / "sound.wav", tmp_path / "target.mp4", Identity())
    assert nothing_left(tmp_path, "sound.wav")


def test_a_missing_source_an_unknown_suffix_and_a_missing_folder_are_refused(
    tmp_path: Path,
) -> None:
    source = synthetic(tmp_path / "source.mp4")
    with pytest.raises(InputError, match=r"none\.mp4.*No such file"):
        restore_video(tmp_path / "none.mp4", tmp_path / "target.mp4", Identity())
    with pytest.raises(UsageError, match=r"target\.gif.*\.mkv"):
        restore_video(source, tmp_path / "target.gif", Identity())
    with pytest.raises(InputError, match=r"nowhere.*No such file"):
        restore_video(source, tmp_path / "nowhere" / "target.mp4", Identity())
    assert nothing_left(tmp_path, "source.mp4")


@pytest.mark.parametrize("error", [ValueError("broken network"), KeyboardInterrupt()])
def test_an_error_in_mid_film_is_the_one_raised_and_leaves_nothing(
    error: BaseException, tmp_path: Path
) -> None:
    source = synthetic(tmp_path / "source.mp4", frames=200)
    (tmp_path / "target.mp4").write_bytes(b"the film of yesterday")

    def stop(progress: Any) -> None:
        if progress.frames == 60:
            raise error

    with pytest.raises(type(error)) as raised:
        restore_video(source, tmp_path / "target.mp4", Identity(), report=stop, encoding=QUICK)
    assert raised.value is error
    assert nothing_left(tmp_path, "source.mp4", "target.mp4")
    assert (tmp_path / "target.mp4").read_bytes() == b"the film of yesterday"


@pytest.mark.skipif(os.name != "posix", reason="sends itself SIGINT")
def test_an_interrupt_while_the_restorer_waits_for_a_frame_stops_everything(
    tmp_path: Path,
) -> None:
    source = synthetic(tmp_path / "source.mp4", frames=200)

    class Slow(Identity):
        def frames(self, pictures: Iterable[np.ndarray]) -> Iterator[Any]:
            for index, result in enumerate(super().frames(pictures)):
                if index == 20:
                    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
                    threading.Event().wait(10)
                yield result

    with pytest.raises(KeyboardInterrupt):
        restore_video(source, tmp_path / "target.mp4", Slow(), encoding=QUICK)
    assert nothing_left(tmp_path, "source.mp4")


@pytest.mark.parametrize("given", [0, 5, 199])
def test_a_restorer_that_loses_frames_is_found_out(given: int, tmp_path: Path) -> None:
    source = synthetic(tmp_path / "source.mp4", frames=200)

    class Lossy(Identity):
        def frames(self, pictures: Iterable[np.ndarray]) -> Iterator[Any]:
            return islice(super().frames(pictures), given)

    with pytest.raises(FhrtError, match=f"only {given} frames"):
        restore_video(source, tmp_path / "target.mp4", Lossy(), encoding=QUICK)
    assert nothing_left(tmp_path, "source.mp4")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_one_line_and_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    source = synthetic(tmp_path / "source.mp4", frames=200)
    (tmp_path / f".target{suffix}.part").symlink_to("/dev/full")
    with pytest.raises(InputError, match=rf"target\{suffix}: No space left") as raised:
        restore_video(source, tmp_path / f"target{suffix}", Identity(), encoding=QUICK)
    assert "\n" not in str(raised.value)
    assert nothing_left(tmp_path, "source.mp4")


MEMORY = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
from fhrt.video.stream import restore_video
from fhrt.video.writer import Encoding

class Identity:
    def frames(self, pictures):
        for picture in pictures:
            yield SimpleNamespace(picture=picture, faces=(None,), seconds={})

restore_video(Path(sys.argv[1]), Path(sys.argv[2]), Identity(), encoding=Encoding(30, "ultrafast"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_film(tmp_path: Path) -> None:
    peaks = []
    for frames in (100, 1000):
        source = synthetic(tmp_path / f"{frames}.mkv", frames=frames, size=(320, 240))
        command = [sys.executable, "-c", MEMORY, str(source), str(tmp_path / "target.mkv")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.15 * peaks[0]


def test_no_frame_waits_for_the_garbage_collector(tmp_path: Path) -> None:
    """By its count: at 320×240 a hundred frames more or less are hardly seen in the memory."""
    left = []
    for frames in (5, 30):
        source = synthetic(tmp_path / f"{frames}.mkv", frames=frames)
        gc.collect()
        gc.disable()
        try:
            with Reader(source) as reader:
                assert sum(isinstance(item, Frame) for item in reader) == frames
            left.append(gc.collect())
        finally:
            gc.enable()
    assert left[1] <= left[0] + 5, left


def test_a_red_film_stays_red(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[:] = (200, 30, 30)
    source = synthetic(tmp_path / "source.mp4", picture=red)
    restorer = Identity(faces=1)
    restore_video(source, tmp_path / "target.mp4", restorer, encoding=QUICK)
    after = decoded(tmp_path / "target.mp4", 1)[0].to_ndarray(format="bgr24")
    assert np.abs(restorer.seen[0].astype(int) - red).max() <= 6
    assert np.abs(cv2.cvtColor(after, cv2.COLOR_BGR2RGB).astype(int) - red).max() <= 8
