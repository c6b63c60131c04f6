"""An ONNX file of the user's own, through every step of an export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
onnx = pytest.importorskip("onnx", reason="fhrt[train] is not installed")

from torch import Tensor, nn  # noqa: E402

from fhrt.cli.main import run_app  # noqa: E402
from fhrt.errors import ModelError, UsageError  # noqa: E402
from fhrt.exporting.parity import of_network  # noqa: E402
from fhrt.exporting.sources import Graph  # noqa: E402
from fhrt.exporting.steps import Wish, export  # noqa: E402
from fhrt.models import recipe_from_toml  # noqa: E402
from fhrt.networks import build  # noqa: E402
from fhrt.runtime.session import open_session  # noqa: E402

TOML = """
about = "somebody's network"
task = "restore"
network = "graph"
licence = "MIT"
commercial = true
sizes = [64]
multiple = 64
protocol = "blind-256"
"""
CONTRACT = """
[export.input]
mean = [0.5]
std = [0.5]
order = "bgr"

[export.output]
mean = [0.5]
std = [0.5]
order = "bgr"
"""


class Theirs(nn.Module):
    """As many publish theirs: BGR in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = build("restore")
        nn.init.normal_(self.network.tail.weight, 0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x.flip(1) * 0.5 + 0.5)
        return (output * 2 - 1).flip(1)


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    return Theirs().eval()


@pytest.fixture
def written(theirs: Theirs, tmp_path: Path) -> Callable[..., Path]:
    """their.onnx, and their.toml beside it."""

    def write(toml: str = TOML + CONTRACT, batch: bool = False) -> Path:
        path = tmp_path / "their.onnx"
        program = torch.onnx.export(
            theirs,
            (torch.zeros(2 if batch else 1, 3, 64, 64),),
            dynamo=True,
            input_names=["input"],
            output_names=["picture"],
            dynamic_shapes=({0: torch.export.Dim("b")},) if batch else None,
            verbose=False,
        )
        onnx.save(program.model_proto, str(path))
        path.with_suffix(".toml").write_text(toml)
        return path

    return write


def source(path: Path) -> Graph:
    return Graph(recipe_from_toml(path.with_suffix(".toml")), path)


@pytest.mark.parametrize("batch", [False, True])
def test_its_values_are_folded_in_whatever_its_batch(
    batch: bool, theirs: Theirs, written: Callable[..., Path], tmp_path: Path
) -> None:
    facts = export(source(written(batch=batch)), tmp_path / "out")
    assert facts["name"] == "their" and not facts["published"]
    parity = facts["steps"][0]["parity"]["the file given, seeded pictures"]
    assert parity["largest"] < 1e-5
    session = open_session(str(tmp_path / "out" / "model.onnx"), "cpu", "onnx", 1)
    assert session.name == "their" and session.sizes == (64,)
    pictures = np.random.default_rng(0).random((3, 3, 64, 64), np.float32)
    expected = of_network(theirs.network)(pictures)[0]
    assert np.abs(session(pictures) - expected).max() < 1e-5
    assert np.abs(expected - pictures).max() > 0.01, "the network changes something"


