"""Metrics and protocols, against scikit-image and the published baselines of the shared data."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fhrt.errors import InputError, UsageError
from fhrt.faces import Face, Picture, iou
from fhrt.quality.detection import DetectionScores, FoundFace, score_detector
from fhrt.quality.metrics import Mean, psnr, ssim
from fhrt.quality.protocols import PROTOCOLS, cases
from fhrt.quality.scoring import score

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
FACES = SHARED / "faces" / "test"
needs_shared = pytest.mark.skipif(not FACES.is_dir(), reason="../shared is not here")


def spoiled(picture: Picture, how: str) -> Picture:
    if how == "noise":
        noise = np.random.default_rng(0).normal(0, 12, picture.shape)
        return np.clip(picture + noise, 0, 255).astype(np.uint8)
    if how == "blur":
        return cv2.GaussianBlur(picture, (0, 0), 2.5)
    if how == "shift":
        return np.roll(picture, 3, 1)
    return 255 - picture


@pytest.mark.parametrize("how", ["noise", "blur", "shift", "negative"])
@pytest.mark.parametrize("size", [(512, 512), (97, 140), (11, 40)])
def test_psnr_and_ssim_are_those_of_scikit_image(
    how: str, size: tuple[int, int], astronaut: Picture
) -> None:
    a = np.ascontiguousarray(astronaut[: size[0], 100 : 100 + size[1]])
    b = spoiled(a, how)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)
    expected = structural_similarity(
        a,
        b,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
    )
    assert ssim(a, b) == pytest.approx(expected, abs=1e-6)


def test_equal_pictures_are_infinitely_alike(astronaut: Picture) -> None:
    assert psnr(astronaut, astronaut) == math.inf
    assert ssim(astronaut, astronaut) == pytest.approx(1)


def test_a_mean_has_the_standard_error_of_the_textbook() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    mean = Mean.of(values)
    assert mean.mean == 4
    assert mean.se == pytest.approx(math.sqrt(sum((v - 4) ** 2 for v in values) / 3) / 2)
    assert math.isnan(Mean.of([3.0]).se) and Mean.of([3.0]).mean == 3


def same(batch: np.ndarray) -> np.ndarray:
    return batch


def grown(factor: int) -> object:
    """A network that repeats pixels."""
    return lambda batch: batch.repeat(factor, 2).repeat(factor, 3)


@needs_shared
@pytest.mark.parametrize(
    "protocol, folder, n, decibels, similarity, network",
    [
        ("blind-256", "256", 200, 24.17, 0.674, same),
        ("blind-512", "512", 90, 24.68, 0.707, same),
        ("sr4-256", "256", 200, 28.84, 0.838, grown(4)),
        ("sr4-128", "256", 200, 25.69, 0.789, grown(4)),
        ("sr8-128", "256", 200, 21.72, 0.607, grown(8)),
    ],
)
def test_a_protocol_reproduces_its_published_baseline(
    protocol: str, folder: str, n: int, decibels: float, similarity: float, network: object
) -> None:
    done = score(network, "none", FACES / folder, protocol)
    assert (done["model"], done["protocol"], done["n"]) == ("none", protocol, n)
    assert done["input"]["psnr"]["mean"] == pytest.approx(decibels, abs=0.02)
    assert done["input"]["ssim"]["mean"] == pytest.approx(similarity, abs=0.002)
    assert 0 < done["input"]["psnr"]["se"] < 0.5 and 0 < done["input"]["ssim"]["se"] < 0.02
    if network is same:  # a network that does nothing scores what it was given
        assert done["output"] == done["input"]
    else:
        assert done["output"]["psnr"]["mean"] < done["input"]["psnr"]["mean"]


def folder_of(pictures: dict[str, Picture], folder: Path) -> Path:
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / name)
    return folder


def test_files_are_sorted_and_each_has_its_own_damage(astronaut: Picture, tmp_path: Path) -> None:
    face = np.ascontiguousarray(astronaut[:256, 100:356])
    folder = folder_of({f"{name}.png": face for name in "cab"}, tmp_path)
    (folder / "notes.txt").write_text("no picture")
    first = list(cases(folder, "blind-256"))
    assert [path.name for path, _ in first] == ["a.png", "b.png", "c.png"]
    given = [case.given for _, case in first]
    assert not np.array_equal(given[0], given[1]) and not np.array_equal(given[1], given[2])
    (folder / "c.png").unlink()
    again = [case.given for _, case in cases(folder, "blind-256")]
    assert np.array_equal(again[0], given[0]) and np.array_equal(again[1], given[1])


def test_shrinking_protocols_are_pillow_bicubic(astronaut: Picture, tmp_path: Path) -> None:
    face = np.ascontiguousarray(astronaut[:256, 100:356])
    ((_, case),) = cases(folder_of({"a.png": face}, tmp_path), "sr8-128")
    how = Image.Resampling.BICUBIC
    truth = Image.fromarray(face).resize((128, 128), how)
    small = truth.resize((16, 16), how)
    assert np.array_equal(case.truth, np.asarray(truth))
    assert np.array_equal(case.given, np.asarray(small))
    assert np.array_equal(case.baseline, np.asarray(small.resize((128, 128), how)))


def test_clean_gives_the_picture_itself_and_equal_pictures_count_a_hundred(
    astronaut: Picture, tmp_path: Path
) -> None:
    done = score(same, "none", folder_of({"a.png": astronaut}, tmp_path), "clean")
    assert done["output"]["psnr"]["mean"] == 100 and done["n"] == 1


def test_unknown_protocols_empty_folders_and_wrong_sizes_are_refused(
    astronaut: Picture, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"unknown protocol 'blind'.*{next(iter(PROTOCOLS))}"):
        next(cases(tmp_path, "blind"))
    with pytest.raises(InputError, match="no pictures"):
        next(cases(tmp_path, "blind-256"))
    with pytest.raises(InputError, match="no pictures"):
        next(cases(tmp_path / "missing", "sr4-256"))
    folder_of({"a.png": astronaut}, tmp_path)
    with pytest.raises(InputError, match=r"a\.png: 512×512.*256×256"):
        next(cases(tmp_path, "blind-256"))
    with pytest.raises(InputError, match="gives 64×64 on sr4-256"):
        score(same, "none", tmp_path, "sr4-256")


def test_a_broken_picture_in_the_folder_is_an_input_error(
    astronaut: Picture, tmp_path: Path
) -> None:
    folder_of({"a.png": astronaut}, tmp_path)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:9000])
    (tmp_path / "c.jpg").write_text("text")
    for name in ("b.png", "c.jpg"):
        with pytest.raises(InputError, match=name):
            score(same, "none", tmp_path, "clean")
        (tmp_path / name).unlink()


def test_overlap_is_intersection_over_union() -> None:
    a = np.array([[0, 0, 10, 10], [20, 20, 30, 40.0]])
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [100, 100, 110, 110.0]])
    assert np.allclose(iou(a, b), [[1, 50 / 150, 0], [0, 0, 0]])


POINTS = np.array([[10, 10], [20, 10], [15, 16], [11, 22], [19, 22.0]])
HEADER = ["file", "source", "width", "height", "x", "y", "w", "h"]
HEADER += [f"{axis}{i}" for i in range(5) for axis in "xy"] + ["score", "ignore"]


def table(folder: Path, rows: list[tuple[str, tuple[float, ...] | None, int]]) -> Path:
    """A photos.csv of hand-made faces: file, x y w h or None for no face, ignore."""
    with (folder / "photos.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for name, box, ignore in rows:
            (folder / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (200, 200)).save(folder / name)
            empty = [""] * 14
            points = [] if box is None else (POINTS + box[:2]).ravel().tolist()
            filled = empty if box is None else [*box, *points]
            writer.writerow([name, "", 200, 200, *filled, "" if box is None else 0.9, ignore])
    return folder


def found(box: tuple[float, ...], score: float = 0.9, off: float = 0.0) -> Face:
    x, y, w, h = box
    return Face(
        np.array([x, y, x + w, y + h], np.float32),
        (POINTS + np.array([x + off, y])).astype(np.float32),
        score,
    )


ROWS: list[tuple[str, tuple[float, ...] | None, int]] = [
    ("old/a.png", (10, 10, 30, 40), 0),
    ("old/a.png", (100, 10, 30, 40), 0),
    ("portraits/b.png", (50, 50, 90, 90), 0),
    ("portraits/b.png", (150, 150, 12, 12), 1),
    ("none/c.png", None, 0),
    ("none/d.png", None, 0),
]


def scored(answers: dict[str, list[Face]], folder: Path) -> DetectionScores:
    table(folder, ROWS)
    asked = []

    def read(path: Path) -> Picture:
        asked.append(path)
        return np.zeros((200, 200, 3), np.uint8)

    def detect(picture: Picture) -> list[Face]:
        return answers.get(asked[-1].name, [])

    return score_detector(detect, folder, read)


PERFECT = {
    "a.png": [found((10, 10, 30, 40)), found((100, 10, 30, 40), 0.7)],
    "b.png": [found((50, 50, 90, 90))],
}


def test_a_perfect_detector_finds_all_without_error(tmp_path: Path) -> None:
    scores = scored(PERFECT, tmp_path)
    assert scores.empty_pictures == 2 and scores.threshold() == 0
    for kind in ("old", "portraits"):
        assert scores.recall(kind, 0.5) == 1
        assert scores.landmark_error(kind, 0.5) == pytest.approx(0, abs=1e-6)
    assert scores.recall("old", 0.8) == 0.5
    rows = scores.table(0.5)
    assert [(row["kind"], row["size"], row["n"], row["recall"]) for row in rows] == [
        ("old", "32-64", 2, 1),
        ("portraits", "64-128", 1, 1),
    ]


def test_misses_poor_boxes_and_doubles_lower_the_recall(tmp_path: Path) -> None:
    one = found((10, 10, 30, 40))
    scores = scored({"a.png": [one, one], "b.png": [found((90, 50, 90, 90))]}, tmp_path)
    assert scores.recall("old", 0.5) == 0.5  # the second box on a face finds no other face
    assert scores.recall("portraits", 0.5) == 0  # IoU 0.38
    assert math.isnan(scores.landmark_error("portraits", 0.5))
    assert math.isnan(scores.recall("in_the_wild", 0.5))


def test_landmarks_are_measured_in_eye_distances(tmp_path: Path) -> None:
    scores = scored({"b.png": [found((50, 50, 90, 90), off=2.5)]}, tmp_path)
    assert scores.landmark_error("portraits", 0.5) == pytest.approx(0.25)


def test_faces_that_do_not_count_are_neither_hits_nor_misses(tmp_path: Path) -> None:
    with_it = scored(PERFECT | {"b.png": [*PERFECT["b.png"], found((150, 150, 12, 12))]}, tmp_path)
    assert with_it.recall("portraits", 0.5) == 1 and with_it.false_scores == ()


def test_the_threshold_lets_one_false_face_through_and_no_second(tmp_path: Path) -> None:
    false = {"c.png": [found((0, 0, 50, 50), 0.8)], "d.png": [found((0, 0, 50, 50), 0.6)] * 2}
    scores = scored(PERFECT | false, tmp_path)
    assert sorted(scores.false_scores) == [0.6, 0.6, 0.8]
    for allowed in (0, 1, 2, 3):
        limit = scores.threshold(allowed)
        assert sum(value >= limit for value in scores.false_scores) <= allowed
    assert 0.6 < scores.threshold(1) < 0.61
    assert scores.recall("old", scores.threshold(1)) == 1


def test_small_faces_are_counted_by_their_size() -> None:
    faces = tuple(
        FoundFace("wild", size, hit, 0.1)
        for size, hit in ((17.0, 0.0), (23.9, 0.9), (24.0, 0.9), (200.0, 0.0))
    )
    scores = DetectionScores(faces, (), 0)
    assert scores.recall("wild", 0.5) == 0.5
    assert scores.recall("wild", 0.5, (16, 24)) == 0.5
    assert [row["size"] for row in scores.table(0.5)] == ["16-24", "24-32", "128+"]


def test_a_folder_without_a_table_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"photos\.csv: no such table"):
        score_detector(lambda picture: [], tmp_path, lambda path: np.zeros((1, 1, 3), np.uint8))
