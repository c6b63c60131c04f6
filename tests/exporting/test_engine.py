"""Engines: really built by tensorrt_rtx, which needs no GPU; and `tensorrt` as far as can be known
without its libraries, by the names in its bindings and a stand-in that has no others."""

from __future__ import annotations

import ast
import ctypes
import errno
import importlib.util
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tensorrt_standin import NAMES, PLAN, TENSORRT, standin

from fhrt.errors import InputError, ModelError, RuntimeMissing, UsageError
from fhrt.exporting import builders, engine
from fhrt.exporting.builders import EngineOptions
from fhrt.exporting.engine import build_engine, engine_key
from fhrt.exporting.engine_cache import engine_for, engine_path
from fhrt.exporting.profile import Profile, parse_sizes, profile_of
from fhrt.models import Conversion, recipe
from fhrt.runtime import gpu
from fhrt.runtime.engine_library import open_library

L4 = gpu.Gpu("NVIDIA L4", 89, "580.65.06")
RTX = EngineOptions(library="tensorrt_rtx")
SMALL = Profile((1, 2, 4), (64, 64, 64), (64, 64, 64))

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt_rtx is not installed; pip install 'fhrt[rtx]'",
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _no_defaults_of_the_machine: None):
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty folder; what is in it after a failure was left behind."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "find_gpu", lambda: None)


