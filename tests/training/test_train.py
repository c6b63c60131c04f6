"""The trainer on a tiny system, and what the real systems make of their data."""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
from torch import Tensor, nn  # noqa: E402

from fhrt.damage.degrade import BLIND_256, BLIND_512, Blind, blind  # noqa: E402
from fhrt.errors import InputError, ModelError, UsageError  # noqa: E402
from fhrt.faces import Picture  # noqa: E402
from fhrt.networks import build  # noqa: E402
from fhrt.networks.discriminators import DISCRIMINATORS  # noqa: E402
from fhrt.training import checkpoints, detector, labelled, train  # noqa: E402
from fhrt.training.config import (  # noqa: E402
    Adversarial,
    Config,
    config_of,
    names,
    plain,
    read_config,
)
from fhrt.training.labelled import MIRRORED, Labelled, Sources, warp, warp_faces  # noqa: E402
from fhrt.training.muon import Muon, orthogonalised  # noqa: E402

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")


class Tiny:
    """Learns to give its input back, with a weight that Muon takes and others that Adam takes."""

    samples: list[tuple[int, np.ndarray]] = []  # noqa: RUF012 what every run was fed with

    dropped = ()

    def __init__(self, data: Path, config: Config) -> None:
        self.size = int(config.options.get("batch", 2))

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(16, 3, 1),
        )

    def batch_size(self, step: int) -> int:
        return self.size

    def sample(self, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        made = rng.integers(0, 256, (3, 32, 32), np.uint8)
        self.samples.append((step, made))
        return {"input": made, "target": made}

    def validation(self) -> dict[str, np.ndarray]:
        return {key: v[None] for key, v in self.sample(-1, np.random.default_rng(9)).items()}

    def output(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return network(batch["input"].float() / 255)

    def loss(self, output: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        loss = (output - batch["target"].float() / 255).abs().mean()
        return loss, {"l1": float(loss.detach())}


CONFIG = Config(
    "tiny",
    12,
    1e-2,
    warmup=3,
    checkpoint_every=4,
    log_every=4,
    data_threads=2,
    precision="fp32",  # what is measured may be another one from run to run
    options={},
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    Tiny.samples = []
    monkeypatch.setattr(train, "systems", lambda: {"tiny": Tiny})
    monkeypatch.setattr(train, "_keep_memory", lambda: None)  # it would outlast the test
    torch.set_num_threads(1)


def run(folder: Path, **options: Any) -> dict[str, Tensor]:
    options = {"config": CONFIG} | options
    path = train.train("tiny", Path(), folder, **options)
    assert path == folder / "tiny.pth"
    return torch.load(path, weights_only=True)


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def test_training_learns_and_writes_weights_checkpoint_and_log(tmp_path: Path) -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    reports = train.Reports(lambda step, figures: seen.append((step, figures)))
    weights = run(tmp_path, config=replace(CONFIG, steps=60, log_every=20), reports=reports)
    assert weights.keys() == Tiny(Path(), CONFIG).build().state_dict().keys()
    assert [step for step, _ in seen] == [20, 40, 60]
    assert seen[-1][1]["l1"] < 0.7 * seen[0][1]["l1"]
    written = {p.name for p in tmp_path.iterdir() if not p.name.startswith("events.")}
    assert written == {"checkpoint.pt", "log.csv", "tiny.pth", "validation"}
    assert len(list(tmp_path.glob("events.*"))) == 1
    grid = cv2.imread(str(tmp_path / "validation" / "000060.png"))
    assert grid.shape == (32, 3 * 32, 3) and not np.array_equal(grid[:, :32], grid[:, 32:64])
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [20, 40, 60]
    assert float(rows[0]["loss"]) == pytest.approx(seen[0][1]["loss"], rel=1e-4)
    assert float(rows[-1]["validation_l1"]) < 0.2 and 0 <= float(rows[-1]["waiting"]) <= 1


class Killed(BaseException):
    """As a signal would end a run."""


ADVERSARIAL = Adversarial("patch", 0.01, feature_matching=0.1, condition=True, options={"width": 4})


@pytest.mark.parametrize("killed_at", [3, 4, 9])
@pytest.mark.parametrize("adversarial", [None, ADVERSARIAL])
def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(
    killed_at: int, adversarial: Adversarial | None, tmp_path: Path
) -> None:
    config = replace(CONFIG, adversarial=adversarial)
    whole = run(tmp_path / "whole", config=config)

    def kill(step: int, steps: int) -> None:
        if step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "broken", config=config, reports=train.Reports(progress=kill))
    state = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)
    assert state["step"] == killed_at // 4 * 4
    assert equal(run(tmp_path / "broken", config=config, resume=True), whole)
    ends = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("whole", "broken")
    ]
    assert ends[0]["step"] == 12 and equal(ends[0], ends[1])
    logs = []
    for name in ("whole", "broken"):
        with (tmp_path / name / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        timings = ("seconds_a_step", "waiting")
        logs.append([{k: v for k, v in row.items() if k not in timings} for row in rows])
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == ["4", "8", "12"]


def test_a_resumed_run_keeps_the_precision_that_was_measured_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter(["fp32", "bf16"])
    monkeypatch.setattr(train, "faster_precision", lambda _: next(measured))

    def kill(step: int, steps: int) -> None:
        if step == 4:
            raise Killed

    config = replace(CONFIG, precision="auto")
    with pytest.raises(Killed):
        run(tmp_path, config=config, reports=train.Reports(progress=kill))
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["config"]["precision"] == "fp32"
    run(tmp_path, config=config, resume=True)
    assert next(measured) == "bf16"  # nothing has asked again


def test_the_discriminator_learns_and_is_kept(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    reports = train.Reports(lambda step, figures: seen.append(figures))
    run(tmp_path, config=replace(CONFIG, adversarial=ADVERSARIAL), reports=reports)
    assert {"fooled", "told_apart", "l1"} <= seen[-1].keys()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    critic = DISCRIMINATORS["patch"](condition=True, width=4)
    before = {k: v.clone() for k, v in critic.state_dict().items()}
    critic.load_state_dict(state["critic"])
    assert not equal(critic.state_dict(), before) and state["critic_optimiser"]["state"]


def test_an_unknown_discriminator_is_a_usage_error(tmp_path: Path) -> None:
    config = replace(CONFIG, adversarial=Adversarial("pach", 0.1))
    with pytest.raises(UsageError, match="'patch'"):
        run(tmp_path, config=config)


def test_a_run_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    first = run(tmp_path / "tiny")
    for start in ("tiny", str(tmp_path / "tiny" / "tiny.pth")):
        folder = tmp_path / f"of_{len(start)}"
        tuned = run(folder, config=replace(CONFIG, start=start, steps=1, learning_rate=0.0))
        kept = [key for key in first if "running" not in key and "num_batches" not in key]
        assert all(torch.equal(tuned[key], first[key]) for key in kept)
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    with pytest.raises(ModelError, match="not weights of this network"):
        run(tmp_path / "c", config=replace(CONFIG, start=str(other)))
    with pytest.raises(InputError, match="no such weights"):
        run(tmp_path / "d", config=replace(CONFIG, start=str(tmp_path / "gone.pth")))


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.system, ("touch trapped",))


def test_bad_checkpoints_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "good")
    checkpoint = tmp_path / "good" / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)

    def resumed(content: Any) -> str:
        torch.save(content, checkpoint)
        with pytest.raises((InputError, ModelError)) as caught:
            run(tmp_path / "good", resume=True)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "a checkpoint of 'other', not of 'tiny'" in resumed(state | {"name": "other"})
    assert "holds more than tensors" in resumed({"a": Trap()})
    assert not (tmp_path / "trapped").exists()
    assert "no checkpoint of" in resumed({"weight": torch.zeros(1)})
    assert "does not fit" in resumed(state | {"network": {"0.weight": torch.zeros(1)}})
    checkpoint.write_bytes(checkpoint.read_bytes()[:300])
    with pytest.raises(ModelError, match="no torch weights"):
        run(tmp_path / "good", resume=True)


