"""Faces to train on, from folders, zips, manifests and the layouts of known datasets."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fhrt.errors import InputError, UsageError
from fhrt.faces import Picture
from fhrt.training.data import find_faces, load_faces, summary

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


def put(path: Path, shade: int = 0, size: tuple[int, int] = (40, 40)) -> Path:
    """A small picture whose red is `shade`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, 90, 120)).save(path)
    return path


def names(data: Path, *args: object, **options: object) -> list[str]:
    return [source.name for source in find_faces(data, *args, **options)]  # type: ignore[arg-type]


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """A folder of two good pictures and four that cannot be read."""
    folder = tmp_path / "spoiled"
    whole = put(folder / "b/good.png", 7).read_bytes()
    put(folder / "z.bmp", 9)
    (folder / "empty.jpg").touch()
    (folder / "text.jpeg").write_text("no picture")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "gone.webp").symlink_to("nowhere")
    return folder


def test_a_folder_is_searched_below_and_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b/two.JPG", "a/deep/one.png", "three.webp", ".hidden/x.png", "a/.x.png"):
        put(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    found = find_faces(tmp_path)
    assert [s.name for s in found] == ["a/deep/one.png", "b/two.JPG", "three.webp"]
    assert all(s.split == "train" and s.identity is None and s.landmarks is None for s in found)
    assert found[0].read().shape == (40, 40, 3)


def test_links_to_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    put(tmp_path / "far/one.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/near").symlink_to(tmp_path / "far")
    (tmp_path / "far/back").symlink_to(tmp_path / "data")
    assert names(tmp_path / "data") == ["near/one.png"]


def test_what_holds_no_pictures_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    (tmp_path / "file.zip").write_bytes(b"PK not really")
    for name, why in (("hollow", "no pictures"), ("none", "no such"), ("file.zip", "not a folder")):
        with pytest.raises(InputError, match=f"{name}: {why}"):
            find_faces(tmp_path / name)
    with pytest.raises(InputError, match="no such folder"):
        find_faces(tmp_path / "none")


def test_pictures_that_cannot_be_read_are_left_out_and_named(spoiled: Path) -> None:
    pictures, dropped = load_faces(find_faces(spoiled))
    assert [int(picture[0, 0, 0]) for picture in pictures] == [7, 9]
    assert [name for name, _ in dropped] == ["cut.png", "empty.jpg", "gone.webp", "text.jpeg"]
    assert dict(dropped)["empty.jpg"] == "the file is empty"
    line = summary(dropped)
    assert line.startswith("4 pictures could not be used: cut.png (damaged") and "…" in line
    assert "\n" not in line


def test_a_folder_of_which_nothing_can_be_read_is_an_error(spoiled: Path) -> None:
    (spoiled / "z.bmp").unlink()
    (spoiled / "b/good.png").unlink()
    with pytest.raises(InputError, match=r"nothing to train on: 4 pictures .*cut.png"):
        load_faces(find_faces(spoiled))


def test_pictures_are_cut_to_the_middle_square_and_never_enlarged(tmp_path: Path) -> None:
    wide = np.zeros((64, 100, 3), np.uint8)
    wide[:, 18:82] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    put(tmp_path / "small.png", size=(64, 31))
    pictures, dropped = load_faces(find_faces(tmp_path), 32)
    assert [picture.shape for picture in pictures] == [(32, 32, 3)]
    assert (pictures[0] == 200).all()
    assert dropped[0].name == "small.png" and dropped[0].why.startswith("too small: 64×31")


def test_a_zip_is_read_like_its_folder_and_nothing_is_unpacked(tmp_path: Path) -> None:
    for number in range(30):
        put(tmp_path / f"in/{number % 3}/{number:02d}.png", number)
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "in").rglob("*.png"), reverse=True):
            archive.write(file, file.relative_to(tmp_path / "in").as_posix())
        odd = put(tmp_path / "in/odd.png", 77).read_bytes()
        archive.writestr("../../escape.png", odd)
        archive.writestr("/root.png", odd)
        archive.writestr("__MACOSX/._00.png", b"resource fork")
    (tmp_path / "in/odd.png").unlink()
    before = sorted(tmp_path.rglob("*"))
    found = find_faces(path)
    assert [s.name for s in found[:2]] == ["../../escape.png", "/root.png"]
    assert [s.name for s in found[2:]] == names(tmp_path / "in")
    pictures, dropped = load_faces(found[2:] * 4)  # many threads, one archive
    expected, _ = load_faces(find_faces(tmp_path / "in") * 4)
    assert not dropped and all(map(np.array_equal, pictures, expected))
    assert load_faces(found[:2])[0][0][0, 0, 0] == 77
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_member_of_a_zip_is_left_out(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "x.png", "bad.png")
        archive.write(tmp_path / "x.png", "good.png")
    content = bytearray(path.read_bytes())
    content[5000] ^= 255
    path.write_bytes(content)
    pictures, dropped = load_faces(find_faces(path))
    assert len(pictures) == 1 and np.array_equal(pictures[0], noise)
    assert dropped[0].name == "bad.png" and "unpacked" in dropped[0].why