@pytest.fixture(params=TENSORRT)
def tensorrt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for each release of tensorrt, on a machine with an L4."""
    module = standin(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(builders, "find_gpu", lambda: L4)
    return module


@pytest.fixture
def graph(tmp_path: Path) -> Callable[..., Path]:
    """Writes an ONNX file of two nodes: size, of its input; domain, of its second operator."""

    def write(size: object = "side", domain: str = "", inputs: int = 1) -> Path:
        shape = ["n", 3, size, size]
        values = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name in ("input", "more", "output")
        ]
        operator = "Sparkle" if domain else "Sigmoid"
        nodes = [
            helper.make_node("Relu", ["input"], ["between"], name="first"),
            helper.make_node(operator, ["between"], ["output"], name="second", domain=domain),
        ]
        made = helper.make_graph(nodes, "small", values[:inputs], values[2:])
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my.ops", 1)]
        path = tmp_path / "small.onnx"
        onnx.save(helper.make_model(made, opset_imports=opsets), path)
        return path

    return write


# tensorrt_rtx, really


@needs_rtx
@pytest.mark.parametrize(
    ("name", "size", "capabilities"),
    [
        ("restore", "", ("75", "80", "86", "89", "120", "121")),
        ("restore", "256", ()),
        ("detector", "160:640:1280", ("86",)),
    ],
)
def test_our_models_are_built_without_a_gpu(
    name: str, size: str, capabilities: tuple[str, ...], here: Path, no_gpu: None
) -> None:
    found = recipe(name)
    options = EngineOptions("tensorrt_rtx", compute_capabilities=capabilities)
    steps: list[tuple[str, int, int]] = []
    target = here / "model.engine"
    facts = build_engine(
        found.onnx_path(),
        target,
        profile_of(found, size=size),
        options,
        lambda *step: steps.append(step),
    )
    assert list(here.iterdir()) == [target]
    assert target.read_bytes()[:4] == b"vtrt"
    assert facts.bytes == target.stat().st_size > 1e6
    assert facts.layers > 100
    assert facts.seconds > 0
    assert facts.key["library"] == "tensorrt_rtx"
    assert facts.key["gpu"] == facts.key["driver"] == ""
    assert facts.key["compute_capability"] == (" ".join(capabilities) or "80 and later")
    assert "Building engine" in {phase for phase, _, _ in steps}
    assert all(1 <= done <= total for _, done, total in steps)


@needs_rtx
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (EngineOptions("tensorrt_rtx", compute_capabilities=("90",)), UsageError, "75, 80, 86"),
        (EngineOptions("tensorrt_rtx", hardware="ampere+"), UsageError, "no option hardware"),
        (EngineOptions("tensorrt_rtx", hardware="turing"), UsageError, "unknown hardware"),
        (EngineOptions("tensorrt_rtx", version_compatible=True), UsageError, "version_compatible"),
        (EngineOptions("tensorrt_rtx", refit=True), RuntimeMissing, "needs a GPU"),
        (EngineOptions("tensorrt_rtx", strip=True), RuntimeMissing, "needs a GPU"),
        (EngineOptions("tensorrt_rtx", workspace=1), ModelError, "workspace limit is 1 MiB"),
    ],
)
def test_what_tensorrt_rtx_cannot_do_is_said_in_one_line(
    options: EngineOptions, error: type[Exception], words: str, here: Path, no_gpu: None
) -> None:
    found = recipe("restore")
    with pytest.raises(error) as raised:
        build_engine(found.onnx_path(), here / "model.engine", profile_of(found), options)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(here.iterdir())


@needs_rtx
def test_an_operator_that_nobody_knows_is_named_with_its_node(
    here: Path, graph: Callable[..., Path], no_gpu: None
) -> None:
    with pytest.raises(ModelError, match=r"small.onnx: .* node 'second' \(op Sparkle\): .*Plugin"):
        build_engine(graph(domain="my.ops"), here / "model.engine", SMALL, RTX)
    assert not list(here.iterdir())


@needs_rtx
@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_a_file_that_is_no_whole_onnx_is_refused(
    content: bytes | None, here: Path, tmp_path: Path, no_gpu: None
) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(
        recipe("restore").onnx_path().read_bytes()[:100_000] if content is None else content
    )
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        build_engine(path, here / "model.engine", SMALL, RTX)
    assert not list(here.iterdir())


@needs_rtx
def test_a_profile_that_contradicts_the_graph_is_refused(
    here: Path, graph: Callable[..., Path], no_gpu: None
) -> None:
    with pytest.raises(UsageError, match=r"height 64 contradicts .*, which takes 32 and no other"):
        build_engine(graph(32), here / "model.engine", SMALL, RTX)
    odd = Profile((1, 1, 1), (250, 256, 256), (250, 256, 256))
    with pytest.raises(UsageError, match=r"250.* contradicts .*self-consistent"):
        build_engine(recipe("restore").onnx_path(), here / "model.engine", odd, RTX)
    assert not list(here.iterdir())


@needs_rtx
def test_what_the_progress_callback_raises_ends_the_build(
    here: Path, graph: Callable[..., Path], no_gpu: None
) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(graph(), here / "model.engine", SMALL, RTX, stop)
    assert not list(here.iterdir())


@needs_rtx
def test_a_full_disk_leaves_the_engine_that_was_there(
    here: Path, graph: Callable[..., Path], no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = here / "model.engine"
    target.write_bytes(b"the one before")
    monkeypatch.setattr("fhrt.pictures.os.fsync", full)
    with pytest.raises(InputError, match=r"model\.engine: cannot be written: .*disk is full"):
        build_engine(graph(), target, SMALL, RTX)
    assert [path.read_bytes() for path in here.iterdir()] == [b"the one before"]


@needs_rtx
@pytest.mark.parametrize(("capability", "name"), [(75, "RTX 2080"), (61, "GTX 1080"), (90, "H200")])
def test_tensorrt_rtx_builds_for_the_gpu_that_is_here_or_says_that_it_cannot(
    capability: int, name: str, graph: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "find_gpu", lambda: gpu.Gpu(name, capability, "580"))
    if capability == 75:
        assert engine_key(graph(), SMALL, RTX)["compute_capability"] == "75"
    else:
        with pytest.raises(RuntimeMissing, match=f"does not run on {name}.*{capability}"):
            engine_key(graph(), SMALL, RTX)
    elsewhere = EngineOptions("tensorrt_rtx", compute_capabilities=("86", "89"))
    assert engine_key(graph(), SMALL, elsewhere)["compute_capability"] == "86 89"


# tensorrt, by its names


def names_used(source: str) -> set[tuple[str, str]]:
    """(class, name) for `trt.CLASS.NAME`, and for the names that are asked of builder, config, …"""
    classes = {
        "builder": "Builder",
        "config": "IBuilderConfig",
        "error": "ParserError",
        "graph_input": "ITensor",
        "level": "HardwareCompatibilityLevel",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "plan": "IHostMemory",
        "shapes": "IOptimizationProfile",
    }
    used = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(ast.Attribute(ast.Name("trt"), kind), name):
                used.add((kind, name))
            case ast.Attribute(ast.Name("trt"), kind) if not kind.startswith("__"):
                used.add((kind, ""))
            case ast.Attribute(ast.Name(variable), name) if variable in classes:
                used.add((classes[variable], name))
    return {(kind, name) for kind, name in used if not name.startswith("__")}


RTX_ONLY = {
    ("ComputeCapability", ""),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
}


@pytest.mark.parametrize("release", NAMES)
def test_every_name_that_is_used_is_in_the_bindings(release: str) -> None:
    used = set()
    for module in (engine, builders):
        used |= names_used(Path(str(module.__file__)).read_text(encoding="utf-8"))
    assert used > RTX_ONLY | {("BuilderFlag", "STRIP_PLAN"), ("Builder", "create_network")}
    names = NAMES[release]
    known = {(kind, name) for kind, words in names.items() for name in ["", *words]}
    assert used - known == (RTX_ONLY if release in TENSORRT else set())
    # what the library calls
    assert set(names["IProgressMonitor"]) == {"phase_start", "step_complete", "phase_finish"}
    assert "log" in names["ILogger"]


@needs_rtx
def test_the_table_is_that_of_the_bindings_that_are_installed() -> None:
    import tensorrt_rtx

    release = f"tensorrt_rtx {tensorrt_rtx.__version__}"
    if release not in NAMES:
        pytest.skip(f"the table is of another release than {release}")
    for kind, names in NAMES[release].items():
        assert set(names) <= set(dir(getattr(tensorrt_rtx, kind)))


def test_every_option_reaches_the_builder(
    tensorrt: Any, here: Path, graph: Callable[..., Path]
) -> None:
    options = EngineOptions(
        workspace=2048, hardware="ampere+", version_compatible=True, refit=True, strip=True
    )
    steps: list[tuple[str, int, int]] = []
    profile = Profile((1, 4, 8), (64, 128, 256), (32, 64, 64))
    facts = build_engine(
        graph(), here / "model.engine", profile, options, lambda *step: steps.append(step)
    )
    asked = tensorrt.built[-1]
    assert asked.profile == {"input": ((1, 3, 64, 32), (4, 3, 128, 64), (8, 3, 256, 64))}
    assert {flag.name for flag in asked.flags} == {"REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE"}
    assert asked.limits == {tensorrt.MemoryPoolType.WORKSPACE: 2048 << 20}
    assert asked.hardware_compatibility_level.name == "AMPERE_PLUS"
    assert steps == [("Timing", 1, 1), ("Building engine", 1, 2), ("Building engine", 2, 2)]
    assert (here / "model.engine").read_bytes() == PLAN
    assert facts.layers == 2
    assert facts.key["gpu"] == "NVIDIA L4"
    assert facts.key["driver"] == "580.65.06"
    assert facts.key["version"] == tensorrt.__version__


def test_without_options_fp32_is_fp32_and_the_library_chooses_the_rest(
    tensorrt: Any, here: Path, graph: Callable[..., Path]
) -> None:
    build_engine(graph(), here / "model.engine", SMALL)
    asked = tensorrt.built[-1]
    assert asked.flags == set()
    assert asked.limits == {}
    assert not hasattr(asked, "hardware_compatibility_level")
    build_engine(graph(), here / "model.engine", SMALL, EngineOptions(tf32=True))
    assert [flag.name for flag in tensorrt.built[-1].flags] == ["TF32"]


def test_measured_kernels_are_remembered_for_the_release_and_the_gpu(
    tensorrt: Any, here: Path, graph: Callable[..., Path], tmp_path: Path
) -> None:
    for _ in range(2):
        build_engine(graph(), here / "model.engine", SMALL)
    (kept,) = (tmp_path / "weights" / "engines").iterdir()
    assert kept.read_bytes() == b"timing;timing;"
    assert "nvidia-l4" in kept.name
    build_engine(graph(), here / "model.engine", SMALL, EngineOptions(timing_cache=False))
    assert kept.read_bytes() == b"timing;timing;"


def test_a_build_that_fails_says_why_and_publishes_nothing(
    tensorrt: Any, here: Path, graph: Callable[..., Path]
) -> None:
    tensorrt.fails_with = "Error Code 2: OutOfMemory\n (no tactic\n fits)"
    with pytest.raises(ModelError, match=r"cannot build it: Error Code 2: .* \(no tactic fits\)$"):
        build_engine(graph(), here / "model.engine", SMALL)
    with pytest.raises(ModelError, match=r"node 'second' \(op Sparkle\)"):
        build_engine(graph(domain="my.ops"), here / "model.engine", SMALL)
    with pytest.raises(ModelError, match="2 inputs; one is needed"):
        build_engine(graph(inputs=2), here / "model.engine", SMALL)
    with pytest.raises(ModelError, match="no such model file"):
        build_engine(here / "none.onnx", here / "model.engine", SMALL)
    assert not list(here.iterdir())


def test_tensorrt_says_which_machine_it_needs(
    tensorrt: Any, graph: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="only tensorrt_rtx"):
        engine_key(graph(), SMALL, EngineOptions(compute_capabilities=("89",)))
    monkeypatch.setattr(builders, "find_gpu", lambda: gpu.Gpu("NVIDIA TITAN V", 70, "580"))
    with pytest.raises(RuntimeMissing, match=r"TITAN V has compute capability 7\.0.* 7\.5"):
        engine_key(graph(), SMALL, EngineOptions())
    monkeypatch.setattr(builders, "find_gpu", lambda: None)
    with pytest.raises(RuntimeMissing, match=r"none is here; .*pip install 'fhrt\[rtx\]'"):
        engine_key(graph(), SMALL, EngineOptions())
    tensorrt.__version__ = "10.9.0.34"
    with pytest.raises(RuntimeMissing, match=r"10\.9\.0\.34 is too old"):
        engine_key(graph(), SMALL, EngineOptions())


def test_a_builder_that_does_not_start_is_reported(
    tensorrt: Any, here: Path, graph: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(logger: Any) -> None:
        logger.log(tensorrt.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(tensorrt, "Builder", nothing)
    with pytest.raises(RuntimeMissing, match="does not start: CUDA initialization failure"):
        build_engine(graph(), here / "model.engine", SMALL)


def test_without_a_library_the_pip_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(
        RuntimeMissing, match=r"'fhrt\[tensorrt\]' or pip install 'fhrt\[rtx\]' adds it"
    ):
        open_library()
    with pytest.raises(RuntimeMissing, match=r"pip install 'fhrt\[rtx\]' adds it"):
        open_library("tensorrt_rtx")
    with pytest.raises(UsageError, match="did you mean 'tensorrt'"):
        open_library("tensort")


# kept engines


@pytest.mark.parametrize("tensorrt", TENSORRT[-1:], indirect=True)
def test_an_engine_is_built_once_until_it_no_longer_fits(
    tensorrt: Any, here: Path, graph: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = here / "kept" / "model.engine"

    def ask(**more: Any) -> str:
        facts, reason = engine_for(graph(**more), target, SMALL)
        assert facts.bytes == len(PLAN)
        return reason

    assert ask() == "there is no engine yet"
    assert ask() == ""
    newer = gpu.Gpu(L4.name, L4.compute_capability, "590.1")
    monkeypatch.setattr(builders, "find_gpu", lambda: newer)
    assert ask() == "driver was 580.65.06, is 590.1"
    assert ask() == ""
    tensorrt.__version__ = "11.5.0"
    assert ask().startswith("version was 11.4.")
    assert ask(size=64) == "the model is another one now"
    target.write_bytes(PLAN[:5])
    assert ask(size=64) == f"the engine has 5 bytes, not the {len(PLAN)} it was given"
    target.with_name("model.engine.json").write_text("{")
    assert ask(size=64) == "it is not known how the engine was built"
    assert len(tensorrt.built) == 6
    refused = engine_for(graph(size=64), target, SMALL, refused="it cannot be deserialised")
    assert refused[1] == "it cannot be deserialised"
    assert ask(size=64) == ""


@pytest.mark.parametrize("tensorrt", TENSORRT[-1:], indirect=True)
def test_a_rebuild_that_fails_leaves_the_engine_and_is_tried_again(
    tensorrt: Any, here: Path, graph: Callable[..., Path]
) -> None:
    target = here / "model.engine"
    engine_for(graph(), target, SMALL)
    tensorrt.fails_with = "no"
    with pytest.raises(ModelError):
        engine_for(graph(size=64), target, SMALL)
    assert engine_for(graph(), target, SMALL)[1] == ""
    tensorrt.fails_with = ""
    assert engine_for(graph(size=64), target, SMALL)[1] == "the model is another one now"


@pytest.mark.parametrize("tensorrt", TENSORRT[-1:], indirect=True)
def test_of_two_that_ask_at_once_one_builds(
    tensorrt: Any, here: Path, graph: Callable[..., Path]
) -> None:
    path, target = graph(), here / "model.engine"
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(engine_for, path, target, SMALL) for _ in range(2)]
    assert sorted(each.result()[1] for each in asked) == ["", "there is no engine yet"]
    assert len(tensorrt.built) == 1


@pytest.mark.parametrize("tensorrt", TENSORRT[-1:], indirect=True)
def test_the_cache_keeps_profiles_and_gpus_apart_and_drivers_not(
    tensorrt: Any, graph: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = engine_path(graph(), SMALL)
    wider = Profile((1, 2, 8), SMALL.height, SMALL.width)
    assert engine_path(graph(), wider) != path
    monkeypatch.setattr(builders, "find_gpu", lambda: gpu.Gpu("NVIDIA L40", 89, L4.driver))
    assert engine_path(graph(), SMALL) != path
    monkeypatch.setattr(builders, "find_gpu", lambda: gpu.Gpu(L4.name, 89, "590.1"))
    assert engine_path(graph(), SMALL) == path


# profiles and GPUs


def test_a_profile_is_read_and_checked() -> None:
    restore, unmask = recipe("restore"), recipe("unmask-256")
    assert profile_of(restore) == Profile((1, 4, 8), (256, 384, 512), (256, 384, 512))
    assert str(profile_of(restore, "2", "256")) == "batch 2, height 256, width 256"
    assert parse_sizes("1:8", "batch") == (1, 8, 8)
    for call in (
        lambda: profile_of(restore, "8:4:1"),
        lambda: profile_of(restore, "0:1"),
        lambda: profile_of(restore, "1:2:3:4"),
        lambda: profile_of(restore, "many"),
        lambda: profile_of(restore, size="250"),
        lambda: profile_of(unmask, size="512"),
        lambda: profile_of(replace(recipe("detector"), export=Conversion())),
    ):
        with pytest.raises(UsageError):
            call()


def test_a_shape_outside_the_profile_is_refused() -> None:
    profile = profile_of(recipe("restore"))
    profile.check((8, 3, 256, 512))
    with pytest.raises(UsageError, match=r"batch 9 is outside the engine's profile, 1:4:8"):
        profile.check((9, 3, 256, 256))
    with pytest.raises(UsageError, match=r"width 528 is outside"):
        profile.check((1, 3, 256, 528))


def test_the_driver_is_asked_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGet(self, device: Any, index: int) -> int:
            return 0 if index == 0 else 101  # no such device

        def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
            name.value = b"NVIDIA H200"
            return 0

        def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:
            value._obj.value = {75: 9, 76: 0}[attribute]
            return 0

        def cuDriverGetVersion(self, value: Any) -> int:
            value._obj.value = 13010
            return 0

    def load(name: str) -> Any:
        if name == gpu.CUDA:
            return Cuda()
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert gpu.find_gpu() == gpu.Gpu("NVIDIA H200", 90, "CUDA 13.1")
    assert gpu.find_gpu(1) is None