def test_it_goes_through_fp16_and_the_command_line(
    written: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(TOML + '[export]\nkeep_fp32 = ["DepthToSpace"]\n' + CONTRACT)
    words = ["export", str(path), "--recipe", str(path.with_suffix(".toml"))]
    assert run_app([*words, "--to", "fp16", "-o", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "their-fp16" / "manifest.json").read_text())
    assert [step["to"] for step in facts["steps"]] == ["onnx", "fp16"]
    assert facts["steps"][1]["bytes"] < 0.6 * facts["steps"][0]["bytes"]
    assert facts["steps"][1]["parity"]["fp32, seeded pictures"]["psnr"] > 55
    half = onnx.shape_inference.infer_shapes(
        onnx.load(str(tmp_path / "out" / "their-fp16" / "model.onnx"))
    )
    types = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
    of = {
        node.op_type: types[node.output[0]]
        for node in half.graph.node
        if node.op_type in ("Conv", "DepthToSpace") and node.output[0] in types
    }
    assert of == {"Conv": onnx.TensorProto.FLOAT16, "DepthToSpace": onnx.TensorProto.FLOAT}
    assert run_app([*words, "--to", "bf16", "-o", str(tmp_path / "out")]) == 0
    assert "bf16: " in capsys.readouterr().out
    toml = path.with_suffix(".toml")
    toml.write_text(toml.read_text().replace("DepthToSpace", "Conv9*"))
    assert run_app([*words, "--to", "fp16", "-o", str(tmp_path / "refused")]) == 1
    assert "'Conv9*' is no node and no operator of their" in capsys.readouterr().err
    assert not list(tmp_path.glob("refused/*"))


def test_int8_takes_its_ranges_from_pictures_and_says_what_it_costs(
    written: Callable[..., Path], astronaut: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(4):
        face = astronaut[10 * number : 10 * number + 256, 90:346]
        Image.fromarray(face).save(folder / f"{number}.png")
    path = written(TOML.replace("[64]", "[256]").replace("64", "16").replace("[16]", "[256]"))
    program = torch.onnx.export(
        Theirs().network.eval(),
        (torch.zeros(2, 3, 96, 96),),
        dynamo=True,
        dynamic_shapes=(
            {
                0: torch.export.Dim("b"),
                2: 16 * torch.export.Dim("h"),
                3: 16 * torch.export.Dim("w"),
            },
        ),
        verbose=False,
    )
    onnx.save(program.model_proto, str(path))
    wish = Wish("int8", faces=folder, cost=True, calibration=folder)
    facts = export(source(path), tmp_path / "out", wish)
    exact, low = facts["steps"]
    assert low["to"] == "int8" and low["bytes"] < 0.45 * exact["bytes"]
    assert 25 < low["parity"]["fp32, faces"]["psnr"] < 80
    assert facts["costs"]["n"] == 4
    kinds = [n.op_type for n in onnx.load(str(tmp_path / "out" / "model.onnx")).graph.node]
    assert kinds.count("QuantizeLinear") > 10 and kinds.count("Conv") > 10
    session = open_session(str(tmp_path / "out"), "cpu", "onnx", 1)
    assert session.name == "their" and session(np.full((1, 3, 256, 256), 0.5, np.float32)).any()


def test_what_is_no_such_graph_is_refused_in_one_line(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    path = written()

    def refused(change: Callable[[Any], None], message: str, toml: str = TOML + CONTRACT) -> None:
        model = onnx.load(str(path))
        change(model)
        other = tmp_path / "other.onnx"
        onnx.save(model, str(other))
        other.with_suffix(".toml").write_text(toml)
        with pytest.raises((ModelError, UsageError), match=message) as caught:
            export(source(other), tmp_path / "out")
        assert "\n" not in str(caught.value)

    def second_input(model: Any) -> None:
        model.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [1]))

    def two_at_once(model: Any) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    def unknown(model: Any) -> None:
        model.graph.node[-1].op_type = "Sparkle"

    refused(second_input, "2 inputs; one")
    refused(unknown, "onnxruntime cannot load it.*Sparkle")
    refused(two_at_once, "2 pictures at once")
    refused(lambda model: None, r"64 pixels only.*multiple = 64", TOML.replace("64", "256"))
    refused(lambda model: None, "order 'rbg'", TOML + CONTRACT.replace("bgr", "rbg"))
    refused(lambda model: None, "keep_fp23.*did you mean", TOML + "[export]\nkeep_fp23 = []\n")
    with pytest.raises(ModelError, match="no such model file"):
        export(
            source(path.rename(tmp_path / "gone.onnx").with_name("their.onnx")), tmp_path / "out"
        )
    (tmp_path / "their.onnx").write_bytes((tmp_path / "gone.onnx").read_bytes()[:5000])
    with pytest.raises(ModelError, match="no ONNX file"):
        export(source(tmp_path / "their.onnx"), tmp_path / "out")
    assert run_app(["export", str(path), "-o", str(tmp_path / "o")]) == 2
    assert not (tmp_path / "out").exists() and not (tmp_path / "o").exists()
