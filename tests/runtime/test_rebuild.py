"""An engine from its export to the machines that it is opened on, over stand-ins of a GPU, of the
library that runs engines and of the one that builds them (gpu_standin.py, tensorrt_standin.py)."""

from __future__ import annotations

import gc
import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="fhrt[train] is not installed")
pytest.importorskip("onnx", reason="fhrt[train] is not installed")

from gpu_standin import NAMES, plan_of
from runtime_cases import L4, pictures, stand_in
from tensorrt_standin import standin

from fhrt.cli.main import run_app
from fhrt.errors import EngineMisfit, ModelError
from fhrt.exporting import builders, steps
from fhrt.exporting.builders import EngineOptions
from fhrt.exporting.engine_cache import open_fitting
from fhrt.exporting.sources import Graph
from fhrt.exporting.steps import Wish, export
from fhrt.faces import Picture
from fhrt.models import recipe
from fhrt.runtime import gpu
from fhrt.runtime.session import open_session

OLD, NEW, *_ = (release for release in NAMES if release.startswith("tensorrt "))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Makes this one a machine with a GPU and a release of tensorrt; `built` of what it gives is of
    its builder, and what `engine_of` is set to is built in place of the graph asked for."""
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path / "weights"))

    def start(release: str = OLD, here: gpu.Gpu = L4) -> Any:
        module, driver = stand_in(monkeypatch, release, here)
        about = SimpleNamespace(module=module, driver=driver, engine_of="")

        def plan(path: str, shapes: list[tuple[int, ...]]) -> bytes:
            content = Path(about.engine_of or path).read_bytes()
            kept = tmp_path / f"built-{hashlib.sha256(content).hexdigest()}.onnx"
            kept.write_bytes(content)  # as an engine holds its weights
            return plan_of(kept, shapes)

        builder = standin(release, plan)
        for name in vars(builder).keys() - vars(module).keys():
            setattr(module, name, getattr(builder, name))
        about.built = builder.built
        for user in (builders, steps):
            monkeypatch.setattr(user, "find_gpu", lambda: here)
        return about

    return start


@pytest.fixture
def folder(machine: Callable[..., Any], tmp_path: Path) -> Path:
    """`fhrt export restore --to tensorrt --precision fp32`, on a machine with an L4."""
    machine()
    found, target = recipe("restore"), tmp_path / "restore-tensorrt"
    export(Graph(found, found.onnx_path()), target, WISH)
    return target


WISH = Wish(
    to="tensorrt", precision="fp32", batch="1:2:4", size="16:64:256",
    engine=EngineOptions(workspace=512, timing_cache=False),
)  # fmt: skip


def opened(folder: Path) -> tuple[Any, list[str]]:
    """The session, and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        session = open_fitting(folder, "cuda:0")
    return session, [str(one.message) for one in said if one.category is RuntimeWarning]


def test_an_engine_is_run_beside_what_it_was_made_of_before_it_is_published(
    folder: Path,
) -> None:
    facts = json.loads((folder / "manifest.json").read_text())
    assert [step["to"] for step in facts["steps"]] == ["onnx", "tensorrt"]
    parity = facts["steps"][1]["parity"]["fp32, seeded pictures"]
    assert parity["inputs"] == 4 and parity["largest"] < 1e-4
    assert "compared with nothing" not in (folder / "card.md").read_text()
    session, said = opened(folder)
    assert said == [] and session.precision == "fp32"
    batch = pictures(2)
    assert np.allclose(session(batch), open_session("restore", "cpu", "onnx", 1)(batch), atol=1e-4)


def test_an_engine_that_gives_something_else_is_not_published(
    machine: Callable[..., Any], tmp_path: Path
) -> None:
    found, target = recipe("restore"), tmp_path / "here" / "restore-tensorrt"
    machine().engine_of = str(recipe("restore-gan").onnx_path())
    with pytest.raises(ModelError, match=r"^restore: fp32 departs from .*; not published$"):
        export(Graph(found, found.onnx_path()), target, WISH)
    assert list((tmp_path / "here").iterdir()) == []


ELSEWHERE = [
    (NEW, L4, f"built for {OLD}, and {NEW.split()[1]} is here"),
    (OLD, gpu.Gpu("NVIDIA H200", 90, "590.1"), "built for NVIDIA L4, and NVIDIA H200 (90) is here"),
]


@pytest.mark.parametrize(("release", "other", "why"), ELSEWHERE)
def test_elsewhere_it_is_built_anew_once_and_it_is_said_why(
    release: str, other: gpu.Gpu, why: str, folder: Path, machine: Callable[..., Any]
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    here = machine(release, other)
    with pytest.raises(EngineMisfit):
        open_session(folder, "cuda:0")
    session, (said,) = opened(folder)
    assert said.startswith(f"{folder / 'model.engine'}: {why}; built anew of model.onnx in ")
    assert "\n" not in said
    (asked,) = here.built
    sides = ((1, 3, 16, 16), (2, 3, 64, 64), (4, 3, 256, 256))
    assert list(asked.profile.values()) == [sides]
    assert list(asked.limits.values()) == [512 << 20]
    batch = pictures(3)
    assert np.allclose(session(batch), open_session("restore", "cpu", "onnx", 1)(batch), atol=1e-4)
    session, said_again = opened(folder)
    assert said_again == [] and len(here.built) == 1
    session.close()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_kept_engine_that_the_library_refuses_is_built_anew_once(
    folder: Path, machine: Callable[..., Any], tmp_path: Path
) -> None:
    here = machine(NEW)
    opened(folder)[0].close()
    (kept,) = (tmp_path / "weights" / "engines").glob("*.engine")
    kept.write_bytes(b"x" * kept.stat().st_size)
    session, (said,) = opened(folder)
    assert f"{NEW} refuses it: Error Code 1: magic tag" in said and len(here.built) == 2
    session.close()


def test_what_cannot_be_built_anew_is_one_line_and_leaves_nothing(
    folder: Path, machine: Callable[..., Any], tmp_path: Path
) -> None:
    here = machine(NEW)
    here.engine_of = str(tmp_path / "none.onnx")
    manifest = folder / "manifest.json"
    facts = json.loads(manifest.read_text())
    here.module.Builder.build_serialized_network = lambda *given: None
    with pytest.raises(ModelError, match=r"model\.onnx: tensorrt \S+ cannot build it: [^\n]*$"):
        open_fitting(folder, "cuda:0")
    assert not list((tmp_path / "weights").rglob("*.engine"))
    del facts["build"]  # as earlier releases wrote it
    manifest.write_text(json.dumps(facts))
    with pytest.raises(EngineMisfit, match="build it anew: `fhrt export restore --to tensorrt`"):
        open_fitting(folder, "cuda:0")


def test_a_command_warns_and_goes_on(
    folder: Path, machine: Callable[..., Any], astronaut: Picture, tmp_path: Path
) -> None:
    machine(NEW)
    data = tmp_path / "data"
    data.mkdir()
    Image.fromarray(astronaut[:256, 90:346]).save(data / "0.png")
    words = ["eval", str(folder), "--protocol", "blind-256", "--data", str(data)]
    with pytest.warns(RuntimeWarning, match=f"built for {OLD}") as said:
        assert run_app([*words, "--device", "cuda:0", "--runtime", "tensorrt"]) == 0
    assert len(said) == 1
    gc.collect()
