"""Faces carried between detections, against faces of known ways and against detecting always."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from fhrt.carry import carried, follow, match
from fhrt.errors import UsageError
from fhrt.faces import TEMPLATE, Face, Picture, iou
from fhrt.restorer import Restorer

POINTS = TEMPLATE / 512 - 0.5


def face(x: float, y: float, size: float = 100, score: float = 0.9) -> Face:
    middle = np.array([x, y])
    box = np.concatenate([middle - size / 2, middle + size / 2])
    return Face(box.astype(np.float32), (POINTS * size + middle).astype(np.float32), score)


def places(faces: list[Face]) -> list[tuple[float, float]]:
    return [tuple(((f.box[:2] + f.box[2:]) / 2).round(2).tolist()) for f in faces]


class Detector:
    """Finds a face that moves and grows evenly from picture to picture; each holds its number."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, picture: Picture) -> list[Face]:
        self.asked.append(number := int(picture[0, 0, 0]))
        return [face(100 + 1.5 * number, 80 - number, 60 + number)]


def numbered(count: int) -> list[Picture]:
    return [np.full((4, 4, 3), number, np.uint8) for number in range(count)]


@pytest.mark.parametrize("every", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 11, 13])
def test_a_face_that_moves_evenly_is_where_detection_would_find_it(every: int, count: int) -> None:
    pictures, detector = numbered(count), Detector()
    found = list(follow(pictures, detector, every))
    assert [picture[0, 0, 0] for picture, _ in found] == list(range(count))
    expected = {*range(0, count, every), count - 1} if count else set()
    assert set(detector.asked) == expected and len(detector.asked) == len(expected)
    for picture, faces in found:
        (one,), (other,) = faces, Detector()(picture)
        assert np.abs(one.box - other.box).max() < 1e-3
        assert np.abs(one.landmarks - other.landmarks).max() < 1e-3


def test_no_more_pictures_are_held_back_than_lie_between_two_detections() -> None:
    pulled = 0

    def pictures() -> Iterator[Picture]:
        nonlocal pulled
        for picture in numbered(12):
            pulled += 1
            yield picture

    ahead = [pulled - done for done, _ in enumerate(follow(pictures(), Detector(), 4), start=1)]
    assert ahead == [0, 3, 2, 1, 0, 3, 2, 1, 0, 2, 1, 0]


def test_a_face_of_one_detection_alone_stays_where_it_is_up_to_the_middle() -> None:
    gone, new, kept = face(50, 50), face(400, 50), face(200, 200)
    pictures = carried([gone, kept], [face(210, 200), new], 3)
    assert [places(faces) for faces in pictures] == [
        [(202.5, 200), (50, 50)],
        [(205, 200), (50, 50)],
        [(207.5, 200), (400, 50)],
    ]
    assert [places(faces) for faces in carried([gone], [], 4)] == [[(50, 50)]] * 2 + [[]] * 2
    assert [places(faces) for faces in carried([], [new], 4)] == [[]] * 2 + [[(400, 50)]] * 2
    assert carried([], [], 2) == [[], []]
    assert carried([gone], [new], 0) == []


def test_two_faces_that_pass_each_other_keep_their_own_ways() -> None:
    before, after = [face(100, 100), face(100, 230)], [face(130, 225), face(130, 105)]
    assert match(before, after) == [(0, 1), (1, 0)]
    (middle,) = carried(before, after, 1)
    assert places(middle) == [(115, 102.5), (115, 227.5)]


def test_of_two_that_overlap_one_the_nearer_is_it() -> None:
    assert match([face(100, 100)], [face(130, 100), face(110, 100)]) == [(0, 1)]
    assert match([face(100, 100), face(105, 100)], [face(106, 100)]) == [(1, 0)]
    assert match([face(100, 100)], [face(160, 100)]) == []  # an IoU of 1/4


def test_overlaps_are_those_of_counted_pixels() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 60, (12, 2, 2)), 1).reshape(12, 4)
    masks = np.zeros((12, 60, 60), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = True
    shared = (masks[:5, None] & masks[None, 5:]).sum((2, 3))
    either = (masks[:5, None] | masks[None, 5:]).sum((2, 3))
    assert np.allclose(iou(corners[:5], corners[5:]), shared / np.maximum(either, 1))
    assert shared.any() and not shared.all()


def moving(astronaut: Picture, frames: int) -> list[Picture]:
    """A portrait that sways, turns and grows as before a hand-held camera, 25 frames a second."""
    pictures = []
    for number in range(frames):
        time = number / 25
        angle = np.radians(6 * np.sin(2 * np.pi * 0.7 * time))
        zoom = 0.9 + 0.1 * np.sin(2 * np.pi * 0.5 * time)
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        goal = np.array([160 + 40 * np.sin(2 * np.pi * 0.6 * time), 130 + 15 * np.sin(8 * time)])
        shift = goal - turn @ np.array([222.0, 122.0])
        matrix = np.concatenate([turn, shift[:, None]], 1)
        pictures.append(cv2.warpAffine(astronaut, matrix, (320, 256)))
    return pictures


@pytest.mark.parametrize("every, most", [(2, 0.01), (4, 0.03)])
def test_carried_landmarks_are_near_those_of_detecting_always(
    every: int, most: float, astronaut: Picture, restorer: Restorer
) -> None:
    pictures = moving(astronaut, 21)
    always = [restorer.detect(picture) for picture in pictures]
    apart = []
    for expected, (_, faces) in zip(always, follow(pictures, restorer.detect, every), strict=True):
        assert len(faces) == len(expected) == 1
        eyes = np.hypot(*(expected[0].landmarks[1] - expected[0].landmarks[0]))
        apart.append(np.abs(faces[0].landmarks - expected[0].landmarks).mean() / eyes)
    assert np.mean(apart) < most


def test_a_restorer_that_looks_at_every_third_frame_restores_all_of_them(
    astronaut: Picture, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = moving(astronaut, 7)
    asked = 0
    detect = restorer.detect

    def counting(picture: Picture) -> list[Face]:
        nonlocal asked
        asked += 1
        return detect(picture)

    monkeypatch.setattr(restorer, "detect", counting)
    monkeypatch.setattr(restorer, "every", 3)
    results = list(restorer.frames(pictures))
    assert asked == 3 and len(results) == 7
    for picture, result in zip(pictures, results, strict=True):
        assert len(result.faces) == 1 and not np.array_equal(result.picture, picture)
    with pytest.raises(UsageError, match=r"^every 0 is less than 1"):
        Restorer(every=0)
