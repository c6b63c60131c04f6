"""Checkpoint to fp32 and FP16 ONNX: what is compared, what is refused, what is left behind."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
onnx = pytest.importorskip("onnx", reason="fhrt[train] is not installed")

from fhrt.errors import InputError, ModelError, UsageError  # noqa: E402
from fhrt.exporting import artifact  # noqa: E402
from fhrt.exporting.builders import EngineOptions, engine_options  # noqa: E402
from fhrt.exporting.parity import compare, first_departure, of_graph, of_network  # noqa: E402
from fhrt.exporting.precision import emulate, lower  # noqa: E402
from fhrt.exporting.sources import Network, export_onnx  # noqa: E402
from fhrt.exporting.steps import Wish, export  # noqa: E402
from fhrt.exporting.to_onnx import halve, trace  # noqa: E402
from fhrt.faces import Picture  # noqa: E402
from fhrt.models import Checkpoint, Recipe  # noqa: E402
from fhrt.networks import build  # noqa: E402
from fhrt.runtime.session import open_session  # noqa: E402
from fhrt.weights import WeightFile  # noqa: E402

OPTIONS = {"width": 16, "blocks": 2}
TINY = Recipe(
    "tiny", "a small one", "upscale", "srresnet", "MIT", True, 4, (32,), options=OPTIONS,
    protocol="sr4-128",
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights of TINY with a tail that does something."""
    torch.manual_seed(0)
    network = build("srresnet", **OPTIONS)
    torch.nn.init.normal_(network.tail.weight, 0, 0.01)
    path = tmp_path / "tiny.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def faces(astronaut: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for number in range(3):
        piece = astronaut[20 * number : 20 * number + 256, 90:346]
        Image.fromarray(piece).save(folder / f"{number}.png")
    return folder


def test_an_artifact_holds_a_model_that_was_compared_and_says_so(
    checkpoint: Path, faces: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out" / "tiny-fp16"
    facts = export(Network(TINY, checkpoint), target, Wish("fp16", faces=faces, cost=True))
    assert sorted(p.name for p in target.iterdir()) == ["card.md", "manifest.json", "model.onnx"]
    assert [p.name for p in target.parent.iterdir()] == ["tiny-fp16"]
    assert json.loads((target / "manifest.json").read_text()) == facts
    assert facts["made_of"] == {"tiny.pth": artifact.sha256(checkpoint)}
    assert [step["to"] for step in facts["steps"]] == ["onnx", "fp16"]
    assert facts["steps"][1]["bytes"] == (target / "model.onnx").stat().st_size
    assert facts["steps"][1]["bytes"] < 0.7 * facts["steps"][0]["bytes"]
    exact, half = (step["parity"] for step in facts["steps"])
    assert all(parity["largest"] < 1e-4 for parity in exact.values())
    assert all(55 < parity["psnr"] < 100 for parity in half.values())
    assert half["fp32, faces"]["inputs"] == 3
    assert abs(facts["costs"]["psnr"]) < 0.05 and facts["costs"]["n"] == 3
    assert "fp16" in (target / "card.md").read_text()
    # and it opens as any other model, floats in and out
    session = open_session(str(target / "model.onnx"), "cpu", "onnx", 1)
    made = session(np.full((2, 3, 24, 32), 0.5, np.float32))
    assert made.shape == (2, 3, 96, 128) and made.dtype == np.float32


def test_an_artifact_is_replaced_as_a_whole(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    export(Network(TINY, checkpoint), target)
    (target / "left.txt").write_text("from before")
    export(Network(TINY, checkpoint), target)
    assert sorted(p.name for p in target.iterdir()) == ["card.md", "manifest.json", "model.onnx"]


def test_what_overflows_in_fp16_is_not_published_and_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    weights = torch.load(checkpoint, weights_only=True)
    # features of about 1e6 that the next layer makes small again: harmless in fp32
    weights["up.0.weight"] *= 1e6
    weights["up.3.weight"] *= 1e-6
    torch.save(weights, checkpoint)
    export(Network(TINY, checkpoint), tmp_path / "plain")
    before = (tmp_path / "plain" / "model.onnx").read_bytes()
    with pytest.raises(ModelError, match=r"not finite.*first at Conv.*not published") as caught:
        export(Network(TINY, checkpoint), tmp_path / "plain", Wish("fp16"))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "plain" / "model.onnx").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain", "tiny.pth"]


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("fp16", 1e-5, 1e-3), ("bf16", 1e-4, 1e-2)]
)
def test_the_emulation_rounds_as_the_lower_precision_does(
    precision: str, least: float, most: float, checkpoint: Path, tmp_path: Path
) -> None:
    network = build("srresnet", **OPTIONS).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    values = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    exact = of_network(network)(values)[0]
    onnx.save(trace(network, TINY), str(tmp_path / "exact.onnx"))
    lower(tmp_path / "exact.onnx", TINY, precision, tmp_path / "half.onnx")
    emulate(tmp_path / "half.onnx", tmp_path / "emulated.onnx")
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    with torch.inference_mode():  # by torch's own kernels
        torchs = network.to(dtype)(torch.from_numpy(values).to(dtype)).float().numpy()
    ours = of_graph(tmp_path / "emulated.onnx")(values)[0]
    noise = [float(np.abs(made - exact).mean()) for made in (torchs, ours)]
    assert least < noise[1] < most and noise[1] == pytest.approx(noise[0], rel=0.5)
    kinds = {node.op_type for node in onnx.load(tmp_path / "emulated.onnx").graph.node}
    assert "Conv" in kinds and "Cast" in kinds


