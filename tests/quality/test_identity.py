"""Identity: the published cosine, OpenCV's own SFace, and how files are told apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from fhrt.errors import InputError, ModelError, UsageError
from fhrt.faces import TEMPLATE, Picture
from fhrt.quality.identity import Embedder, align, cosine, landmarks_of, normalisation_of
from fhrt.quality.protocols import cases

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
FACES = SHARED / "faces" / "test" / "256"
MOBILEFACENET = SHARED / "weights" / "mobilefacenet_112.onnx"
needs_shared = pytest.mark.skipif(not FACES.is_dir(), reason="../shared is not here")
# of the 512-pixel portrait, by eye
LANDMARKS = np.array([[210, 105], [255, 103], [237, 135], [217, 160], [254, 158]], np.float64)


def tiny(path: Path, length: int = 128, name: str = "input", side: int = 112) -> Path:
    """An ONNX file whose embedding is `length` mixtures of the means of the three colours."""
    weights = np.random.default_rng(0).standard_normal((3, length)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", [name], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, length])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@needs_shared
def test_the_cosine_of_the_damaged_faces_is_the_published_one() -> None:
    embedder = Embedder(MOBILEFACENET, threads=1)
    landmarks = landmarks_of(FACES)
    found = []
    for i, (path, case) in enumerate(cases(FACES, "blind-256")):
        if i % 5 == 0:  # 40 of the 200; all of them give 0.4947
            five = landmarks[path.name]
            found.append(cosine(*embedder.embed([case.baseline, case.truth], [five, five])))
    assert embedder.normalisation == "imagenet"
    assert np.mean(found) == pytest.approx(0.495, abs=0.1)  # 2.6 standard errors of 40 faces
    assert min(found) < 0.4 < max(found)


@pytest.mark.slow
@needs_shared
def test_the_cosine_of_all_damaged_faces_is_the_published_one() -> None:
    embedder = Embedder(MOBILEFACENET)
    landmarks = landmarks_of(FACES)
    found = []
    for path, case in cases(FACES, "blind-256"):
        five = landmarks[path.name]
        found.append(cosine(*embedder.embed([case.baseline, case.truth], [five, five])))
    assert len(found) == 200 and np.mean(found) == pytest.approx(0.495, abs=0.01)


@needs_shared
def test_the_same_face_is_itself_and_another_is_not() -> None:
    embedder = Embedder(MOBILEFACENET, threads=1)
    table = landmarks_of(FACES)
    names = sorted(table)[:4]
    pictures = [np.asarray(Image.open(FACES / name).convert("RGB")) for name in names]
    vectors = embedder.embed(pictures, [table[name] for name in names])
    assert vectors.shape == (4, 128) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alike = cosine(vectors[:, None], vectors[None])
    np.testing.assert_allclose(np.diag(alike), 1, atol=1e-6)
    assert (alike[~np.eye(4, dtype=bool)] < 0.4).all()  # four people


def test_alignment_and_raw_input_are_those_of_opencvs_sface(
    astronaut: Picture, tmp_path: Path
) -> None:
    path = tiny(tmp_path / "face_recognition_sface.onnx", name="data")
    theirs = cv2.FaceRecognizerSF.create(str(path), "")
    bgr = np.ascontiguousarray(astronaut[..., ::-1])
    row = np.concatenate([[0, 0, 1, 1], LANDMARKS.reshape(-1), [1]]).astype(np.float32)[None]
    crop = theirs.alignCrop(bgr, row)
    ours = align(astronaut, LANDMARKS)
    assert np.abs(ours[..., ::-1].astype(int) - crop).mean() < 0.5
    vector = theirs.feature(crop).reshape(-1)
    mine = Embedder(path, threads=1).embed([np.ascontiguousarray(crop[..., ::-1])])[0]
    np.testing.assert_allclose(mine, vector / np.linalg.norm(vector), atol=1e-5)


@pytest.mark.parametrize(
    ("file", "length", "name", "expected", "mean", "deviation"),
    [
        ("w600k_r50.onnx", 512, "input.1", "arcface", [127.5] * 3, [127.5] * 3),
        ("face_recognition_sface_2021dec.onnx", 128, "data", "none", [0] * 3, [1] * 3),
        ("arcfaceresnet100-8.onnx", 512, "data", "none", [0] * 3, [1] * 3),
        (
            "mobilefacenet_112.onnx",
            128,
            "input0",
            "imagenet",
            [123.675, 116.28, 103.53],
            [58.395, 57.12, 57.375],
        ),
    ],
)
def test_each_family_is_told_and_fed_what_it_was_trained_with(
    file: str,
    length: int,
    name: str,
    expected: str,
    mean: list[float],
    deviation: list[float],
    tmp_path: Path,
    astronaut: Picture,
) -> None:
    path = tiny(tmp_path / file, length, name)
    embedder = Embedder(path, threads=1)
    assert embedder.normalisation == expected
    crop = np.ascontiguousarray(astronaut[40:152, 180:292])
    weights = np.random.default_rng(0).standard_normal((3, length)).astype(np.float32)
    vector = (crop.mean((0, 1)) - mean) / deviation @ weights
    np.testing.assert_allclose(
        embedder.embed([crop])[0], vector / np.linalg.norm(vector), atol=1e-4
    )


def test_what_cannot_be_told_must_be_said(tmp_path: Path) -> None:
    path = tiny(tmp_path / "faces.onnx")
    with pytest.raises(UsageError, match="name it: imagenet, arcface, none"):
        Embedder(path)
    assert Embedder(path, "arcface").normalisation == "arcface"
    with pytest.raises(UsageError, match="did you mean 'arcface'"):
        Embedder(path, "arcfase")
    assert normalisation_of(Path("mobilefacenet_arcface.onnx"), "x", 512) == "arcface"


def test_wrong_files_and_wrong_crops_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        Embedder(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match=r"\(n, 3, 112, 112\)"):
        Embedder(tiny(tmp_path / "sface.onnx", side=96))
    embedder = Embedder(tiny(tmp_path / "sface112.onnx"), threads=1)
    with pytest.raises(InputError, match="112×112×3"):
        embedder.embed([np.zeros((256, 256, 3), np.uint8)])
    assert len(embedder.embed([])) == 0


@needs_shared
def test_cosines_are_those_of_the_reference() -> None:
    stored = np.load(SHARED / "reference" / "functions" / "fid_cosine.npz")
    np.testing.assert_allclose(cosine(stored["e1"], stored["e2"]), stored["cosine"], atol=1e-6)


def picture(path: Path, width: int = 256, height: int = 256) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def test_landmarks_come_from_the_nearest_table_and_else_from_the_template(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "256"
    for name in ("a.png", "b.png"):
        picture(folder / name)
    picture(tmp_path / "test" / "512" / "a.png", 512, 512)
    head = "file,split,x0,y0,x1,y1,x2,y2,x3,y3,x4,y4\n"
    row = ",".join(str(v) for v in range(10))
    (tmp_path / "faces.csv").write_text(f"{head}test/256/a.png,test,{row}\n")
    found = landmarks_of(folder)
    assert sorted(found) == ["a.png", "b.png"]
    np.testing.assert_array_equal(found["a.png"], np.arange(10).reshape(5, 2))
    np.testing.assert_allclose(found["b.png"], TEMPLATE / 2)
    # the same name in another folder is another picture
    np.testing.assert_allclose(landmarks_of(tmp_path / "test" / "512")["a.png"], TEMPLATE)
    # resized to half: the pixel grid halves about its corner, not about the first pixel's centre
    half = landmarks_of(folder, side=128)["a.png"]
    np.testing.assert_allclose(half, np.arange(10).reshape(5, 2) / 2 - 0.25)


def test_a_broken_table_and_a_picture_without_a_face_are_input_errors(tmp_path: Path) -> None:
    picture(tmp_path / "wide.png", 300, 200)
    with pytest.raises(InputError, match="not square"):
        landmarks_of(tmp_path)
    (tmp_path / "faces.csv").write_text("file,x0\nwide.png,3\n")
    with pytest.raises(InputError, match="no table of faces"):
        landmarks_of(tmp_path)
