"""Write a film: encode its frames, copy its sound and subtitles, and show nothing half-written."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fhrt.errors import InputError, UsageError
from fhrt.faces import Picture
from fhrt.video.reader import Frame, Reader

if TYPE_CHECKING:
    from av.stream import Stream

    from fhrt.video.reader import Packet

FORMATS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
}
# What the new video stream may take over from the old one; its bit rates and encoder are no longer
# true. The muxer writes the brands itself.
VIDEO_METADATA = {"language", "title", "handler_name", "creation_time"}
NOT_METADATA = {"major_brand", "minor_version", "compatible_brands", "encoder"}


@dataclass(frozen=True)
class Encoding:
    """How the film is encoded with libx264. At crf 17 a difference is hard to see, so that what was
    restored stays; veryfast takes 12 ms of a core for a 720p frame where medium takes 27."""

    crf: int = 17
    preset: str = "veryfast"

    def codec(self, form: str) -> tuple[str, dict[str, str]]:
        """The encoder and its options for a container."""
        if form == "webm":  # which holds no H.264; "b": "0" makes crf mean constant quality
            return "libvpx-vp9", {
                "crf": "24",
                "b": "0",
                "deadline": "realtime",
                "cpu-used": "5",
                "row-mt": "1",
            }
        options = {"crf": str(self.crf), "preset": self.preset}
        if form == "avi":  # which has no presentation times, so that B-frames would come too early
            options["bf"] = "0"
        return "libx264", options


DEFAULT = Encoding()


class Writer:
    """A film being written to `.<name>.part` beside the target, which `commit` puts in its place;
    without it nothing is left behind. Audio and subtitles of the reader's film are copied packet by
    packet. UsageError: a suffix that is no container we write. InputError: a target that cannot be
    written, or a container that cannot hold what is to be copied into it.

    Matroska and WebM count milliseconds, so that times from other containers are rounded to them.
    """

    def __init__(self, target: Path, reader: Reader, encoding: Encoding) -> None:
        import av

        form = FORMATS.get(target.suffix.lower())
        if form is None:
            raise UsageError(
                f"{target} is no film that can be written; name it {'  '.join(FORMATS)}"
            )
        self.target, self.reader = target, reader
        self.part = target.with_name(f".{target.name}.part")
        self.early: list[Packet] = []  # packets before the first frame, whose size the header needs
        self.started = False
        self.last: int | None = None
        # AVI is a row of frames at a constant rate; everywhere else the source's own clock serves.
        self.time_base = 1 / reader.rate if form == "avi" else reader.time_base
        with self._writing():
            self.part.open("wb").close()
        try:
            self.container = av.open(
                f"file:{self.part}", "w", format=form, container_options=_exact_edits(form, reader)
            )
            self.container.metadata.update(_without(NOT_METADATA, reader.container.metadata))
            self.container.set_chapters(reader.container.chapters())
            codec, options = encoding.codec(form)
            self.copies: dict[int, Stream] = {}
            for stream in reader.kept:
                if stream is reader.video:
                    # Any: what add_stream returns follows from a name known only here.
                    self.video: Any = self.container.add_stream(codec, reader.rate, options)
                else:
                    self.copies[stream.index] = self._copy(stream)
        except BaseException:
            self.part.unlink(missing_ok=True)
            raise

    def _copy(self, stream: Stream) -> Stream:
        try:
            copy = self.container.add_stream_from_template(stream)
        except ValueError as error:
            name = getattr(stream.codec_context, "name", "unknown")
            suffix = self.target.suffix
            other = ".mkv" if suffix != ".mkv" else self.reader.source.suffix
            raise InputError(
                f"{suffix} cannot hold the {stream.type} ({name}) of "
                f"{self.reader.source}; write {self.target.stem}{other}"
            ) from error
        copy.metadata.update(stream.metadata)
        copy.disposition = stream.disposition
        return copy

    def packet(self, packet: Packet) -> None:
        """Copy a packet of the reader."""
        if not self.started:
            self.early.append(packet)
            return
        copy = self.copies[packet.stream_index]
        if copy.name == "mov_text" and bytes(packet) == b"\0\0":
            return  # the gap between two lines, for which MP4's muxer writes such a packet itself
        packet.stream = copy
        with self._writing():
            self.container.mux_one(packet)

    def frame(self, frame: Frame, picture: Picture | None) -> None:
        """Encode a frame: with its picture, upright, RGB, or None for just as it was decoded."""
        if picture is None:
            video, size = frame.video, self.reader.colour
        else:
            import av

            stored = np.ascontiguousarray(frame.turn.back(picture))
            video = av.VideoFrame.from_numpy_buffer(stored, "rgb24")
            size = replace(self.reader.colour, width=video.width, height=video.height)
        with self._writing():
            if not self.started:
                # An untagged film that grows from SD to HD is read with another matrix from now on:
                # the size decides that, here as in players.
                self.colour = size
                self._start(frame)
            video = self.colour.convert(video, self.video.pix_fmt)
            video.pts = self._time(frame)
            video.time_base = self.time_base
            source = frame.video
            video.duration = round((source.duration or 0) * self.reader.time_base / self.time_base)
            video.pict_type = 0  # the source's would tell the encoder where to put its key frames
            self.container.mux(self.video.encode(video))

    def _start(self, first: Frame) -> None:
        """The header, which needs the size that the restorer gave to the first frame."""
        from av.codec.context import Flags

        context, colour = self.video.codec_context, self.colour
        context.width, context.height = colour.width, colour.height
        even = colour.width % 2 == 0 and colour.height % 2 == 0
        context.pix_fmt = "yuv420p" if even else "yuv444p"
        # 0 is RGB, which the result is not; 2 says nothing.
        context.colorspace = colour.matrix or 2
        context.color_range = colour.range
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        if self.reader.video.sample_aspect_ratio:
            context.sample_aspect_ratio = self.reader.video.sample_aspect_ratio
        context.time_base = self.video.time_base = self.time_base
        context.flags |= Flags.frame_duration  # or the last frame would last as long as the average
        if first.turn.matrix:
            self.video.set_display_matrix(first.turn.matrix)
        source = self.reader.video
        self.video.metadata.update(
            {key: value for key, value in source.metadata.items() if key in VIDEO_METADATA}
        )
        self.video.disposition = source.disposition
        self.container.start_encoding()
        self.started = True
        for packet in self.early:
            self.packet(packet)
        self.early.clear()

    def _time(self, frame: Frame) -> int:
        time = round((frame.video.pts or 0) * self.reader.time_base / self.time_base)
        if self.last is not None and time <= self.last:
            raise InputError(
                f"{self.target.suffix} cannot hold the variable frame rate of "
                f"{self.reader.source}; write {self.target.stem}.mkv"
            )
        self.last = time
        return time

    def finish(self) -> None:
        """Encode what the encoder still holds, and write the index."""
        with self._writing():
            self.container.mux(self.video.encode(None))
            self.container.close()

    def commit(self, target: Path | None = None) -> None:
        """Put the finished film in its place, or in another one beside it, in one step."""
        with self._writing():
            with self.part.open("rb+") as file:
                os.fsync(file.fileno())
            self.part.replace(target or self.target)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise InputError(
                f"cannot write {self.target}: {error.strerror or error}; "
                "look at its folder, and at the space left there"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import av

        with suppress(av.FFmpegError, OSError):  # a full disk says so again
            self.container.close()
        self.part.unlink(missing_ok=True)


def _exact_edits(form: str, reader: Reader) -> dict[str, str]:
    """MP4 writes when a track starts in units of the movie, by default a millisecond. Take a unit
    that every track's own is a multiple of, if there is one."""
    if form not in ("mp4", "mov"):
        return {}
    unit = math.lcm(*(Fraction(stream.time_base or 1).denominator for stream in reader.kept))
    return {"movie_timescale": str(unit)} if 1000 <= unit < 2**31 else {}


def _without(keys: set[str], metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key not in keys}
