"""CodeFormer: the keys of its checkpoint, and its numbers with seeded weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
from reference import Watched, keys, needs_reference, seeded, vector  # noqa: E402

from fhrt.errors import ModelError  # noqa: E402
from fhrt.networks.codeformer import CodeFormer, adopt  # noqa: E402


@pytest.fixture(scope="module")
def official() -> Any:
    """Our network with the official one's seeded weights."""
    with torch.device("meta"):  # nothing is drawn that the weights replace
        network = CodeFormer().eval()
    network.load_state_dict(seeded("codeformer"), assign=True)
    return network


@needs_reference
@torch.inference_mode()
def test_the_official_checkpoint_loads_and_gives_the_official_numbers(official: Any) -> None:
    assert {key: tuple(v.shape) for key, v in official.state_dict().items()} == keys("codeformer")
    expected = vector("codeformer")
    wanted = [n for n in expected.named() if n not in ("out_w1_adain", "out_w0")]
    watched = Watched(official, {n.removeprefix("mid:") for n in wanted if n.startswith("mid:")})
    picture, logits, features = official.raw(expected.input(), 0.5)
    found = {"out_w0.5_adain": picture, "logits": logits, "lq_feat": features}
    for path, value in watched.seen.items():
        # the official transformer has the tokens first, then the batch
        found[f"mid:{path}"] = value.transpose(0, 1) if value.ndim == 3 else value
    deviations = {n: expected.deviation(n, found[n.removesuffix("#1")]) for n in wanted}
    assert all(d <= tol for d, tol in deviations.values()), deviations
    scores, codes = logits[0].topk(2)
    assert np.array_equal(codes[:, 0].numpy(), expected.arrays["code_index"])
    gaps = (scores[:, 0] - scores[:, 1]).numpy()
    _, tolerance = deviations["logits"]
    assert np.abs(gaps - expected.arrays["code_gap"]).max() <= 2 * tolerance


@pytest.mark.slow  # ten seconds a picture
@needs_reference
@pytest.mark.parametrize(
    ("name", "w", "adain"), [("out_w1_adain", 1.0, True), ("out_w0", 0.0, False)]
)
@torch.inference_mode()
def test_other_fidelity_weights_give_the_official_numbers(
    official: Any, name: str, w: float, adain: bool
) -> None:
    expected = vector("codeformer")
    picture, _, _ = official.raw(expected.input(), w, adain)
    deviation, tolerance = expected.deviation(name, picture)
    assert deviation <= tolerance


@pytest.mark.slow
@needs_reference
@torch.inference_mode()
def test_pictures_in_0_to_1_are_restored_with_w_one_half_and_each_by_itself(official: Any) -> None:
    expected = vector("codeformer")
    x = expected.input() / 2 + 0.5
    restored = official(torch.cat([x.flip(3), x])) * 2 - 1
    deviation, _ = expected.deviation("out_w0.5_adain", restored[1:])
    assert deviation < 1e-3
    assert (restored[0].flip(2) - restored[1]).abs().max() > 0.01


def test_adopted_channels_have_the_mean_and_the_spread_of_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(2, 3, 16, 16, generator=generator)
    style = torch.randn(2, 3, 16, 16, generator=generator) * 4 + 7
    found = adopt(content, style).numpy()
    assert np.allclose(found.mean((2, 3)), style.numpy().mean((2, 3)), atol=1e-4)
    assert np.allclose(found.std((2, 3)), style.numpy().std((2, 3)), rtol=1e-4)
    for plane, before in zip(found[0], content[0].numpy(), strict=True):
        assert np.corrcoef(plane.ravel(), before.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("w", [-0.1, 1.5])
def test_a_fidelity_weight_outside_0_to_1_is_refused(w: float) -> None:
    with pytest.raises(ModelError, match="between 0 and 1"):
        CodeFormer(w=w)
