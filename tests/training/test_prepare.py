"""`fhrt data`: photographs become aligned faces, split by person; sheets show the damage."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fhrt.cli.main import run_app
from fhrt.detect import DetectFaces, open_detector
from fhrt.errors import InputError, UsageError
from fhrt.faces import TEMPLATE, Face, Picture, crop_matrix
from fhrt.training import prepare as preparing
from fhrt.training.data import find_faces
from fhrt.training.layouts import Source
from fhrt.training.people import partition, people
from fhrt.training.prepare import find, main_face, outside, prepare, sharpness

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


def blind_eyes(picture: Picture) -> list[Face]:
    raise AssertionError("landmarks were given: nothing is to be detected")


@pytest.fixture(scope="session")
def detect() -> DetectFaces:
    pytest.importorskip("onnxruntime", reason="fhrt[cpu] is not installed")
    return open_detector(device="cpu", threads=1)


@pytest.fixture(scope="session")
def landmarks(detect: DetectFaces, astronaut: Picture) -> np.ndarray:
    return main_face(detect(astronaut), astronaut).landmarks


@pytest.fixture
def source(astronaut: Picture, landmarks: np.ndarray) -> Callable[..., Source]:
    """The portrait, a little brighter or darker, so that no two are equal, as a named source."""

    def make(
        name: str, change: int = 0, identity: str | None = None, split: str = "train"
    ) -> Source:
        picture = np.clip(astronaut[:320, 60:380].astype(int) + change, 0, 255).astype(np.uint8)
        return Source(name, lambda: bmp(picture), split, identity, landmarks - [60.0, 0.0])

    return make


def bmp(picture: Picture) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "BMP")
    return file.getvalue()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "faces/faces.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_photographs_become_aligned_faces_and_a_table(
    astronaut: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="fhrt[cpu] is not installed")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, turn in (("ann", 0), ("ben", 8), ("cleo", -8)):
        matrix = cv2.getRotationMatrix2D((223, 120), turn, 1.2)
        turned = cv2.warpAffine(astronaut, matrix, (512, 512), borderMode=cv2.BORDER_REFLECT)
        Image.fromarray(turned).save(photos / f"{name}.png", compress_level=1)
    Image.fromarray(astronaut[300:]).save(photos / "suit.png")
    (photos / "twin.png").write_bytes((photos / "ann.png").read_bytes())
    (photos / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    small = cv2.resize(astronaut, (200, 200), interpolation=cv2.INTER_AREA)
    Image.fromarray(small).save(photos / "zoe.png")

    out = tmp_path / "out"
    words = ["data", "prepare", photos, "-o", out, "--size", "128", "--test-share", "0.34"]
    assert run_app([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    assert "2 people for training, 1 for testing" in said and "a person of its own" in said
    assert "dropped 4 of 7: " in said and "1 too small" in said and "1 duplicate" in said

    rows = rows_of(out)
    reference = ["file", "split", "size", "identity", "source", "kind", "tone"]
    assert list(rows[0]) == reference + [f"{axis}{i}" for i in range(5) for axis in "xy"]
    assert sorted(row["source"] for row in rows) == ["ann.png", "ben.png", "cleo.png"]
    assert sorted(row["split"] for row in rows) == ["test", "train", "train"]
    for row in rows:
        assert row["file"].startswith(f"{row['split']}/128/") and row["tone"] == "colour"
        assert Image.open(out / "faces" / row["file"]).size == (128, 128)
        points = np.array([float(row[f"{a}{i}"]) for i in range(5) for a in "xy"]).reshape(5, 2)
        assert np.abs(points - TEMPLATE / 4).max() < 6
    with (out / "dropped.csv").open() as file:
        dropped = {row["file"]: row["why"] for row in csv.DictReader(file)}
    assert {name: why.split(":")[0] for name, why in dropped.items()} == {
        "suit.png": "no face",
        "twin.png": "duplicate",
        "cut.jpg": "unreadable",
        "zoe.png": "too small",
    }
    assert dropped["twin.png"] == "duplicate: of ann.png"
    assert sorted(p.name for p in out.iterdir()) == ["dropped.csv", "faces"]
    # and it can be trained on
    assert len(find_faces(out)) == 2 and len(find_faces(out, "test", 128)) == 1


def test_nobody_is_in_two_splits_and_the_order_of_files_does_not_matter(
    source: Callable[..., Source], tmp_path: Path
) -> None:
    def made(folder: str, order: int, seed: int = 0) -> dict[str, tuple[str, str]]:
        sources = [source(f"{i}.png", 2 * i - 14, f"person {i // 2}") for i in range(14)]
        prepare(sources[::order], tmp_path / folder, blind_eyes, [96], None, 0.3, seed)
        return {row["source"]: (row["split"], row["file"]) for row in rows_of(tmp_path / folder)}

    first = made("a", 1)
    assert made("b", -1) == first
    assert len({first[f"{i}.png"][0] for i in range(14)}) == 2
    for i in range(0, 14, 2):
        assert first[f"{i}.png"][0] == first[f"{i + 1}.png"][0]
    assert sum(split == "test" for split, _ in first.values()) == 4  # 0.3 of 7 people
    others = [made(f"s{seed}", 1, seed) for seed in (1, 2)]
    assert any(other != first for other in others)


def test_the_splits_of_the_data_are_kept(source: Callable[..., Source], tmp_path: Path) -> None:
    sources = [
        source("a.png", 0, "Ann"),
        source("b.png", 4, "Ann", "val"),  # in two splits of the data: not to be trained on
        source("c.png", 8, "Cy"),
        source("d.png", 12, "Di", "test"),
    ]
    prepare(sources, tmp_path / "out", blind_eyes, [96], test_share=0.9)
    kept = {row["source"]: row["split"] for row in rows_of(tmp_path / "out")}
    assert kept == {"a.png": "test", "b.png": "test", "c.png": "train", "d.png": "test"}


def test_people_without_names_are_grouped_by_chains_of_embeddings(
    source: Callable[..., Source], astronaut: Picture
) -> None:
    angles = {"a": 0, "b": 50, "c": 100, "d": 200}  # cos 50° is above 0.5, cos 100° is not

    def embed(pictures: Sequence[Picture], points: Sequence[np.ndarray]) -> np.ndarray:
        shift = int(pictures[0][0, 0, 0]) - int(astronaut[0, 60, 0])
        angle = np.radians(list(angles.values())[shift // 2])
        return np.array([[np.cos(angle), np.sin(angle)]], np.float32)

    sources = [source(name, 2 * i) for i, name in enumerate(angles)]
    found, _ = find(sources, blind_eyes, [96], embed)
    groups = people(found)
    assert sorted(sorted(f.source.name for f in g) for g in groups) == [["a", "b", "c"], ["d"]]
    named = [source("x", 0, "Ann"), source("y", 6, "Ann")]  # 0° and 200°, one name
    assert len(people(find(named, blind_eyes, [96], embed)[0])) == 1


def test_somebody_is_always_left_to_train_on(source: Callable[..., Source]) -> None:
    found, _ = find([source(str(i), i, str(i)) for i in range(3)], blind_eyes, [96])
    groups = people(found)
    assert partition(groups, 0, 0) == ["train"] * 3
    assert sorted(partition(groups, 0.01, 0)) == ["test", "train", "train"]
    assert sorted(partition(groups, 0.9, 0)) == ["test", "test", "train"]
    assert partition(groups[:1], 0.9, 0) == ["train"]


def test_faces_are_written_at_the_sizes_they_fill(
    source: Callable[..., Source], landmarks: np.ndarray, tmp_path: Path
) -> None:
    sources = [source(str(i), i, str(i)) for i in range(2)]
    prepare(sources, tmp_path / "out", blind_eyes, [64, 96, 2048], test_share=0.5)
    sizes = [(row["split"], row["size"]) for row in rows_of(tmp_path / "out")]
    # for training once, for testing at each, and never enlarged
    assert sorted(sizes) == [("test", "64"), ("test", "96"), ("train", "96")]
    _, dropped = find(sources, blind_eyes, [2048])
    assert dropped[0].why.startswith("too small: covers ")
    assert find(sources, blind_eyes, [512], enlarge=True)[0][0].sizes == [512]


def test_blurred_and_cut_off_faces_are_dropped(astronaut: Picture, landmarks: np.ndarray) -> None:
    soft = cv2.GaussianBlur(astronaut, (0, 0), 4)
    left = int(landmarks[:, 0].mean())
    half = np.ascontiguousarray(astronaut[:, left:])
    shifted = landmarks - [left, 0]
    sources = [
        Source("soft", lambda: bmp(soft), landmarks=landmarks.astype(float)),
        Source("half", lambda: bmp(half), landmarks=shifted.astype(float)),
        Source("point", lambda: bmp(astronaut), landmarks=np.full((5, 2), 200.0)),
    ]
    found, dropped = find(sources, blind_eyes, [128])
    assert not found
    assert [why.split(":")[0] for _, why in dropped] == ["blurred", "cut off", "cut off"]


def test_the_share_outside_is_that_of_the_pixels(landmarks: np.ndarray) -> None:
    picture = np.zeros((300, 240, 3), np.uint8)
    moved = landmarks - [150, 60]
    matrix = crop_matrix(moved, 400)
    inside = cv2.warpAffine(np.ones((300, 240), np.float32), matrix, (400, 400))
    assert outside(picture, matrix, 400) == pytest.approx(1 - inside.mean(), abs=0.01)


def test_the_main_face_is_large_and_not_in_a_corner() -> None:
    def face(x: float, y: float, side: float) -> Face:
        box = np.array([x, y, x + side, y + side], np.float32)
        return Face(box, np.zeros((5, 2), np.float32), 1.0)

    picture = np.zeros((400, 400, 3), np.uint8)
    middle, larger, corner = face(150, 150, 80), face(140, 150, 120), face(0, 0, 100)
    assert main_face([middle, larger], picture) is larger
    assert main_face([corner, middle], picture) is middle


def test_a_folder_that_is_not_empty_is_left_alone(
    source: Callable[..., Source], tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        prepare([source("a")], tmp_path, blind_eyes, [96])
    with pytest.raises(UsageError, match="not an empty folder"):
        prepare([source("a")], tmp_path / "note.txt", blind_eyes, [96])
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_what_fails_half_way_leaves_nothing(
    source: Callable[..., Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(picture: Picture, path: Path) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preparing, "encode_picture", full)
    with pytest.raises(InputError, match=r"out: cannot be written: No space left"):
        prepare([source("a")], tmp_path / "out", blind_eyes, [96])
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"no face is left: 1 too small"):
        prepare([source("a")], tmp_path / "mine", blind_eyes, [1024])
    assert [p.name for p in tmp_path.iterdir()] == ["mine"] and not any(
        (tmp_path / "mine").iterdir()
    )


@needs_shared
def test_good_faces_are_sharp_and_blurred_ones_are_not() -> None:
    pictures = [s.read() for s in find_faces(SHARED)[::160]]
    assert len(pictures) > 20 and min(map(sharpness, pictures)) > 45
    blurred = [cv2.GaussianBlur(p, (0, 0), 2.5) for p in pictures]
    assert max(map(sharpness, blurred)) < preparing.SHARP_256


def test_a_sheet_shows_faces_beside_what_the_networks_are_given(
    astronaut: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="fhrt[train] is not installed")
    for i in range(3):
        Image.fromarray(astronaut[: 400 + i, 50 : 450 + i]).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"bad")

    def call(*words: object) -> int:
        return run_app([str(word) for word in ("data", "preview", tmp_path, *words)])

    sheet = tmp_path / "out" / "sheet.png"
    sheet.parent.mkdir()
    assert call("-o", sheet, "--damage", "blind", "--count", 3) == 0
    first = np.asarray(Image.open(sheet))
    assert first.shape == (24 + 3 * 256, 2 * 256, 3)
    good, given = first[24:, :256].astype(int), first[24:, 256:].astype(int)
    assert 1 < np.abs(good - given).mean() < 60
    assert call("-o", sheet, "--config", "srgan-x4", "--count", 1) == 0
    squares = np.asarray(Image.open(sheet))[24:, 256:]
    assert (squares.reshape(32, 8, 32, 8, 3) == squares[::8, None, ::8, None]).all()  # 32 pixels
    capsys.readouterr()
    assert call("-o", sheet, "--damage", "blindd") == 2
    assert "did you mean 'blind'" in capsys.readouterr().err
    assert call("-o", tmp_path / "sheet.txt") == 2
