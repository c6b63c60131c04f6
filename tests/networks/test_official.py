"""The official networks: the keys of their checkpoints, and their numbers with seeded weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
from reference import (  # noqa: E402
    REFERENCE,
    Watched,
    keys,
    needs_reference,
    seeded,
    vector,
)
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from fhrt.errors import ModelError  # noqa: E402
from fhrt.networks import build  # noqa: E402
from fhrt.networks.gfpgan import ModulatedConv  # noqa: E402
from fhrt.networks.retinaface import anchors, decode  # noqa: E402
from fhrt.networks.srvgg import blend  # noqa: E402

pytestmark = needs_reference

# the official name: ours, and its options
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "gfpgan-v1-clean-256-c1-n05": (
        "gfpgan",
        {"out_size": 256, "channel_multiplier": 1, "narrow": 0.5},
    ),
    "gfpgan-v1-clean": ("gfpgan", {}),
    "rrdbnet-x4plus": ("rrdbnet", {}),
    "rrdbnet-x2plus": ("rrdbnet", {"scale": 2}),
    "rrdbnet-x4plus-anime-6b": ("rrdbnet", {"blocks": 6}),
    "srvgg-general-x4v3": ("srvgg", {}),
    "srvgg-animevideov3": ("srvgg", {"layers": 16}),
    "retinaface-resnet50": ("retinaface", {}),
    "retinaface-mobilenet0.25": ("retinaface", {"backbone": "mobilenet"}),
    "parsenet": ("parsenet", {}),
    "restoreformer": ("restoreformer", {}),
    "facesr-v1": ("facesr-v1", {}),
    "facesr-v2": ("facesr-v2", {}),
}


def gfpgan(network: Any, x: Tensor) -> dict[str, Tensor]:
    image, rgbs = network.raw(x)
    return {"image": image, **{f"rgb{i}": rgb for i, rgb in enumerate(rgbs)}}


def retinaface(network: Any, x: Tensor) -> dict[str, Tensor]:
    return dict(zip(("loc", "conf", "landm"), network.raw(x), strict=True))


def parsenet(network: Any, x: Tensor) -> dict[str, Tensor]:
    return dict(zip(("out_mask", "out_img"), network.raw(x), strict=True))


def restoreformer(network: Any, x: Tensor) -> dict[str, Tensor]:
    return {"output": network.raw(x)}


def plain(network: Any, x: Tensor) -> dict[str, Tensor]:
    return {"output": network(x)}


OUTPUTS: dict[str, Callable[[Any, Tensor], dict[str, Tensor]]] = {
    "gfpgan": gfpgan,
    "rrdbnet": plain,
    "srvgg": plain,
    "retinaface": retinaface,
    "parsenet": parsenet,
    "restoreformer": restoreformer,
    "facesr-v1": plain,
    "facesr-v2": plain,
}


def official(name: str) -> Any:
    """Our network with the official one's seeded weights."""
    kind, options = NETWORKS[name]
    with torch.device("meta"):  # nothing is drawn that the weights replace
        network = build(kind, **options).eval()
    network.load_state_dict(seeded(name), assign=True)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_an_official_checkpoint_loads_and_gives_the_official_numbers(name: str) -> None:
    network = official(name)
    assert {key: tuple(v.shape) for key, v in network.state_dict().items()} == keys(name)
    expected = vector(name)
    for prefix in ("a/", "b/") if "a/input" in expected.arrays else ("",):
        # FaceSR's instance norms are functions here, with no output to watch
        wanted = [n for n in expected.named(prefix) if not n.endswith("mid:norm2")]
        watched = Watched(network, {n.removeprefix(prefix + "mid:") for n in wanted if "mid:" in n})
        with torch.inference_mode():
            found = OUTPUTS[NETWORKS[name][0]](network, expected.input(prefix))
        found |= {f"mid:{path}": value for path, value in watched.seen.items()}
        deviations = {
            n: expected.deviation(n, found[n.removeprefix(prefix).removesuffix("#1")])
            for n in wanted
        }
        assert all(d <= tol for d, tol in deviations.values()), deviations


