"""GFPGAN's fine-tune: what learns, from which weights, and how much memory it takes."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
pytest.importorskip("lightning_fabric", reason="fhrt[train] is not installed")
from torch import Tensor, nn  # noqa: E402

from fhrt.damage.degrade import BLIND_512, blind  # noqa: E402
from fhrt.errors import ModelError, UsageError  # noqa: E402
from fhrt.faces import Picture  # noqa: E402
from fhrt.networks import build  # noqa: E402
from fhrt.training import train  # noqa: E402
from fhrt.training.config import Config, names, read_config  # noqa: E402
from fhrt.training.gfpgan import GfpganSystem, pyramid  # noqa: E402
from fhrt.training.log import Reports  # noqa: E402
from fhrt.training.pairs import DAMAGES  # noqa: E402

TINY = {"out_size": 64, "channel_multiplier": 1, "narrow": 0.125, "style": 64}
CONFIG = """
system = "gfpgan"
start = "gfpgan-v1.4"
steps = 6
learning_rate = 1e-3
warmup = 2
checkpoint_every = 2
log_every = 2
validate_every = 3
hold_out = 0.2
precision = "fp32"

[rates]
stylegan_decoder = {decoder}

[options]
network_options = {{ out_size = 64, channel_multiplier = 1, narrow = 0.125, style = 64 }}
size = 64
batch = 2
blur = [0.4, 1.5]
shrink = [1, 3]