def test_the_first_departure_is_found(checkpoint: Path, tmp_path: Path) -> None:
    network = build("srresnet", **OPTIONS).eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    onnx.save(trace(network, TINY), tmp_path / "a.onnx")
    changed = onnx.load(tmp_path / "a.onnx")
    convolutions = [node for node in changed.graph.node if node.op_type == "Conv"]
    wanted = convolutions[3]
    for tensor in changed.graph.initializer:
        if tensor.name == wanted.input[1]:
            values = onnx.numpy_helper.to_array(tensor) * 1.5
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(changed, tmp_path / "b.onnx")
    values = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    found = first_departure(tmp_path / "a.onnx", tmp_path / "b.onnx", values, 55)
    assert found == f"Conv {wanted.name}"
    assert first_departure(tmp_path / "a.onnx", tmp_path / "a.onnx", values, 55) is None


def test_parity_counts_all_outputs_and_what_is_not_finite() -> None:
    a = [np.zeros((1, 2)), np.array([[1.0, 2.0]])]
    b = [np.array([[0.0, 0.1]]), np.array([[np.nan, 2.0]])]
    parity = compare(lambda values: a, lambda values: b, [np.zeros(1)] * 2)
    assert parity.largest == pytest.approx(0.1) and parity.not_finite == 2 and parity.inputs == 2
    assert parity.mean == pytest.approx(0.1 / 3)
    assert parity.psnr == pytest.approx(-10 * np.log10(0.01 / 3))
    same = compare(lambda values: a, lambda values: a, [np.zeros(1)])
    assert same.largest == 0 and same.psnr == 200


def test_bad_input_leaves_nothing_behind(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'fp16'"):
        Wish("fp61")
    with pytest.raises(UsageError, match="did you mean 'fp16'"):
        Wish("tensorrt", "pf16")
    with pytest.raises(UsageError, match="--faces FOLDER"):
        Wish("fp16", cost=True)
    with pytest.raises(UsageError, match="--calibration FOLDER"):
        Wish("tensorrt", "int8")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ModelError, match="no torch weights"):
        export(Network(TINY, checkpoint), tmp_path / "out")
    torch.save({"weight": torch.zeros(1)}, checkpoint)
    with pytest.raises(ModelError, match=r"tiny.pth: not weights of this network: .* is missing"):
        export(Network(TINY, checkpoint), tmp_path / "out")
    torch.save(build("facesr-v1").state_dict(), checkpoint)
    with pytest.raises(ModelError, match=r"is missing; they fit: facesr-v1$"):
        export(Network(TINY, checkpoint), tmp_path / "out")
    torch.save(build("srresnet", width=8, blocks=2).state_dict(), checkpoint)
    with pytest.raises(ModelError, match=r"is \(8,.* is wanted"):
        export(Network(TINY, checkpoint), tmp_path / "out")
    torch.save(build("srresnet", **OPTIONS).state_dict(), checkpoint)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export(Network(TINY, checkpoint), tmp_path / "file" / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "tiny.pth"]