@pytest.mark.parametrize("name", ["gfpgan-v1-clean-256-c1-n05", "restoreformer"])
@torch.inference_mode()
def test_pictures_in_0_to_1_are_those_in_the_official_range(name: str) -> None:
    network = official(name)
    x = vector(name).input()
    raw = OUTPUTS[NETWORKS[name][0]](network, x)
    image = raw["image"] if "image" in raw else raw["output"]
    assert torch.allclose(network(x / 2 + 0.5) * 2 - 1, image, atol=1e-3)


@torch.inference_mode()
def test_gfpgan_treats_each_face_of_a_batch_by_itself() -> None:
    network = official("gfpgan-v1-clean-256-c1-n05")
    batch = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    together, alone = network(batch), torch.cat([network(face[None]) for face in batch])
    assert (together[0] - together[1]).abs().max() > 0.01
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.slow  # a minute and a half: CPUs have no fast fp16
@torch.inference_mode()
def test_gfpgan_in_fp16_departs_no_further_than_the_official_network() -> None:
    name = "gfpgan-v1-clean-256-c1-n05"
    network, expected = official(name).half(), vector(name)
    image, _ = network.raw(expected.input().half())
    difference = np.abs(image.float().numpy() - expected.arrays["image"])
    assert difference.max() < 0.028 and difference.mean() < 0.0013  # README, section 3


@torch.inference_mode()
def test_a_modulated_convolution_is_that_of_the_paper_and_fits_into_fp16() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(16, 24, 3, style=8)
    x, style = torch.randn(2, 16, 12, 12), torch.randn(2, 8)
    for strength in (1.0, 1e4):
        layer.modulation.weight.mul_(strength)
        scaled = layer.weight * layer.modulation(style)[:, None, :, None, None]
        scaled = scaled / (scaled.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
        expected = 2**0.5 * torch.cat(
            [F.conv2d(x[i : i + 1], scaled[i], padding=1) for i in range(2)]
        )
        assert torch.allclose(layer(x, style), expected, atol=1e-5)
    assert torch.allclose(layer.half()(x.half(), style.half()).float(), expected, atol=0.02)


def test_a_denoise_strength_is_a_weighted_mean_of_two_networks() -> None:
    with np.load(REFERENCE / "functions" / "realesrgan_enhance.npz") as file:
        general, gentle, blended = (
            {key: torch.from_numpy(file[f"dni/{net}_{key}"]) for key in ("w", "b")}
            for net in ("a", "b", "out")
        )
    found = blend(general, gentle, 0.3)
    assert all(torch.allclose(found[key], blended[key], atol=1e-6) for key in ("w", "b"))


@pytest.mark.parametrize("size", [(240, 320), (227, 301)])
def test_answers_of_retinaface_are_decoded_as_facexlib_does(size: tuple[int, int]) -> None:
    height, width = size
    with np.load(REFERENCE / "functions" / "retinaface_post.npz") as file:
        stored = {
            key.split("/")[1]: torch.from_numpy(file[key])
            for key in file.files
            if key.startswith(f"{height}x{width}/")
        }
    squares = anchors(height, width, torch.zeros(1))
    whole = torch.tensor([width, height], dtype=torch.float32)
    assert torch.allclose(squares[:, :2], stored["priors"][:, :2] * whole, atol=1e-3)
    assert torch.allclose(squares[:, 2:].expand(-1, 2), stored["priors"][:, 2:] * whole, atol=1e-3)
    heads = (stored[key][None] for key in ("loc", "conf", "landm"))
    found = decode(*heads, squares)[0]
    assert torch.equal(found[:, 0], stored["conf"][:, 1])
    assert torch.allclose(found[::4, 1:5], stored["decoded_boxes"] * whole.repeat(2), atol=2e-3)
    assert torch.allclose(found[::4, 5:], stored["decoded_landm"] * whole.repeat(5), atol=2e-3)


@torch.inference_mode()
def test_retinaface_takes_rgb_pictures_of_any_size() -> None:
    network = official("retinaface-mobilenet0.25")
    expected = vector("retinaface-mobilenet0.25")
    bgr = expected.input("b/") + torch.tensor([104.0, 117.0, 123.0])[:, None, None]
    found = network(bgr.flip(1) / 255)
    assert found.shape == (1, expected.arrays["b/conf"].shape[1], 15)
    assert np.abs(found[..., 0].numpy() - expected.arrays["b/conf"][..., 1]).max() < 1e-5
    with pytest.raises(ModelError, match="no backbone"):
        build("retinaface", backbone="resnet18")
