"""Pictures and films with a known number of faces, the same on every machine: scikit-image's
portrait of Eileen Collins (NASA, public domain) on its photograph of a cup."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fhrt.errors import UsageError
from fhrt.faces import Picture
from fhrt.runtime.session import need

FACE = 300  # side of the piece with the face, which is about 110 pixels large in it
HD = (1280, 720)
FOUR = ((30, 20), (420, 380), (700, 30), (960, 400))


def four_faces() -> Picture:
    """1280×720 with four faces of about 110 pixels."""
    return _with_faces(HD, FOUR)


def photograph(width: int, height: int, faces: int) -> Picture:
    """uint8 (height, width, 3) RGB with so many faces of about 110 pixels, side by side. Raises
    UsageError where they do not fit."""
    across, down = width // FACE, height // FACE
    if faces > across * down:
        raise UsageError(f"{faces} faces of {FACE} pixels do not fit into {width}×{height}")
    places = [(x * width // across, y * height // down) for y in range(down) for x in range(across)]
    chosen = np.linspace(0, len(places) - 1, faces).round().astype(int)
    return _with_faces((width, height), tuple(places[i] for i in chosen))


def write_film(path: Path, picture: Picture, frames: int) -> None:
    """An H.264 film at 25 frames a second of the picture, which moves to the left by two pixels a
    frame."""
    import av

    height, width = picture.shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25, options={"crf": "17", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            moved = np.ascontiguousarray(np.roll(picture, -2 * number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, "rgb24")))
        container.mux(stream.encode(None))


def _with_faces(size: tuple[int, int], places: tuple[tuple[int, int], ...]) -> Picture:
    need("skimage", "bench")
    from skimage import data

    picture: Picture = cv2.resize(data.coffee(), size)  # type: ignore[no-untyped-call]
    face = data.astronaut()[0:FACE, 80 : 80 + FACE]  # type: ignore[no-untyped-call]
    for x, y in places:
        picture[y : y + FACE, x : x + FACE] = face
    return picture
