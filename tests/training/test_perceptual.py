"""Losses over what fixed networks see: identity and content."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from fhrt.errors import ModelError, UsageError  # noqa: E402
from fhrt.faces import TEMPLATE, TEMPLATE_SIDE, Picture, similarity  # noqa: E402
from fhrt.networks import vgg  # noqa: E402
from fhrt.networks.mobilefacenet import MobileFaceNet  # noqa: E402
from fhrt.quality.identity import ARCFACE, Embedder, align, cosine  # noqa: E402
from fhrt.training import train  # noqa: E402
from fhrt.training.config import (  # noqa: E402
    Config,
    Perceptual,
    config_of,
    plain,
    read_config,
)
from fhrt.training.perceptual import (  # noqa: E402
    KINDS,
    Batch,
    build_losses,
    content_loss,
    identity_loss,
    to_arcface,
)
from fhrt.training.restore import _position  # noqa: E402

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
WEIGHTS = SHARED / "weights" / "mobilefacenet_112.pth"
ONNX = WEIGHTS.with_suffix(".onnx")
needs_shared = pytest.mark.skipif(not WEIGHTS.is_file(), reason="../shared is not here")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def mobilefacenet() -> nn.Module:
    network = MobileFaceNet()
    weights = torch.load(WEIGHTS, map_location="cpu", weights_only=True)
    assert len(weights) == 307
    network.load_state_dict(weights, strict=True)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def people() -> list[tuple[Picture, Picture]]:
    """Two pictures each of eight people of the training set, 256 pixels."""
    with (SHARED / "faces" / "faces.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "train" and r["identity"]]
    files: dict[str, list[str]] = {}
    for row in rows:
        files.setdefault(row["identity"], []).append(row["file"])
    chosen = [found[:2] for found in files.values() if len(found) > 1][:8]

    def read(name: str) -> Picture:
        picture = cv2.cvtColor(cv2.imread(str(SHARED / "faces" / name)), cv2.COLOR_BGR2RGB)
        return cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)

    return [(read(one), read(two)) for one, two in chosen]


@pytest.fixture
def tiny_vgg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as torchvision's, of a network with a few channels."""
    monkeypatch.setattr(vgg, "LAYERS", ((4,) * 2, (4,) * 2, (6,) * 4, (6,) * 4, (6,) * 4))
    torch.manual_seed(3)
    state = vgg.VggFeatures().state_dict() | {"classifier.0.weight": torch.zeros(2, 2)}
    path = tmp_path / "vgg.pth"
    torch.save(state, path)
    return path


def planar(*pictures: Picture) -> Tensor:
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy())


def template(side: int) -> np.ndarray:
    return TEMPLATE * (side / TEMPLATE_SIDE)


@needs_shared
def test_the_torch_network_is_that_of_the_onnx_file_and_knows_people(
    mobilefacenet: nn.Module, people: list[tuple[Picture, Picture]]
) -> None:
    pytest.importorskip("onnxruntime", reason="fhrt[cpu] is not installed")
    faces = [align(picture, template(256)) for pair in people for picture in pair]
    expected = Embedder(ONNX, threads=1).embed(faces)
    found = F.normalize(mobilefacenet(planar(*faces).float() / 255)).numpy()
    assert np.abs(found - expected).max() < 1e-5
    alike = found[0::2] @ found[1::2].T
    same = np.diag(alike)
    others = alike[~np.eye(len(alike), dtype=bool)]
    assert np.median(same) > 0.5 and abs(others.mean()) < 0.15 and same.mean() > others.max()


@pytest.mark.parametrize("side", [64, 128, 256, 512])
def test_the_crop_of_the_loss_lies_on_the_template_of_the_network(side: int) -> None:
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    # bilinear samples and their means keep linear values exactly: each pixel tells where it is from
    where = torch.from_numpy(np.stack([x, y, x * 0])[None].astype(np.float32))
    found = to_arcface(where)[0, :2].numpy()
    inverse = cv2.invertAffineTransform(similarity(template(side), ARCFACE))
    columns, rows = np.meshgrid(np.arange(112), np.arange(112))
    expected = inverse[:, :2] @ np.stack([columns.ravel(), rows.ravel()]) + inverse[:, 2:]
    assert np.abs(found.reshape(2, -1) - expected).max() < 0.01


def test_fine_detail_is_averaged_where_the_crop_shrinks() -> None:
    x, y = np.meshgrid(np.arange(512), np.arange(512))
    board = torch.from_numpy(((x + y) % 2).astype(np.float32)).expand(1, 3, -1, -1)
    assert float((to_arcface(board) - 0.5).abs().max()) < 0.2
    assert float(to_arcface(board).std()) < 0.05


