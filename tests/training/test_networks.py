"""The generators and discriminators of training: shapes, and what an untrained one returns.

Published keys and numbers are compared in tests/networks."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")

from fhrt.errors import ModelError  # noqa: E402
from fhrt.networks import build  # noqa: E402
from fhrt.networks.discriminators import DISCRIMINATORS  # noqa: E402
from fhrt.networks.facesr import enlarged  # noqa: E402

GENERATORS = [
    ("srresnet", {"scale": 4}, 4, (24, 40)),
    ("srresnet", {"scale": 8, "width": 16}, 8, (16, 16)),
    ("facesr-v1", {"width": 0.25}, 4, (24, 40)),
    ("facesr-v2", {"width": 0.25, "skip": True}, 4, (24, 40)),
    ("facesr-upsample", {}, 4, (24, 40)),
    ("facesr-attention", {}, 4, (24, 40)),
    ("unet", {"width": 8}, 1, (256, 256)),
    ("unet", {"width": 8, "keep": False}, 1, (256, 256)),
]


@pytest.mark.parametrize(("name", "options", "scale", "shape"), GENERATORS)
def test_generators_keep_or_enlarge_a_picture(
    name: str, options: dict[str, object], scale: int, shape: tuple[int, int]
) -> None:
    network = build(name, **options).eval()
    with torch.inference_mode():
        output = network(torch.rand(2, 3, *shape))
    assert output.shape == (2, 3, scale * shape[0], scale * shape[1])
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", ["srresnet", "facesr-upsample", "facesr-attention"])
def test_untrained_upscalers_interpolate(name: str) -> None:
    picture = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(build(name).eval()(picture), enlarged(picture), atol=1e-6)


def test_the_published_widths_are_the_default_and_can_be_narrowed() -> None:
    def count(name: str, **options: object) -> int:
        return sum(p.numel() for p in build(name, **options).parameters())

    assert (count("facesr-v1"), count("facesr-v2")) == (1_849_987, 2_254_851)
    assert count("facesr-v1", width=0.25) < count("facesr-v1") / 10
    # pix2pix's U-Net 256 with 64 channels has 54.4 million, and 3 times 1025 more per output plane
    assert count("unet", keep=False) == pytest.approx(54.41e6, rel=0.001)


def test_the_unet_keeps_what_it_does_not_replace_and_drops_out_only_in_training() -> None:
    torch.manual_seed(0)
    network = build("unet", width=8)
    picture = torch.rand(2, 3, 256, 256)
    torch.nn.init.constant_(network.up[0].bias, 0.0)
    with torch.no_grad():
        network.up[0].bias[3] = -1e4  # replace nothing
    with torch.inference_mode():
        assert torch.equal(network.eval()(picture), picture)
        network.up[0].bias[3] = 0
        assert torch.equal(network(picture), network(picture))
        network.train()
        assert not torch.equal(network(picture), network(picture))


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("condition", [True, False])
def test_discriminators_give_scores_and_features(name: str, condition: bool) -> None:
    critic = DISCRIMINATORS[name](condition=condition, width=8)
    picture, given = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    scores, features = critic(picture, given if condition else None)
    assert scores.shape[:2] == (2, 1) and len(features) >= 4
    scores.mean().backward()
    assert all(p.grad is not None for p in critic.parameters())


def test_a_score_of_the_patch_discriminator_sees_70_pixels() -> None:
    critic = DISCRIMINATORS["patch"](condition=False, width=4).eval()
    picture = torch.rand(1, 3, 256, 256, requires_grad=True)
    scores, _ = critic(picture)
    assert scores.shape == (1, 1, 30, 30)
    (gradient,) = torch.autograd.grad(scores[0, 0, 15, 15], picture)
    rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_unknown_networks_and_options_name_the_nearest() -> None:
    with pytest.raises(ModelError, match="'srresnet'"):
        build("srresne")
    with pytest.raises(ModelError, match="did you mean 'scale'"):
        build("srresnet", scales=4)
