"""The main path, entered by its front door: `Restorer` and `fhrt.restore`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import fhrt
from fhrt.errors import InputError, ModelError, RuntimeMissing, UsageError
from fhrt.faces import TEMPLATE, Face, Picture, choose_side, crop_matrix, enlarge
from fhrt.layout import to_batch, to_pictures
from fhrt.quality.metrics import psnr
from fhrt.restorer import Restorer
from fhrt.runtime.session import parse_device

GREY = np.full((80, 96, 3), 128, np.uint8)
# The astronaut's face as people would mark it, in its 512×512 picture.
LANDMARKS = np.array([[201, 101], [247, 102], [222, 125], [200, 142], [241, 143]], np.float32)


def face(landmarks: np.ndarray = LANDMARKS) -> Face:
    low, high = landmarks.min(0) - 20, landmarks.max(0) + 20
    return Face(np.concatenate([low, high]).astype(np.float32), landmarks.astype(np.float32), 0.9)


Finds = Callable[[list[Face]], None]


def test_a_face_is_restored_nearer_to_the_truth(
    astronaut: Picture, damaged: Picture, restorer: Restorer, finds: Finds
) -> None:
    finds([face()])
    before = damaged.copy()
    done = restorer.restore(damaged)
    assert np.array_equal(damaged, before)  # the input is not touched
    assert done.picture.shape == (512, 512, 3) and done.picture.dtype == np.uint8
    assert len(done.faces) == 1
    inside = np.s_[70:170, 175:270]
    gain = psnr(done.picture[inside], astronaut[inside]) - psnr(damaged[inside], astronaut[inside])
    assert gain > 0.5
    outside = np.ones((512, 512), bool)
    outside[0:260, 90:360] = False
    assert np.array_equal(done.picture[outside], damaged[outside])


def test_the_bundled_detector_and_the_restorer_work_together(
    astronaut: Picture, damaged: Picture, restorer: Restorer
) -> None:
    done = restorer.restore(damaged)
    near = [f for f in done.faces if np.abs(f.landmarks - LANDMARKS).max() < 12]
    assert len(near) == 1
    inside = np.s_[70:170, 175:270]
    assert psnr(done.picture[inside], astronaut[inside]) > psnr(damaged[inside], astronaut[inside])
    assert {"detect", "crop", "restore", "paste"} <= done.seconds.keys()
    assert all(seconds >= 0 for seconds in done.seconds.values())


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_every_scale_gives_its_size_and_interpolates_what_is_no_face(
    scale: int,
    damaged: Picture,
    restorer: Restorer,
    finds: Finds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finds([face()])
    monkeypatch.setattr(restorer, "scale", scale)
    done = restorer.restore(damaged)
    assert done.picture.shape == (512 * scale, 512 * scale, 3)
    assert np.array_equal(done.faces[0].landmarks, LANDMARKS)  # in the input's pixels
    plain = enlarge(damaged, scale)
    corner = np.s_[300 * scale :, 380 * scale :]
    assert np.array_equal(done.picture[corner], plain[corner])
    change = np.abs(done.picture.astype(int) - plain).mean(2)
    y, x = (np.indices(change.shape) * change).reshape(2, -1).sum(1) / change.sum()
    assert np.abs(np.array([x, y]) / scale - LANDMARKS.mean(0)).max() < 25


@pytest.mark.parametrize("scale", [1, 2])
def test_a_picture_without_a_face_comes_back_identical(
    scale: int,
    astronaut: Picture,
    restorer: Restorer,
    finds: Finds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finds([])
    monkeypatch.setattr(restorer, "scale", scale)
    done = restorer.restore(astronaut)
    assert done.faces == ()
    expected = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(done.picture, astronaut if scale == 1 else expected)
    assert done.picture is not astronaut


def test_two_faces_of_a_picture_are_restored_in_one_batch(
    damaged: Picture, restorer: Restorer, finds: Finds, counted: list[tuple[int, ...]]
) -> None:
    wide = np.hstack([damaged, damaged])
    finds([face(), face(LANDMARKS + np.array([512, 0]))])
    done = restorer.restore(wide)
    assert counted == [(2, 3, 256, 256)]
    left, right = done.picture[60:180, 160:280], done.picture[60:180, 672:792]
    assert np.abs(left.astype(int) - right).max() <= 1
    assert not np.array_equal(left, damaged[60:180, 160:280])


def test_faces_of_several_frames_share_a_batch_and_sizes_do_not_mix(
    damaged: Picture, restorer: Restorer, finds: Finds, counted: list[tuple[int, ...]]
) -> None:
    large = cv2.resize(damaged, (1024, 1024))
    grown = (LANDMARKS + 0.5) * 2 - 0.5
    detect = {512: [face()], 1024: [face(grown)]}
    finds([])
    restorer.detect = lambda picture: detect[picture.shape[0]]  # undone by `finds`
    side = choose_side(grown, 1, restorer.session.sizes)
    results = list(restorer.frames([damaged, large, damaged]))
    assert sorted(counted) == sorted([(2, 3, 256, 256), (1, 3, side, side)])
    assert np.array_equal(results[0].picture, results[2].picture)


def test_a_batch_is_never_larger_than_the_session_takes(
    damaged: Picture, restorer: Restorer, finds: Finds, counted: list[tuple[int, ...]]
) -> None:
    finds([face(LANDMARKS + shift) for shift in range(0, 220, 20)])
    restorer.restore(damaged)
    limit = restorer.session.batch_max
    assert [shape[0] for shape in counted] == [limit, 11 - limit]


def test_frames_come_in_order_and_are_pulled_a_group_at_a_time(
    restorer: Restorer, finds: Finds
) -> None:
    finds([])
    pulled = []

    def pictures() -> Iterator[Picture]:
        for value in range(11):
            pulled.append(value)
            yield np.full((20, 30, 3), value, np.uint8)

    results = restorer.frames(pictures())
    assert inspect.isgenerator(results) and pulled == []
    for value in range(11):
        assert (next(results).picture == value).all()
        assert len(pulled) <= (value // restorer.group + 1) * restorer.group
    assert next(results, None) is None
    assert list(restorer.frames([])) == []


@pytest.mark.parametrize(
    "wrong",
    [
        GREY[..., 0],
        GREY.astype(np.float32),
        GREY.astype(np.uint16),
        np.dstack([GREY, GREY[..., :1]]),
        GREY[:0],
        "photo.jpg",
        None,
    ],
    ids=["grey", "float", "16 bit", "four channels", "empty", "a path", "None"],
)
def test_an_array_that_is_no_picture_is_an_input_error(wrong: object, restorer: Restorer) -> None:
    with pytest.raises(InputError, match="uint8 array"):
        restorer.restore(wrong)
    with pytest.raises(InputError, match="uint8 array"):
        list(restorer.frames([GREY, wrong]))


def test_pictures_of_one_pixel_of_one_line_and_sliced_ones_pass(restorer: Restorer) -> None:
    for shape in [(1, 1, 3), (1, 300, 3), (300, 1, 3)]:
        picture = np.full(shape, 77, np.uint8)
        assert np.array_equal(restorer.restore(picture).picture, picture)
    sliced = np.zeros((100, 120, 6), np.uint8)[::2, ::-1, ::2]
    assert restorer.restore(sliced).picture.shape == (50, 120, 3)


def test_restore_keeps_its_networks_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    start = Restorer.__init__

    def counting(self: Restorer, *args: object, **options: object) -> None:
        made.append(options)
        start(self, *args, **options)

    monkeypatch.setattr(Restorer, "__init__", counting)
    for _ in range(2):
        assert np.array_equal(fhrt.restore(GREY, threads=1, group=3).picture, GREY)
    assert fhrt.restore(GREY, threads=1, group=3, scale=2).picture.shape == (160, 192, 3)
    assert len(made) == 2


def test_pictures_survive_the_way_into_a_batch_and_back() -> None:
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8))
    batch = to_batch(pictures)
    assert batch.dtype == np.float32 and batch.shape == (3, 3, 20, 30)
    assert batch.min() >= 0 and batch.max() <= 1
    assert np.abs(batch[1, 2] - pictures[1][..., 2] / 255).max() < 1e-6
    assert all(np.array_equal(a, b) for a, b in zip(to_pictures(batch), pictures, strict=True))
    beyond = np.array([-0.5, 1.5, 0.5 + 0.4 / 255], np.float32).reshape(1, 3, 1, 1)
    assert to_pictures(beyond)[0].ravel().tolist() == [0, 255, 128]
    assert not to_pictures(np.full((1, 3, 9, 33), np.nan, np.float32))[0].any()


def test_the_gpu_that_is_not_there_is_an_error_and_no_way_to_the_cpu() -> None:
    try:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    except ImportError:
        pass
    for device in ("cuda", "cuda:0", "cuda:3"):
        with pytest.raises(RuntimeMissing, match="cuda:"):
            Restorer(device=device)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"device": "gpu"}, "unknown device 'gpu'.*auto, cpu, cuda:N"),
        ({"device": "cuda:x"}, "unknown device"),
        ({"device": "cpu:0"}, "unknown device"),
        ({"runtime": "onxx"}, "unknown runtime 'onxx'.*onnx"),
        ({"model": "restor"}, "unknown model 'restor'.*'restore'"),
        ({"model": "zzz"}, "unknown model 'zzz'.*restore"),
        ({"scale": 3}, "scale 3 is not one of 1, 2, 4"),
    ],
)
def test_a_wrong_word_is_a_usage_error_that_names_the_right_ones(
    options: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Restorer(**options)


@pytest.mark.parametrize("model", ["detector", "landmarks"])
def test_a_network_that_restores_nothing_is_refused_as_a_model(model: str) -> None:
    with pytest.raises(UsageError, match=f"{model} .*no network from picture to picture"):
        Restorer(model)


def test_a_model_file_that_is_missing_or_no_model_is_a_model_error(tmp_path: Path) -> None:
    text = tmp_path / "text.onnx"
    text.write_text("not a network\n" * 50)
    for path in (tmp_path / "none.onnx", text):
        with pytest.raises(ModelError, match=path.name) as raised:
            Restorer(path)
        assert "\n" not in str(raised.value)


def test_devices_are_parsed() -> None:
    assert parse_device("auto") == ("auto", 0)
    assert parse_device("cpu") == ("cpu", 0)
    assert parse_device("cuda") == ("cuda", 0)
    assert parse_device("cuda:12") == ("cuda", 12)


def test_the_aligned_face_fills_the_crop_that_the_session_sees(
    astronaut: Picture, restorer: Restorer, finds: Finds
) -> None:
    """The eyes of the crop are where the template wants them: dark on the right pixels."""
    matrix = crop_matrix(LANDMARKS, 512)
    eyes = LANDMARKS[:2] @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(eyes - TEMPLATE[:2]).max() < 12