@needs_shared
def test_identity_is_the_cosine_that_eval_reports(
    mobilefacenet: nn.Module, people: list[tuple[Picture, Picture]]
) -> None:
    pytest.importorskip("onnxruntime", reason="fhrt[cpu] is not installed")
    embedder = Embedder(ONNX, threads=1)
    for one, two in people[:4]:
        a, b = embedder.embed([one, two], [template(256)] * 2)
        loss = identity_loss(mobilefacenet, planar(one).float() / 255, planar(two).float() / 255)
        assert float(loss) == pytest.approx(1 - float(cosine(a, b)), abs=0.03)


@needs_shared
def test_identity_leads_the_output_to_the_face_and_touches_nothing_else(
    people: list[tuple[Picture, Picture]],
) -> None:
    losses = build_losses([Perceptual("identity", 0.5, str(WEIGHTS))], CPU)
    batch = {"target": planar(people[0][0])}
    truth = batch["target"].float() / 255
    loss, figures = losses(truth, batch)
    assert abs(float(loss)) < 1e-5 and abs(figures["identity"]) < 1e-5
    blurred = F.avg_pool2d(truth, 13, 1, 6, count_include_pad=False)
    output = blurred.clone().requires_grad_()
    before, figures = losses(output, batch)
    assert float(before.detach()) == pytest.approx(0.5 * figures["identity"]) and before > 0.05
    before.backward()
    assert output.grad is not None and torch.isfinite(output.grad).all()
    assert output.grad[..., 80:200, 80:180].abs().sum() > output.grad[..., :20, :].abs().sum() * 10
    with torch.no_grad():
        step = output - 2 * output.grad / output.grad.norm()
    assert float(losses(step, batch)[0]) < float(before.detach()) - 0.005


def test_content_is_the_distance_of_the_published_features(tiny_vgg: Path) -> None:
    """Against the network written out from the file: configuration E, up to its 16th convolution,
    which torchvision numbers 34."""
    losses = build_losses([Perceptual("content", 2.0, str(tiny_vgg))], CPU)
    state = torch.load(tiny_vgg, weights_only=True)
    torch.manual_seed(0)
    target = torch.randint(0, 256, (2, 3, 48, 32), dtype=torch.uint8)
    output = torch.rand(2, 3, 48, 32, requires_grad=True)

    def features(x: Tensor) -> Tensor:
        x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
            [0.229, 0.224, 0.225]
        ).view(3, 1, 1)
        for i in (0, 2, "pool", 5, 7, "pool", 10, 12, 14, 16, "pool", 19, 21, 23, 25, "pool"):
            if i == "pool":
                x = F.max_pool2d(x, 2)
            else:
                weight, bias = state[f"features.{i}.weight"], state[f"features.{i}.bias"]
                x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
        for i in (28, 30, 32, 34):
            weight, bias = state[f"features.{i}.weight"], state[f"features.{i}.bias"]
            x = F.conv2d(x if i == 28 else x.clamp(min=0), weight, bias, padding=1)
        return x

    wanted = (((features(output) - features(target / 255)) / 12.75) ** 2).mean()
    loss, figures = losses(output, {"target": target})
    assert float(loss.detach()) == pytest.approx(2 * float(wanted.detach()), rel=1e-4)
    assert figures == {"content": pytest.approx(float(wanted.detach()), rel=1e-4)}
    (mine,), (theirs,) = torch.autograd.grad(loss, output), torch.autograd.grad(wanted, output)
    assert mine.abs().sum() > 0 and torch.allclose(mine, 2 * theirs, rtol=1e-3, atol=1e-9)
    assert float(losses(target / 255, {"target": target})[0]) == 0


def test_vgg_has_the_published_size() -> None:
    with torch.device("meta"):
        network = vgg.VggFeatures()
        assert network(torch.rand(1, 3, 64, 48)).shape == (1, 512, 4, 3)
    # 20,024,384 are the convolutions' of configuration E (Simonyan and Zisserman 2015, table 1)
    assert sum(p.numel() for p in network.parameters()) == 20_024_384
    assert len(network.state_dict()) == 32 and "features.34.bias" in network.state_dict()


def test_the_networks_stay_as_they_are(tiny_vgg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[nn.Module] = []

    def spy(network: nn.Module, output: Tensor, target: Tensor) -> Tensor:
        seen.append(network)
        return content_loss(network, output, target)

    monkeypatch.setitem(KINDS, "content", (vgg.VggFeatures, spy))
    losses = build_losses([Perceptual("content", 1.0, str(tiny_vgg))], CPU)
    output = torch.rand(1, 3, 32, 32, requires_grad=True)
    losses(output, {"target": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)})[0].backward()
    (network,) = seen
    assert not network.training and output.grad is not None
    assert all(not p.requires_grad and p.grad is None for p in network.parameters())


