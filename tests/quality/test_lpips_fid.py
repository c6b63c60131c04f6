"""LPIPS and FID against the official codes' figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from fhrt.errors import InputError, ModelError, UsageError
from fhrt.networks.inception import Inception
from fhrt.networks.lpips import AlexFeatures
from fhrt.quality.fid import Gaussian, fid, frechet, open_features
from fhrt.quality.lpips import Lpips, linear_layers

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
LINEAR = REFERENCE / "official" / "lpips_lin_v0.1.npz"
needs_shared = pytest.mark.skipif(not REFERENCE.is_dir(), reason="../shared is not here")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet with the seeded weights of keys/lpips-alex.json, under torchvision's names."""
    keys = json.loads((REFERENCE / "keys" / "lpips-alex.json").read_text())
    weights = {}
    for i, ((key, shape, _), (mode, a, b)) in enumerate(
        zip(keys["tensors"], keys["recipe"], strict=True)
    ):
        if mode == "n":
            rng = np.random.default_rng([20260101, i])
            noise = rng.standard_normal(shape, dtype=np.float32)
            layer = key.removeprefix("net.slice")[2:]
            weights[f"features.{layer}"] = torch.from_numpy(np.float32(a) + np.float32(b) * noise)
    path = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    torch.save(weights | {"classifier.1.weight": torch.zeros(2)}, path)
    return path


@needs_shared
def test_lpips_and_each_layer_are_those_of_the_official_code(backbone: Path) -> None:
    stored = np.load(REFERENCE / "functions" / "lpips_alex.npz")
    distance = Lpips(backbone, LINEAR)
    for i, values in enumerate(stored["values"]):
        a, b = (np.ascontiguousarray(stored[f"{side}{i}"][..., ::-1]) for side in "ab")
        assert distance(a, b) == pytest.approx(values[0], abs=1e-6)
        np.testing.assert_allclose(distance.layers(a, b), values[1:], atol=1e-6)


@needs_shared
def test_equal_pictures_are_at_no_distance_and_others_must_be_of_one_size(backbone: Path) -> None:
    distance = Lpips(backbone, LINEAR)
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    assert distance(picture, picture) == 0
    assert distance(picture, 255 - picture) == pytest.approx(distance(255 - picture, picture))
    with pytest.raises(InputError, match="48×64 with 48×40"):
        distance(picture, picture[:40])
    with pytest.raises(InputError, match="31 pixels"):
        distance(picture[:30], picture[:30])
    distance(picture[:31, :31], picture[:31, :31])  # the smallest that goes through


@needs_shared
def test_linear_layers_come_from_torch_files_too(tmp_path: Path) -> None:
    path = tmp_path / "alex.pth"
    with np.load(LINEAR) as stored:
        torch.save(
            {
                f"lin{i}.model.1.weight": torch.from_numpy(stored[f"alex/lin{i}.model.1.weight"])
                for i in range(5)
            },
            path,
        )
    for a, b in zip(linear_layers(path), linear_layers(LINEAR), strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_that_are_not_what_they_should_be_are_model_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(ModelError, match="no such file"):
        Lpips(path, path)
    path.write_bytes(b"no weights")
    with pytest.raises(ModelError, match="no torch weights"):
        Lpips(path, path)
    torch.save({"lin0.model.1.weight": torch.zeros(1, 3, 1, 1)}, path)
    with pytest.raises(ModelError, match=r"features\.0\.bias is missing"):
        Lpips(path, path)
    with pytest.raises(ModelError, match="lin0 is missing or wrong"):
        linear_layers(path)
    wrong = AlexFeatures().state_dict()
    torch.save(wrong | {"features.0.bias": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="other shapes"):
        Lpips(path, path)


@needs_shared
def test_the_frechet_distance_is_that_of_the_official_code() -> None:
    stored = np.load(REFERENCE / "functions" / "fid_cosine.npz")
    a, b = Gaussian.of(stored["f1"]), Gaussian.of(stored["f2"])
    np.testing.assert_allclose(a.mean, stored["mu1"], atol=1e-12)
    np.testing.assert_allclose(b.covariance, stored["sigma2"], atol=1e-12)
    assert frechet(a, b) == pytest.approx(float(stored["fid"]), abs=1e-6)
    assert frechet(b, a) == pytest.approx(frechet(a, b), abs=1e-9)


def test_the_frechet_distance_of_singular_covariances_is_the_formulas() -> None:
    # along one axis each: |μ|² + σ₁² + σ₂², and nothing in common
    a = Gaussian(np.zeros(3), np.diag([4.0, 0, 0]), 2)
    b = Gaussian(np.array([1.0, 2, 0]), np.diag([0, 9.0, 0]), 2)
    assert frechet(a, b) == pytest.approx(5 + 13, abs=1e-12)
    # on one axis: the difference of the deviations, squared
    assert frechet(a, Gaussian(np.zeros(3), np.diag([9.0, 0, 0]), 2)) == pytest.approx(1)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    features = np.random.default_rng(0).standard_normal((5, 40))  # fewer pictures than features
    assert frechet(Gaussian.of(features), Gaussian.of(features)) == pytest.approx(0, abs=1e-9)


def test_one_picture_has_no_covariance_and_two_networks_no_distance() -> None:
    with pytest.raises(InputError, match="two pictures"):
        Gaussian.of(np.zeros((1, 4)))
    with pytest.raises(UsageError, match="two networks"):
        frechet(Gaussian.of(np.eye(3)), Gaussian.of(np.eye(4)))


def test_fid_runs_over_pictures_with_any_onnx_network(tmp_path: Path) -> None:
    path = tmp_path / "colours.onnx"
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 24, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 1])],
    )
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    features = open_features(path)
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 255
    np.testing.assert_allclose(features(red), [1, 0, 0], atol=1e-6)
    dark, light = ([np.full((48, 64, 3), v, np.uint8) for v in of] for of in ((0, 51), (102, 153)))
    assert fid(dark, light, features) == pytest.approx(3 * 0.4**2, abs=1e-6)


def test_inception_has_the_values_of_pytorch_fids_file_and_runs(tmp_path: Path) -> None:
    network = Inception()
    count = sum(p.numel() for p in network.parameters())
    # torchvision's 23,834,568 without the auxiliary head and with 1000 classes, of which the last
    # layer, 1000 × 2049, is not here
    assert count == 23_834_568 - 1000 * 2049
    keys = network.state_dict()
    assert keys["Mixed_6c.branch7x7_2.conv.weight"].shape == (160, 160, 1, 7)
    assert keys["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)
    # a file of that age has a last layer and may have no counters
    path = tmp_path / "pt_inception.pth"
    saved = {key: value for key, value in keys.items() if "num_batches" not in key}
    torch.save(saved | {"fc.weight": torch.zeros(1008, 2048)}, path)
    features = open_features(path)(np.full((64, 80, 3), 128, np.uint8))
    assert features.shape == (2048,) and np.isfinite(features).all()
