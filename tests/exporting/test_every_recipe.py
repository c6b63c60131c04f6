"""Every shipped recipe: its FP16 graph is parsed and becomes an engine, without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
onnx = pytest.importorskip("onnx", reason="fhrt[train] is not installed")
trt = pytest.importorskip("tensorrt_rtx", reason="fhrt[rtx] is not installed")

from fhrt.exporting import builders  # noqa: E402
from fhrt.exporting.builders import EngineOptions  # noqa: E402
from fhrt.exporting.engine import build_engine  # noqa: E402
from fhrt.exporting.precision import lower  # noqa: E402
from fhrt.exporting.profile import profile_of  # noqa: E402
from fhrt.exporting.to_onnx import trace  # noqa: E402
from fhrt.models import recipe, recipes  # noqa: E402
from fhrt.networks import build  # noqa: E402
from fhrt.weights import locate  # noqa: E402

CAPABILITIES = ("75", "80", "86", "89", "120", "121")


def different() -> list[str]:
    """A recipe for every network that is shipped or can be fetched: three are GFPGAN."""
    of = {(r.network, str(r.options)): name for name, r in recipes().items() if r.scale}
    return sorted(of.values())


def test_the_compute_capabilities_are_all_that_can_be_named() -> None:
    names = {name[2:] for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    assert names == set(CAPABILITIES)


@pytest.mark.parametrize("name", different())
def test_its_fp16_engine_is_built(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "find_gpu", lambda: None)
    found = recipe(name)
    exact = locate(f"{name}.onnx")
    if exact is None:  # weights are other people's: these are drawn
        torch.manual_seed(0)
        exact = tmp_path / "exact.onnx"
        onnx.save(trace(build(found.network, **found.options).eval(), found), str(exact))
    half = tmp_path / "half.onnx"
    lower(exact, found, "fp16", half)
    options = EngineOptions("tensorrt_rtx", compute_capabilities=CAPABILITIES)
    profile = profile_of(found)
    built = build_engine(half, tmp_path / "model.engine", profile, options)
    print(f"{name}: {built.layers} layers, {built.bytes / 1e6:.1f} MB, {built.seconds:.1f} s")
    assert built.key["profile"] == str(profile) and "batch 1:4:8" in str(profile)
    assert built.key["compute_capability"] == " ".join(CAPABILITIES)
    # the weights of the graph, in fp16, are in it
    assert built.bytes > 0.9 * half.stat().st_size