def test_another_seed_gives_another_run_and_the_same_seed_the_same(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    assert equal(run(tmp_path / "b"), first)
    other = run(tmp_path / "c", config=replace(CONFIG, seed=1))
    assert not equal(other, first)


def test_a_batch_depends_on_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    run(tmp_path / "a", config=replace(CONFIG, data_threads=3))
    one = sorted((step, made.tobytes()) for step, made in Tiny.samples)
    Tiny.samples = []
    run(tmp_path / "b", config=replace(CONFIG, data_threads=1, learning_rate=1.0))
    two = sorted((step, made.tobytes()) for step, made in Tiny.samples)
    assert one == two and sorted({step for step, _ in one}) == list(range(-1, 12))
    rng = np.random.default_rng([CONFIG.seed, 5, 1])  # seed, step, number of the sample
    assert (5, rng.integers(0, 256, (3, 32, 32), np.uint8).tobytes()) in one


def test_a_run_is_not_overwritten_unless_it_is_resumed(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(UsageError, match="--resume"):
        run(tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    with pytest.raises(InputError, match="nothing to resume"):
        run(tmp_path / "fresh", resume=True)


def test_a_checkpoint_that_fails_half_way_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoints.write_atomically(path, {"step": 1})
    save = torch.save

    def half(state: object, file: io.BufferedWriter) -> None:
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[:200])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(InputError, match="No space left on device; the one before is whole"):
        checkpoints.write_atomically(path, {"step": 2})
    assert torch.load(path, weights_only=True) == {"step": 1}
    monkeypatch.undo()
    checkpoints.write_atomically(
        path, {"step": 3}
    )  # what the failure left does not stand in the way
    assert torch.load(path, weights_only=True) == {"step": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    config = Config("tiny", 100, 1e-3, warmup=10, decay=0.5)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4) and rates[9] == pytest.approx(1e-3)
    assert rates[9:50] == [1e-3] * 41
    assert np.allclose(np.diff(rates[50:]), -1e-3 / 50)
    assert 0 < rates[-1] <= 2.1e-5


@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_other_schedules_fall_to_next_to_nothing_too(schedule: str) -> None:
    config = Config("tiny", 100, 1.0, warmup=1, decay=0.5, schedule=schedule)
    rates = np.array([config.rate(step) for step in range(100)])
    assert (rates[1:51] == 1).all() and (np.diff(rates[50:]) < 0).all() and rates[-1] < 0.02
    middle = {"cosine": 0.5, "exponential": 0.1}[schedule]
    assert rates[75] == pytest.approx(middle, abs=0.02)


@pytest.mark.parametrize("name", names())
def test_every_bundled_configuration_can_be_read_and_kept(name: str) -> None:
    config = read_config(name)
    assert config.steps >= 50 and 0 < config.learning_rate < 0.1
    assert config_of(plain(config), "checkpoint") == config


def test_an_unknown_key_and_an_unknown_system_are_usage_errors(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('system = "tiny"\nsteps = 3\nlearning_rate = 1e-3\nlearnin_rate = 2\n')
    with pytest.raises(UsageError, match=r"unknown key 'learnin_rate'.*'learning_rate'"):
        read_config("mine", path)
    path.write_text('system = "tiny"\nsteps = 3\nlearning_rate = 1e-3\nschedule = "cosin"\n')
    with pytest.raises(UsageError, match=r"'cosin'.*'cosine'"):
        read_config("mine", path)
    path.write_text('system = "tiny"\nsteps = 3\nlearning_rate = 1e-3\n[adversarial]\nwight = 1\n')
    with pytest.raises(UsageError, match=r"\[adversarial\].*'wight'.*'weight'"):
        read_config("mine", path)
    with pytest.raises(UsageError, match=r"'restor'; did you mean 'restore'"):
        read_config("restor")
    with pytest.raises(UsageError, match=r"tiny"):
        train.train("tini", Path(), tmp_path, replace(CONFIG, system="tini"))


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in [(16, 16), (24, 200), (300, 32)]:
        matrix = torch.randn(shape, generator=generator)
        result = orthogonalised(matrix)
        assert result.shape == shape
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.6 and values.max() < 1.25
        # near the polar factor: the same singular directions, of which none dominates
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        assert torch.allclose(torch.diag(u.T @ result @ v.T), values.sort()[0], atol=0.7)
        assert (
            (u.T @ result @ v.T) - torch.diag(torch.diag(u.T @ result @ v.T))
        ).abs().max() < 0.02


def test_muon_is_adam_for_biases() -> None:
    mine, theirs = (nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    ours = Muon([mine], lr=0.1)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    for step in range(5):
        for parameter in (mine, theirs):
            parameter.grad = torch.tensor([0.5, -1.0, 0.1]) * (step + 1)
        ours.step()
        adam.step()
        assert torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["restore", "detector", "landmarks"])
def test_networks_give_finite_outputs_of_their_shapes(name: str) -> None:
    network = build(name).eval()
    side = 96 if name != "landmarks" else read_side()
    with torch.inference_mode():
        output = network(torch.rand(2, 3, side, side))
    shapes = [tuple(o.shape) for o in (output if isinstance(output, list) else [output])]
    expected = {
        "restore": [(2, 3, side, side)],
        "detector": [(2, 15, side // s, side // s) for s in (8, 16, 32)],
        "landmarks": [(2, 5, 2)],
    }
    assert shapes == expected[name]
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters <= 3_000_000


def read_side() -> int:
    from fhrt.networks.landmarks import SIDE

    return SIDE


def test_an_untrained_restorer_returns_its_input() -> None:
    picture = torch.rand(1, 3, 64, 96)
    assert torch.equal(build("restore")(picture), picture)


def degraded(picture: Picture, rng: np.random.Generator, ranges: Blind) -> Picture:
    """The issue's words, step by step, with filters of SciPy's kind written out."""
    sigma = rng.uniform(*ranges.blur)
    radius = math.ceil(3 * sigma)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    values = np.pad(picture.astype(np.float64), [(radius,) * 2, (radius,) * 2, (0, 0)], "reflect")
    for axis in (0, 1):
        values = np.apply_along_axis(np.convolve, axis, values, kernel, "valid")
    height, width = picture.shape[:2]
    shrink = rng.uniform(*ranges.shrink)
    small = (round(width / shrink), round(height / shrink))
    values = cv2.resize(values.astype(np.float32), small, interpolation=cv2.INTER_LINEAR)
    level = rng.uniform(*ranges.noise)
    values = np.clip(np.round(values + rng.normal(0, level, values.shape)), 0, 255)
    buffer = io.BytesIO()
    quality = int(rng.uniform(*ranges.quality))
    Image.fromarray(values.astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    opened = np.asarray(Image.open(buffer))
    return cv2.resize(opened, (width, height), interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("ranges", [BLIND_256, BLIND_512])
@pytest.mark.parametrize("seed", range(4))
def test_blind_damage_is_that_of_an_independent_implementation(
    seed: int, ranges: Blind, astronaut: Picture
) -> None:
    face = np.ascontiguousarray(astronaut[20:276, 90:346])
    once = blind(face, np.random.default_rng(seed), ranges)
    assert once.shape == face.shape and once.dtype == np.uint8
    assert np.array_equal(blind(face, np.random.default_rng(seed), ranges), once)
    assert not np.array_equal(blind(face, np.random.default_rng(seed + 99), ranges), once)
    expected = degraded(face, np.random.default_rng(seed), ranges)
    # a value that OpenCV's float32 blur rounds the other way before JPEG may move its block
    difference = np.abs(once.astype(int) - expected)
    assert (difference > 0).mean() < 0.02 and difference.mean() < 0.05


def test_damage_leaves_its_input_alone(astronaut: Picture) -> None:
    face = np.ascontiguousarray(astronaut[:256, :256])
    before = face.copy()
    blind(face, np.random.default_rng(0))
    assert np.array_equal(face, before)


def dotted(angle: float = 0.0) -> Labelled:
    """A picture whose five landmarks are dots of their own brightness."""
    landmarks = np.array([[80, 90], [140, 92], [111, 120], [86, 150], [134, 152.0]])
    picture = np.zeros((240, 220, 3), np.uint8)
    for index, (x, y) in enumerate(landmarks):
        cv2.circle(picture, (int(x), int(y)), 6, (50 * (index + 1),) * 3, -1, cv2.LINE_AA)
    boxes = np.array([[55, 50, 165, 185.0]])
    return Labelled(labelled._mips(picture), boxes, landmarks[None], np.zeros(1, bool))


@pytest.mark.parametrize("zoom", [0.3, 0.55, 1, 1.7])
@pytest.mark.parametrize("mirrored", [False, True])
def test_landmarks_move_with_the_picture(mirrored: bool, zoom: float) -> None:
    source = dotted()
    radians = np.radians(20)
    turn = zoom * np.array(
        [[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]]
    )
    turn = turn @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    matrix = np.concatenate([turn, (200 - turn @ [110, 120])[:, None]], 1)
    canvas = np.zeros((400, 400, 3), np.uint8)
    warp(source, matrix, canvas)
    boxes, landmarks = warp_faces(matrix, source.boxes, source.landmarks)
    for index, original in enumerate(MIRRORED if mirrored else range(5)):
        x, y = landmarks[0, index]
        dot = np.abs(canvas[..., 0].astype(int) - 50 * (original + 1)) <= 3
        rows, columns = np.nonzero(dot)
        near = np.hypot(columns - x, rows - y) < 8 * zoom + 2
        assert np.hypot(columns[near].mean() - x, rows[near].mean() - y) < 0.6
    assert (landmarks[0] > boxes[0, :2]).all() and (landmarks[0] < boxes[0, 2:]).all()
    upright = matrix.copy()
    upright[:, :2] = np.diag([zoom, zoom])
    plain, _ = warp_faces(upright, source.boxes, source.landmarks)
    assert np.allclose(plain[0, 2:] - plain[0, :2], zoom * np.array([110, 135]))


def test_what_a_picture_does_not_cover_stays_on_the_canvas() -> None:
    canvas = np.full((300, 300, 3), 9, np.uint8)
    warp(dotted(), np.array([[0.5, 0, 150], [0, 0.5, 150]]), canvas)
    assert (canvas[:148] == 9).all() and (canvas[152:250, 152:250] != 9).any()


def test_cells_are_asked_for_the_face_around_them() -> None:
    cells = detector.cell_centres(320)
    boxes = np.array([[100, 100, 130, 140], [40, 150, 240, 310], [10, 10, 16, 16.0]])
    landmarks = np.arange(30).reshape(3, 5, 2).astype(float)
    asked = detector.assign(cells, boxes, landmarks, np.zeros(3, bool))
    positive = asked["positive"] > 0
    assert positive.any()
    x, y, stride = cells[positive].T
    mine = asked["boxes"][positive]
    assert ((x > mine[:, 0]) & (x < mine[:, 2]) & (y > mine[:, 1]) & (y < mine[:, 3])).all()
    assert {tuple(box) for box in mine} == {tuple(box) for box in boxes[:2]}
    assert set(stride[mine[:, 0] == 100]) <= {8.0, 16.0} and set(stride[mine[:, 0] == 40]) == {32.0}
    skipped = cells[asked["ignore"] > 0]
    assert len(skipped) and (skipped[:, :2] < 20).all()  # too small to be asked for or punished
    assert not (asked["ignore"][positive]).any()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A small part of the shared training data, read by the real reader."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not here")
    folder = tmp_path_factory.mktemp("data")
    return labelled.read_sources(excerpt(folder))


def excerpt(folder: Path) -> Path:
    """Links to a few pictures of each kind, with their rows of the tables."""
    photos, faces = folder / "photos" / "train", folder / "faces"
    photos.mkdir(parents=True)
    faces.mkdir()
    for kind in ("in_the_wild", "portraits", "old", "none"):
        (photos / kind).symlink_to(SHARED / "photos" / "train" / kind)
    for name in ("train", "test"):
        (faces / name).symlink_to(SHARED / "faces" / name)
    with (SHARED / "photos" / "train" / "photos.csv").open() as file:
        header, *rows = csv.reader(file)
    names = sorted({row[0] for row in rows})
    chosen = {
        n
        for kind in ("in_", "por", "old", "non")
        for n in [n for n in names if n.startswith(kind)][:6]
    }
    with (photos / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *(row for row in rows if row[0] in chosen)])
    with (SHARED / "faces" / "faces.csv").open() as file:
        header, *rows = csv.reader(file)
    train_rows = [row for row in rows if row[1] == "train"][:: len(rows) // 12]
    test_rows = [row for row in rows if row[1] == "test"][:3]
    with (faces / "faces.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *train_rows, *test_rows])
    return folder


def test_sources_are_sorted_by_kind_and_their_boxes_hold_their_landmarks(sources: Sources) -> None:
    assert sources.photos.keys() == {"in_the_wild", "portraits", "old"}
    assert len(sources.empty) >= 6 and all(len(p.boxes) == 0 for p in sources.empty)
    assert sources.faces
    for picture in [*sources.faces, *(p for pool in sources.photos.values() for p in pool)]:
        height, width = picture.mips[0].shape[:2]
        assert picture.mips[2].shape[0] == pytest.approx(height / 4, abs=1)
        for box, points in zip(picture.boxes, picture.landmarks, strict=True):
            middle = points.mean(0)
            assert (middle > box[:2]).all() and (middle < box[2:]).all()
            assert 0.3 < (box[2] - box[0]) / (box[3] - box[1]) < 2
            assert (middle > 0).all() and (middle < [width, height]).all()


def test_mosaics_hold_their_faces(sources: Sources) -> None:
    counts, sizes = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        picture, boxes, landmarks, ignore = detector.mosaic(sources, 320, rng)
        assert picture.shape == (320, 320, 3) and picture.dtype == np.uint8
        assert len(boxes) == len(landmarks) == len(ignore)
        sure = ~ignore
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        # a face that counts shows at least 65 % of itself
        clipped = np.clip(boxes[sure], 0, 320)
        seen = (clipped[:, 2:] - clipped[:, :2]).prod(1)
        area = (boxes[sure, 2:] - boxes[sure, :2]).prod(1)
        assert (seen >= 0.5 * area).all()
        centres = (boxes[sure, :2] + boxes[sure, 2:]) / 2
        assert (np.abs(landmarks[sure].mean(1) - centres) < 0.5 * np.sqrt(area)[:, None]).all()
        eyes = landmarks[sure, 1] - landmarks[sure, 0]
        assert (eyes[:, 0] > -0.3 * np.sqrt(area)).all()  # left is left as seen, mirrored or not
        counts.append(int(sure.sum()))
        sizes += list(np.sqrt(area))
        again = detector.mosaic(sources, 320, np.random.default_rng(seed))
        assert np.array_equal(again[0], picture) and np.array_equal(again[1], boxes)
    assert sum(counts) > 40 and min(sizes) < 32 and max(sizes) > 100


@needs_shared
@pytest.mark.parametrize("name", ["restore", "srgan-x4", "unmask-256", "detector", "landmarks"])
def test_training_reads_nothing_of_the_test_set(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real systems
    data = excerpt(tmp_path / "data")
    if name not in ("detector", "landmarks"):
        (data / "faces" / "train").unlink()
        for size in ("256", "512"):
            few = data / "faces" / "train" / size
            few.mkdir(parents=True)
            for path in sorted((SHARED / "faces" / "train" / size).iterdir())[:4]:
                (few / path.name).symlink_to(path)
    read: list[str] = []
    fromfile = np.fromfile

    def spying(path: Any, *args: Any, **options: Any) -> np.ndarray:
        read.append(str(path))
        return fromfile(path, *args, **options)

    read_bytes = Path.read_bytes

    def spying_bytes(path: Path) -> bytes:
        read.append(str(path))
        return read_bytes(path)

    monkeypatch.setattr(np, "fromfile", spying)
    monkeypatch.setattr(Path, "read_bytes", spying_bytes)
    monkeypatch.setattr(cv2, "imread", None)
    config = read_config(name)
    system = train.systems()[config.system](data, replace(config, hold_out=0.0))
    first, again = (
        {key: v[None] for key, v in system.sample(0, np.random.default_rng([0, 0])).items()}
        for _ in range(2)
    )
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert all(np.isfinite(values).all() for values in first.values())
    inside = [Path(p).relative_to(data).parts for p in read if not p.endswith("faces.csv")]
    assert len(inside) >= 8
    assert all("train" in parts and "test" not in parts for parts in inside)
    tensors = {key: torch.from_numpy(value) for key, value in first.items()}
    loss, figures = system.loss(system.output(system.build(), tensors), tensors)
    assert torch.isfinite(loss) and loss != 0 and all(map(math.isfinite, figures.values()))


def test_missing_data_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in ("restore", "detector", "landmarks"):
        with pytest.raises(InputError):
            train.train(name, tmp_path / "nothing", tmp_path / name, read_config(name))


def test_the_generalised_overlap_is_that_of_the_formula() -> None:
    a = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10.0]])
    b = torch.tensor([[5, 0, 15, 10], [20, 0, 30, 10.0]])
    overlap, generalised = detector.giou(a, b)
    assert overlap.tolist() == pytest.approx([1 / 3, 0])
    # IoU minus the share of the hull that neither covers
    assert generalised.tolist() == pytest.approx([1 / 3, -1 / 3])