@needs_shared
def test_parts_of_faces_are_refused() -> None:
    losses = build_losses([Perceptual("identity", 1.0, str(WEIGHTS))], CPU)

    def batch(side: int, *sizes: int) -> Batch:
        positions = [torch.from_numpy(_position(side, size, 3.0, 0.0)) for size in sizes]
        target = torch.zeros(len(sizes), 3, side, side, dtype=torch.uint8)
        return {"target": target, "position": torch.stack(positions)}

    for side in (256, 384, 512):
        losses(torch.rand(1, 3, side, side), batch(side, side))
    for parts in (batch(160, 256), batch(256, 256, 384)):
        with pytest.raises(UsageError, match="whole faces"):
            losses(parts["target"] / 255, parts)
    with pytest.raises(UsageError, match="whole faces"):
        losses(torch.rand(1, 3, 64, 96), {"target": torch.zeros(1, 3, 64, 96, dtype=torch.uint8)})
    with pytest.raises(UsageError, match="makes none"):
        losses(torch.rand(1, 5, 2), {"picture": torch.zeros(1)})


def test_wrong_files_and_kinds_are_one_line(
    tiny_vgg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    cases = [
        (Perceptual("identty", 1.0, "a.pth"), UsageError, "'identty'; did you mean 'identity'"),
        (Perceptual("content", 1.0, str(tmp_path / "gone.pth")), ModelError, "no such file"),
        (Perceptual("content", 1.0, "vgg19"), ModelError, "fhrt models pull vgg19"),
        (Perceptual("content", 1.0, "vgg1"), UsageError, "did you mean 'vgg19'"),
        (Perceptual("identity", 1.0, str(tiny_vgg)), ModelError, "no weights of identity"),
    ]
    for section, kind, words in cases:
        with pytest.raises(kind, match=words) as caught:
            build_losses([section], CPU)
        assert "\n" not in str(caught.value)


def test_the_sections_are_read_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    head = 'system = "pairs"\nsteps = 3\nlearning_rate = 1e-3\n'
    section = '[[perceptual]]\nkind = "{}"\nweight = 0.1\nfile = "{}"\n'
    path.write_text(head + section.format("identity", "a.pth") + section.format("content", "vgg19"))
    config = read_config("mine", path)
    assert config.perceptual == (
        Perceptual("identity", 0.1, "a.pth"),
        Perceptual("content", 0.1, "vgg19"),
    )
    kept = tmp_path / "kept.pt"
    torch.save(plain(config), kept)
    assert config_of(torch.load(kept, weights_only=True), "checkpoint") == config
    path.write_text(head)
    assert read_config("mine", path).perceptual == ()
    for wrong, words in (
        ("[[perceptual]]\nwight = 1\n", r"\[\[perceptual\]\].*'wight'.*'weight'"),
        ('[[perceptual]]\nkind = "content"\n', r"\[\[perceptual\]\].*weight"),
        ("[perceptual]\nweight = 1\n", "double brackets"),
    ):
        path.write_text(head + wrong)
        with pytest.raises(UsageError, match=words):
            read_config("mine", path)


class Tiny:
    """Learns to give its input back."""

    dropped = ()

    def __init__(self, data: Path, config: Config) -> None: ...

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def batch_size(self, step: int) -> int:
        return 2

    def sample(self, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        made = rng.integers(0, 256, (3, 32, 32), np.uint8)
        return {"input": made, "target": made}

    def validation(self) -> None:
        return None

    def output(self, network: nn.Module, batch: Batch) -> Tensor:
        return network(batch["input"].float() / 255)

    def loss(self, output: Tensor, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return (output - batch["target"].float() / 255).abs().mean(), {}


class Killed(BaseException):
    """As a signal would end a run."""


@needs_shared
def test_a_killed_and_resumed_run_equals_an_unbroken_one_bit_for_bit(
    tiny_vgg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "systems", lambda: {"tiny": Tiny})
    monkeypatch.setattr(train, "_keep_memory", lambda: None)  # it would outlast the test
    sections = (
        Perceptual("identity", 0.3, str(WEIGHTS)),
        Perceptual("content", 0.3, str(tiny_vgg)),
    )
    config = Config("tiny", 6, 1e-2, precision="fp32", checkpoint_every=2, log_every=2)
    seen: list[dict[str, float]] = []

    def run(folder: str, **options: Any) -> Any:
        options = {"config": replace(config, perceptual=sections)} | options
        train.train("tiny", Path(), tmp_path / folder, **options)
        return torch.load(tmp_path / folder / "checkpoint.pt", weights_only=True)

    def kill(step: int, steps: int) -> None:
        if step == 3:
            raise Killed

    whole = run("whole", reports=train.Reports(lambda step, figures: seen.append(figures)))
    assert {"loss", "identity", "content"} <= seen[-1].keys() and seen[-1]["identity"] > 0
    with pytest.raises(Killed):
        run("broken", reports=train.Reports(progress=kill))
    resumed = run("broken", resume=True)
    assert resumed["config"] == whole["config"] and resumed["step"] == whole["step"] == 6
    for part in ("network", "average"):
        assert whole[part].keys() == Tiny(Path(), config).build().state_dict().keys()
        assert all(torch.equal(value, resumed[part][key]) for key, value in whole[part].items())
    without = run("without", config=config)["network"]
    assert not torch.equal(without["0.weight"], whole["network"]["0.weight"])
