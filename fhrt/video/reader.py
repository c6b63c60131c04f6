"""Read a film: its frames decoded, upright and in RGB, between the packets that are only copied."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import cv2
import numpy as np

from fhrt.errors import InputError
from fhrt.faces import Picture
from fhrt.runtime.gpu import find_gpu
from fhrt.runtime.session import parse_device

if TYPE_CHECKING:
    import av
    from av.stream import Stream

    Packet: TypeAlias = av.Packet[Any]

LIMITED, FULL = 1, 2  # AVColorRange: luma 16 to 235, or 0 to 255
BT709, BT601 = 1, 5
# AVColorSpace, as tagged, to the matrices that swscale knows by the same numbers.
MATRICES = {1: BT709, 4: 4, 5: BT601, 6: BT601, 7: 7, 9: 9, 10: 9}
# SWS_BILINEAR | SWS_FULL_CHR_H_INT | SWS_ACCURATE_RND. swscale's default from yuv to RGB truncates:
# it darkens a frame by 1.1 levels of luma, seen as a flicker where frames without a face go through
# untouched. This is right to 0.01, at 6 ms a 720p frame instead of 0.7, in a thread of its own.
EXACT = 2 | 0x2000 | 0x40000
# Beginnings of the names of what NVDEC gives: NV12, P010, P016, P210, …, and 4:4:4 in planes.
FROM_GPU = ("nv", "p0", "p2", "yuv444p")


@dataclass(frozen=True)
class Colour:
    """What the film says about its colours (FFmpeg's numbers; 2, for the range 0: it does not say),
    and how large it is, from which an unsaid matrix is guessed as players do."""

    matrix: int
    range: int
    primaries: int
    transfer: int
    width: int
    height: int

    def convert(self, frame: av.VideoFrame, pixels: str) -> av.VideoFrame:
        """The frame in the pixel format `pixels` and this size; itself if it is so already. yuv is
        read and written with this matrix and range, RGB is always full range."""
        guess = BT709 if self.width >= 1280 or self.height > 576 else BT601
        matrix = MATRICES.get(self.matrix, guess)
        yuv = self.range or LIMITED
        return frame.reformat(
            width=self.width,
            height=self.height,
            format=pixels,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL if frame.format.is_rgb else yuv,
            dst_color_range=FULL if pixels == "rgb24" else yuv,
            interpolation=EXACT,
        )


@dataclass(frozen=True)
class Turn:
    """How a player turns what is stored: swap rows and columns, then mirror left-right, top-bottom.
    `matrix` holds the nine numbers of the display matrix that says so, to be written again."""

    matrix: tuple[int, ...] = ()
    swap: bool = False
    mirror: tuple[bool, bool] = (False, False)

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Turn:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        matrix = tuple(int(value) for value in np.frombuffer(data, np.int32))
        # x' = a·x + c·y, y' = b·x + d·y (libavutil/display.h)
        a, b, _, c, d = matrix[:5]
        swap = abs(b) > abs(a)
        x, y = (c, b) if swap else (a, d)
        return cls(matrix, swap, (x < 0, y < 0))

    def upright(self, picture: Picture) -> Picture:
        return self._mirrored(self._swapped(picture))

    def back(self, picture: Picture) -> Picture:
        return self._swapped(self._mirrored(picture))

    def _swapped(self, picture: Picture) -> Picture:
        # OpenCV: NumPy's copy of a transposed picture takes ten times as long.
        return cv2.transpose(picture).astype(np.uint8, copy=False) if self.swap else picture

    def _mirrored(self, picture: Picture) -> Picture:
        axis = {(True, False): 1, (False, True): 0, (True, True): -1}.get(self.mirror)
        return picture if axis is None else cv2.flip(picture, axis).astype(np.uint8, copy=False)


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame as decoded (`video`, with its time in `pts` and `time_base`) and as the restorer is
    to see it (`picture`, upright, RGB)."""

    video: av.VideoFrame
    picture: Picture
    turn: Turn


class Reader:
    """A film, open for reading. Iterate once: Frames of its first video stream, and the packets of
    its audio and subtitle streams, in the file's order. Cover pictures, further video streams, data
    and attachments are left out. Raises InputError if it cannot be read to its end.

    decoder: cpu; cuda or cuda:N for the video decoder of an NVIDIA GPU, and with a RuntimeWarning
    the CPU where there is none for this film; auto for that decoder where there is one.
    """

    def __init__(self, source: Path, decoder: str = "cpu") -> None:
        from av.codec.context import ThreadType
        from av.stream import Disposition

        self.source = source
        with self._reading():
            self.container = self._open(decoder)
        cover = Disposition.attached_pic
        films = [
            stream for stream in self.container.streams.video if not stream.disposition & cover
        ]
        if not films or films[0].codec_context is None or not films[0].width:
            self.container.close()
            raise InputError(f"{source} has no video that can be decoded; give it a film")
        self.video = films[0]
        self.video.thread_type = ThreadType.AUTO  # several frames at a time
        if self.on_gpu and not self.video.codec_context.is_hwaccel:
            self._stay_on_cpu(f"there is none for {self.video.codec_context.name}")
        self.kept: list[Stream] = [
            stream
            for stream in self.container.streams
            if stream is self.video or stream.type in ("audio", "subtitle")
        ]
        context = self.video.codec_context
        # The yuvj formats are an old way to say full range.
        full = (context.pix_fmt or "").startswith("yuvj")
        self.colour = Colour(
            context.colorspace,
            FULL if full else context.color_range,
            context.color_primaries,
            context.color_trc,
            context.width,
            context.height,
        )
        self.time_base = self.video.time_base or Fraction(1, 90000)
        self.rate = self.video.average_rate or self.video.guessed_rate or Fraction(25)
        self.delay: int | None = None  # of an AVI's decoder, in packets
        self.turn: tuple[int, Turn] | None = None  # of the last frame, with its angle
        self._refuse_a_film_without_its_end()

    def _open(self, decoder: str) -> av.container.InputContainer:
        import av
        from av.codec.hwaccel import HWAccel

        kind, index = parse_device(decoder)
        self.on_gpu = kind == "cuda" or (kind == "auto" and find_gpu(index) is not None)
        self.decoder = decoder
        # "file:", or a name such as "a:b.mp4" would be taken for a protocol.
        path = f"file:{self.source}"
        if not self.on_gpu:
            return av.open(path)
        try:
            return av.open(path, hwaccel=HWAccel("cuda", str(index), allow_software_fallback=True))
        except (av.FFmpegError, OSError) as error:
            container = av.open(path)  # what is wrong with the film is raised again
            here = find_gpu(index) is not None
            why = f"FFmpeg cannot open it: {error.strerror or error}" if here else "there is no GPU"
            self._stay_on_cpu(why)
            return container

    def _stay_on_cpu(self, reason: str) -> None:
        self.on_gpu = False
        if self.decoder != "auto":
            warnings.warn(
                f"{self.source} is decoded on the CPU, not by the video decoder of "
                f"{self.decoder}: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def frames(self) -> int | None:
        """How many there are: as the container counts them, or from its duration; None unknown."""
        seconds = Fraction(self.container.duration or 0, 1_000_000)
        return self.video.frames or round(seconds * self.rate) or None

    def __iter__(self) -> Iterator[Frame | Packet]:
        with self._reading():
            yield from self._items()

    def _items(self) -> Iterator[Frame | Packet]:
        kept = {stream.index for stream in self.kept}
        cut, reached, last = False, Fraction(0), None
        for packet in self.container.demux():
            flush = packet.size == 0 and packet.dts is None
            if not flush:
                time = packet.pts if packet.pts is not None else packet.dts or 0
                reached = max(reached, (time + (packet.duration or 0)) * packet.time_base)
            # A flush packet knows its stream, but its stream_index is 0.
            if packet.stream is not self.video:
                if not flush and packet.stream_index in kept:
                    yield packet
            elif packet.size or flush:  # an empty one would tell the decoder that the film is over
                cut = packet.is_corrupt or (flush and cut)
                for frame in self.video.decode(packet):
                    if self.on_gpu and not frame.format.name.startswith(FROM_GPU):
                        self._stay_on_cpu(f"it does not take {frame.format.name} of this codec")
                    last = frame.pts = self._time(frame, last)
                    turn = self._turn(frame)
                    picture = self.colour.convert(frame, "rgb24").to_ndarray()
                    yield Frame(frame, turn.upright(picture.astype(np.uint8, copy=False)), turn)
        if last is None:
            raise InputError(f"{self.source} has no frame that can be decoded; give it a film")
        start = Fraction(self.container.start_time or 0, 1_000_000)
        # Half a percent and a second: durations in headers are rounded, and some count silence.
        if cut or (reached - start) * 1005 / 1000 + 1 < self._promised():
            raise self._cut_short()

    def _time(self, frame: av.VideoFrame, last: int | None) -> int:
        """When the frame is shown, always later than the one before it. AVI stores no such times,
        and what FFmpeg guesses is out of order with B-frames; but there each packet pushes out one
        frame, some packets later, so that the packets' times less that delay are right."""
        time = frame.pts
        if self.container.format.name == "avi":
            time = frame.dts  # None for those that only the end of the film pushes out
            if time is not None:
                if self.delay is None:
                    self.delay = time - (self.video.start_time or 0)
                time -= self.delay
        if time is None or (last is not None and time <= last):
            return 0 if last is None else last + (frame.duration or 1)
        return time

    def _turn(self, frame: av.VideoFrame) -> Turn:
        """That of the frame before, unless its angle is another. To ask a frame for its side data
        ties it into a cycle of references: hundreds then wait, with their pixels, for the garbage
        collector."""
        if self.turn is None or frame.rotation != self.turn[0]:
            self.turn = frame.rotation, Turn.of(frame)
        return self.turn[1]

    def _promised(self) -> Fraction:
        """The film's length in seconds, as its header has it. That of a cut AVI is estimated from
        what is there, but its count of frames is not."""
        counted = self.video.frames if self.container.format.name == "avi" else 0
        return max(Fraction(self.container.duration or 0, 1_000_000), counted / self.rate)

    def _refuse_a_film_without_its_end(self) -> None:
        """An index that points behind the end of the file: better now than after an hour."""
        for stream in self.kept:
            if len(stream.index_entries):
                entry = stream.index_entries[-1]
                if entry.pos + entry.size > self.container.size:
                    self.container.close()
                    raise self._cut_short()

    def _cut_short(self) -> InputError:
        return InputError(
            f"{self.source} is cut short: it ends before the end of the film that its "
            "header promises; copy or download it again"
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.FFmpegError, OSError) as error:
            raise InputError(
                f"cannot read {self.source}: {error.strerror or error}; is it a film, and complete?"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.container.close()