def test_half_weights_take_half_the_bytes_and_hardly_change_the_output(
    checkpoint: Path, tmp_path: Path
) -> None:
    plain, half = tmp_path / "plain.onnx", tmp_path / "half.onnx"
    export_onnx(TINY, checkpoint, plain)
    rounded = halve(TINY, checkpoint, tmp_path / "half.pth")
    parity = export_onnx(TINY, rounded, half)
    assert parity.largest < 1e-3
    assert half.stat().st_size < 0.65 * plain.stat().st_size
    assert rounded.stat().st_size < 0.65 * checkpoint.stat().st_size
    values = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    assert 0 < np.abs(of_graph(half)(values)[0] - of_graph(plain)(values)[0]).max() < 1e-3
    large = torch.load(checkpoint, weights_only=True)
    large["tail.bias"] += 1e6
    torch.save(large, checkpoint)
    with pytest.raises(ModelError, match=r"tail\.bias does not fit into fp16"):
        halve(TINY, checkpoint, tmp_path / "large.pth")
    assert not (tmp_path / "large.pth").exists()


def test_a_triton_repository_and_an_engine_are_artifacts_too(
    checkpoint: Path, tmp_path: Path
) -> None:
    export(Network(TINY, checkpoint), tmp_path / "served", Wish("triton", batch="1:2:4"))
    written = sorted(str(p.relative_to(tmp_path / "served")) for p in tmp_path.rglob("served/**/*"))
    assert "tiny/config.pbtxt" in written and "tiny/1/model.onnx" in written
    assert "model.onnx" not in written and "manifest.json" in written
    assert "max_batch_size: 4" in (tmp_path / "served" / "tiny" / "config.pbtxt").read_text()
    pytest.importorskip("tensorrt_rtx", reason="fhrt[rtx] is not installed")
    options = EngineOptions("tensorrt_rtx", compute_capabilities=("86",))
    source = Network(TINY, checkpoint)
    facts = export(source, tmp_path / "built", Wish("tensorrt", engine=options))
    assert (tmp_path / "built" / "model.engine").stat().st_size == facts["steps"][-1]["bytes"]
    assert facts["engine"]["compute_capability"] == "86" and facts["precision"] == "fp16"
    assert facts["engine"]["model"] == artifact.sha256(tmp_path / "built" / "model.onnx")


def test_published_weights_that_are_others_are_refused_and_ones_own_are_not_checked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    file = WeightFile(checkpoint.name, "https://nowhere.example/tiny.pth", "0" * 64)
    theirs = replace(TINY, checkpoint=Checkpoint((file,)))
    with pytest.raises(ModelError, match=r"tiny\.pth has sha256 .* is expected: it is damaged"):
        export(Network(theirs), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    facts = export(Network(theirs, checkpoint), tmp_path / "out")
    assert not facts["published"]
    assert "a file of the user's, not checked" in (tmp_path / "out" / "card.md").read_text()


def test_a_full_disk_publishes_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = Network(TINY, checkpoint)
    monkeypatch.setattr("fhrt.exporting.artifact.os.fsync", full)
    with pytest.raises(InputError, match="out: cannot be written: No space left on device"):
        export(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.pth"]


def test_engine_options_are_read_from_words() -> None:
    with pytest.raises(UsageError, match="did you mean 'refit'"):
        engine_options(["refti"])
    with pytest.raises(UsageError, match="'workspace' is a number, not 'much'"):
        engine_options(["workspace=much"])


def test_polygraphys_report_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("polygraphy", reason="fhrt[polygraphy] is not installed")
    told: list[str] = []
    export(
        Network(TINY, checkpoint),
        tmp_path / "out",
        Wish("fp16", polygraphy=True),
        lambda what, done, of: told.append(what),
    )
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["polygraphy"]
    assert facts["pairs"]["exact, converted"]["passed"]
    assert (tmp_path / "out" / "polygraphy" / "comparison.log").stat().st_size > 100
    assert told == ["fp32 ONNX, compared", "fp16 ONNX, compared"]
