"""The bundled detector and a YuNet file, on real pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from fhrt.detect import DetectFaces, decode, merge, open_detector
from fhrt.errors import ModelError, RuntimeMissing, UsageError
from fhrt.faces import Face, Picture, iou

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
YUNET = SHARED / "weights" / "yunet.onnx"
needs_yunet = pytest.mark.skipif(not YUNET.is_file(), reason="../shared is not here")

# The astronaut's face, marked by hand in the 512×512 picture.
BOX = np.array([178, 62, 266, 176.0])
LANDMARKS = np.array([[201, 101], [247, 102], [222, 125], [200, 142], [241, 143.0]])
EYES = 46.0


@pytest.fixture(scope="module")
def detect() -> DetectFaces:
    return open_detector(device="cpu", threads=1)


def overlap(face: Face, box: np.ndarray) -> float:
    return float(iou(face.box[None].astype(float), np.asarray(box, float)[None])[0, 0])


def at(faces: list[Face], box: np.ndarray) -> Face:
    """The one face that lies on the box."""
    found = [face for face in faces if overlap(face, box) > 0.5]
    assert len(found) == 1, [(face.box.round(), face.score) for face in faces]
    return found[0]


def error(face: Face, landmarks: np.ndarray) -> float:
    """Mean distance of the landmarks, over the distance of the eyes."""
    eyes = np.linalg.norm(landmarks[1] - landmarks[0])
    return float(np.linalg.norm(face.landmarks - landmarks, axis=1).mean() / eyes)


def test_a_portrait_has_its_one_face_with_its_landmarks(
    detect: DetectFaces, astronaut: Picture
) -> None:
    faces = detect(astronaut)
    assert len(faces) == 1
    face = faces[0]
    assert overlap(face, BOX) > 0.7 and 0.5 <= face.score <= 1
    assert face.box.shape == (4,) and face.landmarks.shape == (5, 2)
    assert face.box.dtype == face.landmarks.dtype == np.float32
    left, right, nose, left_mouth, right_mouth = face.landmarks
    assert left[0] < nose[0] < right[0] and left_mouth[0] < right_mouth[0]
    assert max(left[1], right[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    assert (low > face.box[:2]).all() and (high < face.box[2:]).all()
    assert error(face, LANDMARKS) < 0.08


@pytest.mark.parametrize("angle", [-30, -15, 15, 30])
def test_a_turned_face_is_found_with_turned_landmarks(
    angle: float, detect: DetectFaces, astronaut: Picture
) -> None:
    matrix = cv2.getRotationMatrix2D((224.0, 120.0), angle, 1)
    picture = cv2.warpAffine(astronaut, matrix, (512, 512), borderMode=cv2.BORDER_REFLECT_101)
    face = at(detect(picture), BOX)
    assert error(face, LANDMARKS @ matrix[:, :2].T + matrix[:, 2]) < 0.12


def test_a_grey_a_dark_and_a_blurred_face_are_found(
    detect: DetectFaces, astronaut: Picture
) -> None:
    grey = cv2.cvtColor(cv2.cvtColor(astronaut, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    dark = (astronaut * 0.4).astype(np.uint8)
    for picture in (grey, dark, cv2.GaussianBlur(astronaut, (0, 0), 3)):
        assert error(at(detect(picture), BOX), LANDMARKS) < 0.12


def test_a_damaged_face_is_found(detect: DetectFaces, damaged: Picture) -> None:
    assert error(at(detect(damaged), BOX), LANDMARKS) < 0.12


@pytest.mark.parametrize("size", [24, 32, 64, 180])
def test_faces_of_many_sizes_are_found_in_their_place(
    size: int, detect: DetectFaces, astronaut: Picture
) -> None:
    side = round(512 * size / 100)
    scale = side / 512
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(astronaut, (side, side), interpolation=how)
    face = at(detect(picture), (BOX + 0.5) * scale - 0.5)
    assert error(face, (LANDMARKS + 0.5) * scale - 0.5) < 0.15


def test_a_face_that_fills_the_picture_is_found(detect: DetectFaces, astronaut: Picture) -> None:
    part = np.ascontiguousarray(astronaut[55:185, 165:280])
    assert error(at(detect(part), BOX - [165, 55, 165, 55]), LANDMARKS - [165, 55]) < 0.12


def test_several_faces_of_a_picture_are_all_found(detect: DetectFaces, astronaut: Picture) -> None:
    scene = np.full((720, 1280, 3), 110, np.uint8)
    places = [(30, 40, 1.0), (500, 300, 0.6), (850, 20, 0.8), (1050, 500, 0.4)]
    part = astronaut[30:230, 130:330]
    for x, y, scale in places:
        side = round(200 * scale)
        scene[y : y + side, x : x + side] = cv2.resize(
            part, (side, side), interpolation=cv2.INTER_AREA
        )
    faces = detect(scene)
    for x, y, scale in places:
        at(faces, (BOX - [130, 30, 130, 30]) * scale + [x, y, x, y])
    assert [face.score for face in faces] == sorted((f.score for f in faces), reverse=True)


@pytest.mark.parametrize("name", ["coffee", "brick", "grass", "page", "gravel", "rocket"])
def test_a_picture_without_a_face_has_none(name: str, detect: DetectFaces) -> None:
    picture = getattr(skimage.data, name)()
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
    assert [round(face.score, 2) for face in detect(np.ascontiguousarray(picture))] == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (33, 7), (31, 2000), (3000, 40)])
def test_odd_shapes_pass_and_hold_no_face(shape: tuple[int, int], detect: DetectFaces) -> None:
    assert detect(np.full((*shape, 3), 120, np.uint8)) == []


def test_the_threshold_decides(astronaut: Picture) -> None:
    strict = open_detector(device="cpu", threads=1, threshold=0.999)
    loose = open_detector(device="cpu", threads=1, threshold=0.05)
    assert strict(astronaut) == []
    scores = [face.score for face in loose(astronaut)]
    assert len(scores) > 1 and min(scores) >= 0.05


@needs_yunet
def test_a_yunet_file_finds_the_face_and_agrees(detect: DetectFaces, astronaut: Picture) -> None:
    ours = at(detect(astronaut), BOX)
    theirs = at(open_detector(YUNET)(astronaut), BOX)
    assert overlap(ours, theirs.box) > 0.4
    apart = np.linalg.norm(ours.landmarks - theirs.landmarks, axis=1)
    assert apart.mean() < 0.12 * EYES
    assert theirs.landmarks[0, 0] < theirs.landmarks[1, 0]  # as seen in the picture


@needs_yunet
def test_a_yunet_file_measures_in_pixels_of_a_large_picture(astronaut: Picture) -> None:
    large = cv2.resize(astronaut, (2048, 2048), interpolation=cv2.INTER_CUBIC)
    face = at(open_detector(YUNET)(large), (BOX + 0.5) * 4 - 0.5)
    assert error(face, (LANDMARKS + 0.5) * 4 - 0.5) < 0.12
    assert open_detector(YUNET)(np.full((90, 70, 3), 50, np.uint8)) == []


def test_a_detector_file_that_is_none_is_a_model_error(tmp_path: Path) -> None:
    text = tmp_path / "yunet.onnx"
    text.write_text("this is no network\n" * 20)
    for path in (text, tmp_path / "missing.onnx", tmp_path):
        with pytest.raises(ModelError, match=path.name) as raised:
            open_detector(path)
        assert "\n" not in str(raised.value)


def test_a_device_that_cannot_be_had_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown device"):
        open_detector(device="gpu")
    with pytest.raises(RuntimeMissing, match="cuda:7"):
        open_detector(device="cuda:7")


def test_answers_of_a_cell_are_decoded_from_its_centre() -> None:
    answers = np.zeros((15, 4, 5), np.float32)
    answers[0, 2, 3] = 0.75
    answers[1:5, 2, 3] = [1, 0.5, 2, 1.5]
    answers[5:, 2, 3] = np.arange(10) / 10
    (row,) = decode(answers, 8, 0.5)
    x, y = 3 * 8 + 3.5, 2 * 8 + 3.5
    assert row[:5].tolist() == [0.75, x - 8, y - 4, x + 16, y + 12]
    assert np.allclose(row[5:].reshape(5, 2), [x, y] + np.arange(10).reshape(5, 2) * 0.8)
    assert decode(answers, 8, 0.8).shape == (0, 15)


def test_overlapping_boxes_are_merged_to_the_best_and_others_stay() -> None:
    found = np.zeros((4, 15), np.float32)
    found[:, 0] = [0.6, 0.9, 0.7, 0.8]
    found[:, 1:5] = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 6, 10, 16]]
    kept = merge(found, 0.4)
    assert kept[:, 0].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert merge(found[:0], 0.4).shape == (0, 15)