def test_a_manifest_says_split_person_size_and_landmarks(tmp_path: Path) -> None:
    for name in "abcd":
        put(tmp_path / f"in/{name}.png", ord(name))
    points = ",".join(f"{axis}{i}" for i in range(5) for axis in "xy")
    table = tmp_path / "list.csv"
    table.write_text(
        f"\ufefffile,split,identity,size,{points}\n"
        f"in/b.png,train,Bo,256,{','.join(map(str, range(10)))}\n"
        f"in/a.png,,,,{',' * 9}\n"
        f"in/c.png,test,Cy,256,{',' * 9}\n"
        f"in/gone.png,train,Di,512,{',' * 9}\n",
        encoding="utf-8",
    )
    found = find_faces(table)
    assert [s.name for s in found] == ["in/a.png", "in/b.png", "in/gone.png"]
    assert [s.identity for s in found] == [None, "Bo", "Di"]
    assert found[0].landmarks is None and found[1].landmarks is not None
    assert found[1].landmarks.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert names(table, "train", 256) == ["in/a.png", "in/b.png"]  # a's size is not known
    assert names(table, "test") == ["in/c.png"] and len(names(table, None)) == 4
    pictures, dropped = load_faces(found)
    assert [int(p[0, 0, 0]) for p in pictures] == [ord("a"), ord("b")]
    assert [tuple(d) for d in dropped] == [("in/gone.png", "No such file or directory")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name\na.png\n", "line 2: no value in the column `file`"),
        ("file,size\na.png,big\n", "line 2: size 'big'"),
        ("file," + ",".join(f"x{i},y{i}" for i in range(5)) + "\na.png" + ",?" * 10, "no numbers"),
        ("file\n", "without rows"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, text: str, why: str) -> None:
    table = tmp_path / "list.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=why):
        find_faces(table)


def test_ffhq_has_two_sizes_and_its_own_split(tmp_path: Path) -> None:
    for number in (0, 59_999, 60_000):
        folder = f"{number // 1000 * 1000:05d}"
        put(tmp_path / f"ffhq/images1024x1024/{folder}/{number:05d}.png", 1)
        put(tmp_path / f"ffhq/thumbnails128x128/{folder}/{number:05d}.png", 2)
    put(tmp_path / "ffhq/teaser.png")
    large = ["ffhq/images1024x1024/00000/00000.png", "ffhq/images1024x1024/59000/59999.png"]
    assert names(tmp_path) == names(tmp_path, size=256) == large
    assert names(tmp_path, "val") == ["ffhq/images1024x1024/60000/60000.png"]
    assert all("thumbnails" in name for name in names(tmp_path, size=128))
    assert names(tmp_path / "ffhq", layout="ffhq") == [n.removeprefix("ffhq/") for n in large]


def test_celeba_has_people_and_a_partition(tmp_path: Path) -> None:
    for number in range(1, 6):
        put(tmp_path / f"img_align_celeba/{number:06d}.jpg", number)
    with pytest.raises(InputError, match=r"list_eval_partition\.txt; --layout folder"):
        find_faces(tmp_path)
    assert len(names(tmp_path, layout="folder")) == 5
    parts = "".join(f"{n:06d}.jpg {part}\n" for n, part in enumerate([0, 2, 0, 1], 1))
    (tmp_path / "list_eval_partition.txt").write_text(parts)
    people = "".join(f"{n:06d}.jpg {person}\n" for n, person in enumerate([88, 5, 88, 9, 9], 1))
    (tmp_path / "identity_CelebA.txt").write_text(people)
    found = find_faces(tmp_path)
    assert [s.name[-10:] for s in found] == ["000001.jpg", "000003.jpg"]
    assert {s.identity for s in found} == {"88"}
    assert names(tmp_path, "test") == ["img_align_celeba/000002.jpg"]


def test_lfw_names_its_people(tmp_path: Path) -> None:
    for name in ("Ann_Lee/Ann_Lee_0001", "Ann_Lee/Ann_Lee_0002", "Bob/Bob_0001", "other"):
        put(tmp_path / f"lfw/{name}.jpg")
    found = find_faces(tmp_path)
    assert [s.identity for s in found] == ["Ann_Lee", "Ann_Lee", "Bob", None]


def test_what_prepare_writes_is_a_layout(tmp_path: Path) -> None:
    for name in ("train/256/a.png", "train/512/b.png", "test/256/c.png"):
        put(tmp_path / "faces" / name)
    put(tmp_path / "photos/x.png")
    header = "file,split,size,identity," + ",".join(f"x{i},y{i}" for i in range(5))
    row = "train/256/a.png,train,256,Ann," + ",".join(map(str, range(10)))
    (tmp_path / "faces/faces.csv").write_text(f"{header}\n{row}\n")
    assert names(tmp_path) == ["faces/train/256/a.png", "faces/train/512/b.png"]
    assert names(tmp_path, size=512) == ["faces/train/512/b.png"]
    assert names(tmp_path, "test") == ["faces/test/256/c.png"]
    first = find_faces(tmp_path / "faces")[0]
    assert first.name == "train/256/a.png" and first.identity == "Ann"
    assert first.landmarks is not None and first.landmarks.shape == (5, 2)
    with pytest.raises(InputError, match=r"no pictures of split 'val'; its splits: test, train"):
        find_faces(tmp_path, "val")


def test_an_unknown_layout_is_a_usage_error(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"unknown layout 'celebA'; did you mean 'celeba'"):
        find_faces(tmp_path, layout="celebA")
    with pytest.raises(InputError, match="no pictures in the layout lfw"):
        find_faces(tmp_path, layout="lfw")


@needs_shared
def test_the_shared_faces_give_training_pictures_only() -> None:
    found = find_faces(SHARED)
    assert len(found) == 2571 + 1417
    assert all(s.name.startswith("faces/train/") and s.identity and s.size for s in found)
    few = [s for s in found if s.size == 256][:4]
    assert [s.name for s in few] == [s.name for s in find_faces(SHARED, size=256)[:4]]
    pictures: list[Picture] = load_faces(few)[0]
    for source, picture in zip(few, pictures, strict=True):
        assert np.array_equal(np.asarray(Image.open(SHARED / source.name)), picture)
    assert {s.split for s in find_faces(SHARED, None)} == {"train", "test"}
