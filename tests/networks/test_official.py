"""The official networks: the keys of their checkpoints, and their numbers with seeded weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
from reference import Watched, keys, needs_reference, seeded, vector  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from fhrt.networks import build  # noqa: E402

pytestmark = needs_reference

# the official name: ours, and its options
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "gfpgan-v1-clean-256-c1-n05": (
        "gfpgan",
        {"out_size": 256, "channel_multiplier": 1, "narrow": 0.5},
    ),
    "gfpgan-v1-clean": ("gfpgan", {}),
}


def gfpgan(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    image, rgbs = network.raw(x)
    return {"image": image, **{f"rgb{i}": rgb for i, rgb in enumerate(rgbs)}}


OUTPUTS: dict[str, Callable[[Any, Tensor], dict[str, Tensor]]] = {"gfpgan": gfpgan}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_official_checkpoint_loads_and_gives_the_official_numbers(name: str) -> None:
    kind, options = NETWORKS[name]
    network = build(kind, **options).eval()
    assert {key: tuple(v.shape) for key, v in network.state_dict().items()} == keys(name)
    network.load_state_dict(seeded(name))
    expected = vector(name)
    for prefix in ("a/", "b/") if "a/input" in expected.arrays else ("",):
        wanted = expected.named(prefix)
        mids = {n.removeprefix(prefix + "mid:") for n in wanted if "mid:" in n}
        watched = Watched(network, mids)
        with torch.inference_mode():
            found = OUTPUTS[kind](network, expected.input(prefix))
        found |= {f"mid:{path}": value for path, value in watched.seen.items()}
        deviations = {
            n: expected.deviation(n, found[n.removeprefix(prefix).removesuffix("#1")])
            for n in wanted
        }
        assert all(d <= tol for d, tol in deviations.values()), deviations