[adversarial]
discriminator = "patch"
weight = 0.01
options = {{ width = 4 }}
"""
GENERATOR = "stylegan_decoder."


@pytest.fixture(scope="module")
def faces(astronaut: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of 64 pixels, pieces of one photograph."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for number in range(12):
        y, x = rng.integers(0, 200, 2)
        piece = cv2.resize(astronaut[y : y + 256, x : x + 256], (64, 64))
        cv2.imwrite(str(folder / f"{number:02}.png"), piece)
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a narrow network in the layout of the published file."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("published") / "GFPGANv1.4.pth"
    torch.save({"params_ema": build("gfpgan", **TINY).state_dict()}, path)
    return path


def given(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["params_ema"]
    return state


def command(data: Path, output: Path, *more: str, decoder: float = 0.0) -> list[str]:
    """`fhrt train gfpgan` on the narrow network."""
    output.mkdir(parents=True, exist_ok=True)
    config = output / "config.toml"
    config.write_text(CONFIG.format(decoder=decoder))
    call = [sys.executable, "-m", "fhrt.cli.main", "train", "gfpgan", "--data", str(data)]
    return [*call, "-o", str(output), "--accelerator", "cpu", "--config", str(config), *more]


def call(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    threads = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=1800, env=threads, check=False
    )


def resuming(arguments: list[str]) -> list[str]:
    """The same call with --resume; the checkpoint holds the configuration."""
    return [*arguments[: arguments.index("--config")], "--resume"]


def trained(output: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(output / "gfpgan" / "gfpgan.pth", weights_only=True)
    return weights


def fixed(**changes: Any) -> Config:
    """A short run of the narrow network, without a discriminator."""
    options = {"network_options": TINY, "size": 64, "batch": 6, "fidelity": "l1"}
    config = Config("gfpgan", 20, 2e-3, warmup=3, ema=0.9, log_every=5, hold_out=0.0, clip=1e9)
    options |= changes.pop("options", {})
    return replace(config, precision="fp32", options=options, **changes)


def in_process(
    data: Path,
    output: Path,
    config: Config,
    weights: Path | None,
    monkeypatch: pytest.MonkeyPatch,
) -> list[dict[str, float]]:
    """Train here; returns the lines of the log."""
    monkeypatch.setattr(train, "_keep_memory", lambda: None)  # it would outlast the test
    torch.set_num_threads(1)
    lines: list[dict[str, float]] = []
    reports = Reports(lambda step, figures: lines.append(figures))
    where = train.Devices("cpu")
    train.train("gfpgan", data, output / "gfpgan", config, False, reports, where, weights)
    return lines


@pytest.mark.parametrize("decoder", [0.0, 1.0])
def test_the_loss_falls(
    decoder: float, faces: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fixed(rates={"stylegan_decoder": decoder}, options={"pyramid_until": 100.0})
    lines = in_process(faces, tmp_path, config, published, monkeypatch)
    assert len(lines) == 4
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"], lines
    assert lines[-1]["pyramid"] < 0.9 * lines[0]["pyramid"], lines
    assert lines[-1]["psnr"] > lines[0]["psnr"] + 3, lines


def test_a_run_killed_at_a_random_moment_and_resumed_equals_an_unbroken_one(
    faces: Path, published: Path, tmp_path: Path
) -> None:
    start = ("--checkpoint", str(published))
    whole = call(command(faces, tmp_path / "whole", *start, decoder=0.1))
    assert whole.returncode == 0, whole.stderr
    broken = command(faces, tmp_path / "broken", *start, decoder=0.1)
    process = subprocess.Popen(
        broken,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    while not (tmp_path / "broken" / "gfpgan" / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1))
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = call(resuming(broken))
    assert resumed.returncode == 0, resumed.stderr
    one, two = trained(tmp_path / "whole"), trained(tmp_path / "broken")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert (tmp_path / "whole" / "gfpgan" / "validation" / "000006.png").is_file()


def test_two_processes_train_as_one_does(faces: Path, published: Path, tmp_path: Path) -> None:
    for devices in ("1", "2"):
        start = command(faces, tmp_path / devices, "--checkpoint", str(published))
        config = Path(start[start.index("--config") + 1])
        # BatchNorm of the discriminator sees each process's own share
        config.write_text(config.read_text().split("[adversarial]")[0])
        done = call([*start, "--devices", devices])
        assert done.returncode == 0, done.stderr
    one, two = trained(tmp_path / "1"), trained(tmp_path / "2")
    assert all(torch.allclose(one[key], two[key], atol=5e-5) for key in one)
    assert not torch.equal(one["final_linear.weight"], given(published)["final_linear.weight"])


def test_a_frozen_generator_stays_bit_for_bit_and_takes_no_memory(
    faces: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fixed(steps=3, rates={"stylegan_decoder": 0})
    in_process(faces, tmp_path, config, published, monkeypatch)
    before, after = given(published), trained(tmp_path)
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    learnt = {name for name, _ in build("gfpgan", **TINY).named_parameters()}
    learnt = {name for name in learnt if not name.startswith(GENERATOR)}
    assert changed == learnt
    state = torch.load(tmp_path / "gfpgan" / "checkpoint.pt", weights_only=True)
    assert len(state["optimiser"]["state"]) == len(learnt)


def test_the_generator_learns_at_its_share_of_the_rate(
    faces: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {}
    for share in (1.0, 0.1):
        output = tmp_path / str(share)
        config = fixed(steps=1, warmup=1, ema=0.0, rates={"stylegan_decoder": share})
        in_process(faces, output, config, published, monkeypatch)
        before, after = given(published), trained(output)
        moved[share] = {key: (after[key] - before[key]).abs().max().item() for key in before}
    unused = f"{GENERATOR}style_mlp."
    parts = [name for name, _ in build("gfpgan", **TINY).named_parameters() if unused not in name]
    for name in parts:
        wanted = moved[1.0][name] * (0.1 if name.startswith(GENERATOR) else 1.0)
        # up to what float32 keeps of a small change
        assert 0 < moved[0.1][name] == pytest.approx(wanted, rel=0.02, abs=2e-7), name
    assert all(value == 0 for key, value in moved[1.0].items() if unused in key)


def test_the_longest_name_gives_the_share_and_a_name_of_nothing_is_refused() -> None:
    def network() -> nn.Module:
        return build("gfpgan", **TINY)

    made = network()
    shares = {"stylegan_decoder": 0.0, "stylegan_decoder.to_rgbs": 0.5, "toRGB": 2.0}
    groups = train.learning(made, shares)
    assert {share: len(weights) for share, weights in groups.items()} == {
        0.5: len(list(made.stylegan_decoder.to_rgbs.parameters())),
        2.0: len(list(made.toRGB.parameters())),
        1.0: sum(not n.startswith((GENERATOR, "toRGB.")) for n, _ in made.named_parameters()),
    }
    learn = {name for name, weight in made.named_parameters() if weight.requires_grad}
    assert learn == {
        n for n, _ in made.named_parameters() if not n.startswith(GENERATOR) or ".to_rgbs." in n
    }
    with pytest.raises(UsageError, match="no 'stylegan_decodr'; did you mean 'stylegan_decoder'"):
        train.learning(network(), {"stylegan_decodr": 0.0})
    with pytest.raises(UsageError, match="nothing could learn"):
        train.learning(network(), dict.fromkeys(dict(network().named_children()), 0.0))
    with pytest.raises(UsageError, match="toRGB = -1 is no share"):
        fixed(rates={"toRGB": -1})


def test_the_loss_on_the_pictures_of_the_unet_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    target = rng.random((32, 32, 3), np.float32)
    made = [rng.random((side, side, 3), np.float32) for side in (8, 16, 32)]
    expected = sum(
        np.abs(face - cv2.resize(target, face.shape[:2], interpolation=cv2.INTER_AREA)).mean()
        for face in made
    )
    tensors = [torch.from_numpy(face).permute(2, 0, 1)[None] for face in [*made, target]]
    assert float(pyramid(tensors[:-1], tensors[-1])) == pytest.approx(float(expected), rel=1e-5)


def test_its_weight_falls_to_nothing(faces: Path) -> None:
    config = fixed(options={"pyramid": 0.8, "pyramid_until": 0.5})
    system = GfpganSystem(faces, config)
    weights = [system.sample(step, np.random.default_rng(0))["pyramid"] for step in range(20)]
    assert np.allclose(weights[:10], 0.8 * (1 - np.arange(10) / 10)) and not any(weights[10:])
    sample = {key: torch.from_numpy(value[None]) for key, value in system.sample(5, rng()).items()}
    output = system.output(system.build(), sample)
    loss, figures = system.loss(output, sample)
    distance = (output[0] - sample["target"] / 255).abs().mean().item()
    assert loss.item() == pytest.approx(distance + 0.4 * figures["pyramid"], rel=1e-5)


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_faces_of_512_are_damaged_as_the_protocol_blind_512_does(astronaut: Picture) -> None:
    damage = DAMAGES["blind"](read_config("gfpgan").options)
    made, truth = damage(astronaut, rng())
    assert np.array_equal(made, blind(astronaut, rng(), BLIND_512)) and truth is astronaut


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("narrower", r"final_linear.weight is \(320, 512\), and \(640, 512\) is wanted"),
        ("srresnet", "act.weight is not of it"),
        ("checkpoint", "name is not of it"),
        ("truncated", "no torch weights"),
        ("rubbish", "no torch weights"),
        ("list", "it holds a list"),
        ("missing", "no such file"),
    ],
)
def test_a_file_that_is_not_its_weights_is_refused_in_one_line(
    content: str,
    words: str,
    faces: Path,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "given.pth"
    if content == "narrower":
        torch.save({"params_ema": build("gfpgan", **TINY | {"style": 32}).state_dict()}, path)
    elif content == "srresnet":
        torch.save(build("srresnet").state_dict(), path)
    elif content == "checkpoint":
        torch.save({"name": "gfpgan", "step": 3} | given(published), path)
    elif content == "truncated":
        path.write_bytes(published.read_bytes()[: published.stat().st_size // 2])
    elif content == "rubbish":
        path.write_bytes(b"no weights")
    elif content == "list":
        torch.save([1, 2], path)
    with pytest.raises(ModelError, match=words) as refused:
        in_process(faces, tmp_path / "out", fixed(), path, monkeypatch)
    line = str(refused.value)
    assert "\n" not in line and line.startswith(str(path))
    assert not (tmp_path / "out").exists()


def test_without_weights_it_says_what_to_give_and_takes_those_that_were_pulled(
    faces: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = {"FHRT_WEIGHTS": str(tmp_path / "none"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = call(command(faces, tmp_path / "out"), **nowhere)
    assert done.returncode == ModelError.exit_code and done.stderr.strip().count("\n") == 0
    assert "--checkpoint FILE" in done.stderr and "fhrt models pull gfpgan-v1.4" in done.stderr
    assert not (tmp_path / "out" / "gfpgan").exists()
    monkeypatch.setenv("FHRT_WEIGHTS", str(published.parent))
    config = fixed(steps=1, learning_rate=0.0, start="gfpgan-v1.4")
    in_process(faces, tmp_path / "pulled", config, None, monkeypatch)
    before, after = given(published), trained(tmp_path / "pulled")
    assert all(torch.equal(before[key], after[key]) for key in before)
    # and goes on from its own result, which is a plain state dict
    own = tmp_path / "pulled" / "gfpgan" / "gfpgan.pth"
    in_process(faces, tmp_path / "more", config, own, monkeypatch)
    more = trained(tmp_path / "more")
    assert all(torch.equal(before[key], more[key]) for key in before)


def test_all_leaves_it_out_and_says_so(tmp_path: Path) -> None:
    start = [sys.executable, "-m", "fhrt.cli.main", "train", "all"]
    done = call([*start, "--data", str(tmp_path / "gone"), "-o", str(tmp_path)])
    first, *_ = done.stderr.splitlines()
    assert "gfpgan is left out" in first and "--checkpoint FILE" in first
    from fhrt.cli.train import in_order

    chosen, left_out = in_order(names())
    assert left_out == ["gfpgan"] and sorted([*chosen, *left_out]) == names()
    starts = {name: read_config(name).start for name in chosen}
    assert all(chosen.index(starts[n]) < chosen.index(n) for n in chosen if starts[n])
    done = call([*start, "--data", str(tmp_path), "--checkpoint", "a.pth"])
    assert done.returncode == UsageError.exit_code and "is for one system" in done.stderr


@pytest.mark.slow  # minutes: 86 million weights at 512 pixels
def test_the_whole_network_learns_resumes_and_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = Path(__file__).resolve().parents[1]
    monkeypatch.syspath_prepend(str(tests / "networks"))
    from reference import REFERENCE, seeded

    data = REFERENCE.parent / "faces" / "train" / "512"
    if not data.is_dir():
        pytest.skip("../shared is not here")
    (tmp_path / "faces").mkdir()
    for path in sorted(data.iterdir())[::60]:
        (tmp_path / "faces" / path.name).symlink_to(path)
    weights = tmp_path / "GFPGANv1.4.pth"
    torch.save({"params_ema": seeded("gfpgan-v1-clean")}, weights)
    config = tmp_path / "gfpgan.toml"
    bundled = Path(train.__file__).parent / "configs" / "gfpgan.toml"
    text, of_adversarial = bundled.read_text().split("[adversarial]")
    text = "hold_out = 0.1\n" + text + "[options]" + of_adversarial.split("[options]")[1]
    config.write_text(text.replace("batch = 2", "batch = 1"))
    call_ = [sys.executable, "-m", "fhrt.cli.main"]
    fine_tune = [*call_, "train", "gfpgan", "--data", str(tmp_path / "faces"), "-o", str(tmp_path)]
    first = ["--config", str(config), "--checkpoint", str(weights), "--steps", "2"]
    done = call([*fine_tune, "--accelerator", "cpu", *first], OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak < 8e9, f"{peak / 1e9:.1f} GB"

    checkpoint = tmp_path / "gfpgan" / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] == 2
    torch.save(state | {"config": state["config"] | {"steps": 3}}, checkpoint)
    del state
    second = trained(tmp_path)
    done = call([*fine_tune, "--accelerator", "cpu", "--resume"], OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    third, before = trained(tmp_path), given(weights)
    assert all(torch.equal(before[key], third[key]) for key in before if GENERATOR in key)
    assert not torch.equal(second["final_linear.weight"], third["final_linear.weight"])
    del second, third, before

    own = str(tmp_path / "gfpgan" / "gfpgan.pth")
    target = ["--to", "onnx", "-o", str(tmp_path / "artifacts")]
    done = call([*call_, "export", "gfpgan-v1.4", "--checkpoint", own, *target])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "artifacts" / "gfpgan-v1.4" / "model.onnx").stat().st_size > 3e8
