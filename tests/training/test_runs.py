"""`fhrt train` as a user starts it: killed, resumed, shared by two processes, fed with rubbish."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
pytest.importorskip("lightning_fabric", reason="fhrt[train] is not installed")

from fhrt.faces import Picture  # noqa: E402

CONFIG = """
system = "pairs"
steps = 12
learning_rate = 1e-3
warmup = 2
checkpoint_every = 3
log_every = 3
validate_every = 6
hold_out = 0.2
precision = "fp32"

[options]
network = "{network}"
network_options = {options}
damage = "shrink"
small = 16
size = {size}
batch = 4
"""
SRGAN = CONFIG.format(network="srresnet", options="{ width = 16, blocks = 2 }", size=64)
# without BatchNorm, whose statistics are those of each process's own share of the batch
ATTENTION = CONFIG.format(
    network="facesr-attention", options="{ widths = [16, 16], blocks = [1, 1] }", size=64
)
GAN = """
[adversarial]
discriminator = "vgg"
weight = 0.01
options = { width = 4 }
"""


@pytest.fixture(scope="module")
def faces(astronaut: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of 64 pixels, pieces of one photograph."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for number in range(20):
        y, x = rng.integers(0, 200, 2)
        piece = cv2.resize(astronaut[y : y + 256, x : x + 256], (64, 64))
        cv2.imwrite(str(folder / f"{number:02}.png"), piece)
    return folder


def command(name: str, config: str, data: Path, output: Path, *more: str) -> list[str]:
    output.mkdir(parents=True, exist_ok=True)
    path = output / "config.toml"
    path.write_text(config)
    start = [sys.executable, "-m", "fhrt.cli.main", "train", name, "--data", str(data)]
    return [*start, "--config", str(path), "-o", str(output), "--accelerator", "cpu", *more]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    threads = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=300, env=threads, check=False
    )


def resuming(arguments: list[str]) -> list[str]:
    """The same call with --resume; the checkpoint holds the configuration."""
    at = arguments.index("--config")
    return [*arguments[:at], *arguments[at + 2 :], "--resume"]


def weights(output: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(output / name / f"{name}.pth", weights_only=True)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_killed_at_a_random_moment_and_resumed_equals_an_unbroken_one(
    faces: Path, tmp_path: Path
) -> None:
    whole = run(command("srgan", SRGAN + GAN, faces, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    broken = command("srgan", SRGAN + GAN, faces, tmp_path / "broken")
    process = subprocess.Popen(
        broken,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    checkpoint = tmp_path / "broken" / "srgan" / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = run(resuming(broken))
    assert resumed.returncode == 0, resumed.stderr
    assert same(weights(tmp_path / "whole", "srgan"), weights(tmp_path / "broken", "srgan"))


@pytest.mark.slow
def test_two_runs_of_200_steps_give_identical_weights(faces: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = run(command("srgan", SRGAN + GAN, faces, tmp_path / name, "--steps", "200"))
        assert done.returncode == 0, done.stderr
    assert same(weights(tmp_path / "a", "srgan"), weights(tmp_path / "b", "srgan"))


def test_two_processes_give_the_loss_of_one_with_the_whole_batch(
    faces: Path, tmp_path: Path
) -> None:
    losses = []
    for devices in ("1", "2"):
        output = tmp_path / devices
        done = run(command("sr", ATTENTION, faces, output, "--devices", devices))
        assert done.returncode == 0, done.stderr
        with (output / "sr" / "log.csv").open() as file:
            rows = list(csv.DictReader(file))
        # figures of the log are the first process's share; validation is the same faces for both
        losses.append([float(r["validation_psnr"]) for r in rows if r.get("validation_psnr")])
    one, two = (weights(tmp_path / devices, "sr") for devices in ("1", "2"))
    assert all(torch.allclose(one[key], two[key], atol=2e-5) for key in one)
    assert losses[0] == pytest.approx(losses[1], abs=1e-3) and len(losses[0]) == 2


def test_what_is_no_picture_is_skipped_counted_and_named(faces: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in list(faces.iterdir())[:6]:
        (data / path.name).write_bytes(path.read_bytes())
    (data / "rubbish.jpg").write_bytes(b"not a picture")
    (data / "half.png").write_bytes(next(faces.iterdir()).read_bytes()[:200])
    config = SRGAN.replace("hold_out = 0.2", "hold_out = 0.0")
    done = run(command("srgan", config, data, tmp_path / "out", "--steps", "1"))
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stderr.splitlines() if "could not be used" in line)
    assert "2 pictures" in line and "rubbish.jpg" in line and "half.png" in line


@pytest.mark.parametrize(
    ("prepare", "config", "code", "words"),
    [
        ("empty", SRGAN, 1, "no pictures"),
        ("rubbish", SRGAN, 1, "nothing to train on"),
        ("missing", SRGAN, 1, "gone"),
        ("faces", "stepz = 3\n" + SRGAN, 2, "'stepz'; did you mean 'steps'?"),
        ("faces", SRGAN.replace('"shrink"', '"shrnk"'), 2, "did you mean 'shrink'?"),
        ("faces", SRGAN.replace('"srresnet"', '"srresnt"'), 1, "did you mean 'srresnet'?"),
        ("faces", SRGAN.replace("width", "widht"), 1, "'widht'; did you mean 'width'?"),
        ("faces", SRGAN.replace("steps = 12", "steps = "), 2, "no TOML"),
    ],
)
def test_bad_input_is_one_line_and_the_right_exit_code(
    prepare: str, config: str, code: int, words: str, faces: Path, tmp_path: Path
) -> None:
    data = {"faces": faces, "missing": tmp_path / "gone"}.get(prepare, tmp_path / prepare)
    if prepare in ("empty", "rubbish"):
        data.mkdir()
    if prepare == "rubbish":
        (data / "a.jpg").write_bytes(b"rubbish")
    done = run(command("srgan", config, data, tmp_path / "out"))
    assert done.returncode == code, done.stderr
    assert words in done.stderr and done.stderr.strip().count("\n") == 0
    assert not (tmp_path / "out" / "srgan").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_previous_checkpoint(faces: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = command("srgan", SRGAN, faces, output)
    assert run(arguments).returncode == 0
    longer = torch.load(output / "srgan" / "checkpoint.pt", weights_only=True)
    longer["config"]["steps"] = 20
    torch.save(longer, output / "srgan" / "checkpoint.pt")
    before = (output / "srgan" / "checkpoint.pt").read_bytes()
    (output / "srgan" / "checkpoint.pt.part").symlink_to("/dev/full")
    done = run(resuming(arguments))
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "the one before is whole" in done.stderr
    assert (output / "srgan" / "checkpoint.pt").read_bytes() == before
