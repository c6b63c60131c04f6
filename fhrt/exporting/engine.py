"""ONNX -> engine, by `tensorrt` (10.12 or later) or `tensorrt_rtx`.

One path for all of them: it calls only what each of them has (tests/exporting/tensorrt_names.json).
Networks are strongly typed, so the precision is that of the graph. `tensorrt` builds for the GPU
that is here; `tensorrt_rtx` also without one, for any it knows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhrt.errors import InputError, ModelError, RuntimeMissing, UsageError
from fhrt.exporting.artifact import sha256
from fhrt.exporting.builders import DEFAULTS, EngineOptions, find_builder
from fhrt.exporting.profile import Profile, spelt
from fhrt.pictures import write_atomically
from fhrt.runtime.engine_library import listener as open_listener
from fhrt.runtime.gpu import Gpu
from fhrt.weights import cache_folder

Progress = Callable[[str, int, int], None]  # a phase, and how many of its steps are done


@dataclass(frozen=True)
class EngineFacts:
    """What was built. key: what it was built of, for and with (`engine_key`). seconds: of building.
    bytes: its size. layers: of the network that was given to the builder."""

    key: dict[str, str]
    seconds: float
    bytes: int
    layers: int


def build_engine(
    onnx: Path,
    target: Path,
    profile: Profile,
    options: EngineOptions = DEFAULTS,
    progress: Progress | None = None,
) -> EngineFacts:
    """Write `target`, the engine of a graph with one (N, C, H, W) input, whole or not at all.

    progress is told of every step, from threads of the builder; what it raises ends the build and
    is raised here. Raises ModelError for a graph that cannot be built, UsageError for a profile
    that contradicts it and for options that the library does not have, RuntimeMissing without the
    library or a GPU it can use, InputError where the target cannot be written.
    """
    begun = time.monotonic()
    key = engine_key(onnx, profile, options)
    trt, gpu, capabilities = find_builder(options)
    listener = open_listener(trt)
    listener.heard.clear()
    try:
        builder = trt.Builder(listener)
    except TypeError as error:  # what the bindings make of a null pointer
        raise RuntimeMissing(f"{_name(trt)} does not start: {listener.reason()}") from error
    network, _parser = _parse(trt, builder, listener, onnx)
    graph_input = network.get_input(0)
    shape = tuple(graph_input.shape)
    _check_fit(onnx, shape, profile)

    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    shapes.set_shape(graph_input.name, *profile.shapes(shape[1]))
    config.add_optimization_profile(shapes)
    _configure(trt, config, options, capabilities)
    timing = _timing_cache(trt, gpu) if options.timing_cache else None
    if timing is not None:
        known = timing.read_bytes() if timing.is_file() else b""
        remembered = config.create_timing_cache(known) or config.create_timing_cache(b"")
        config.set_timing_cache(remembered, False)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor

    plan = builder.build_serialized_network(network, config)
    if monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        limit = f"; the workspace limit is {options.workspace} MiB" if options.workspace else ""
        raise ModelError(f"{onnx}: {_name(trt)} cannot build it: {listener.reason()}{limit}")
    # the builder only warns; no shape of such a profile could be run
    if senseless := listener.warning("not self-consistent"):
        raise UsageError(f"{profile} contradicts {onnx}: {senseless}")
    write_atomically(target, plan)
    if timing is not None:
        with suppress(InputError):  # a cache that cannot be kept costs time, and nothing else
            write_atomically(timing, bytes(config.get_timing_cache().serialize()))
    return EngineFacts(key, time.monotonic() - begun, plan.nbytes, network.num_layers)


def engine_key(onnx: Path, profile: Profile, options: EngineOptions) -> dict[str, str]:
    """All that an engine depends on, by name. An engine of another key must not be used.

    The GPU and its driver are "" for tensorrt_rtx: its engines fit every GPU of their compute
    capabilities and become machine code there. Raises as `find_builder`, and ModelError.
    """
    if not onnx.is_file():
        raise ModelError(f"{onnx}: no such model file")
    trt, gpu, capabilities = find_builder(options)
    portable = trt.__name__ == "tensorrt_rtx"
    return {
        "gpu": "" if gpu is None or portable else gpu.name,
        "compute_capability": " ".join(capabilities) or "80 and later",
        "driver": "" if gpu is None or portable else gpu.driver,
        "library": str(trt.__name__),
        "version": str(trt.__version__),
        "profile": str(profile),
        "options": str(options),
        "model": sha256(onnx),
    }


def _parse(trt: Any, builder: Any, listener: Any, onnx: Path) -> tuple[Any, Any]:
    """The network of a graph, and the parser, which must live as long. Raises ModelError."""
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, listener)
    if not parser.parse_from_file(str(onnx)):
        if not parser.num_errors:
            raise ModelError(f"{onnx}: {_name(trt)} cannot read it: {listener.reason()}")
        error = parser.get_error(0)
        where = "it"
        if operator := error.node_operator():
            where = f"node {error.node_name() or error.node()!r} (op {operator})"
        raise ModelError(f"{onnx}: {_name(trt)} cannot read {where}: {_one_line(error.desc())}")
    if network.num_inputs != 1:  # 0: some files that are no ONNX are read as an empty graph
        raise ModelError(f"{onnx}: a graph with {network.num_inputs} inputs; one is needed")
    return network, parser


def _check_fit(onnx: Path, shape: tuple[int, ...], profile: Profile) -> None:
    """shape: of the graph's input, -1 where any size will do."""
    if len(shape) != 4 or shape[1] < 1:
        raise ModelError(f"{onnx}: its input is {shape}, not pictures (N, C, H, W)")
    for axis, (name, sizes) in zip((0, 2, 3), profile.ranges().items(), strict=True):
        if shape[axis] >= 0 and sizes != (shape[axis],) * 3:
            raise UsageError(
                f"{name} {spelt(sizes)} contradicts {onnx}, which takes {shape[axis]} and no other"
            )


def _configure(
    trt: Any, config: Any, options: EngineOptions, capabilities: tuple[str, ...]
) -> None:
    flags = {
        trt.BuilderFlag.TF32: options.tf32,
        trt.BuilderFlag.REFIT: options.refit,
        trt.BuilderFlag.STRIP_PLAN: options.strip,
        trt.BuilderFlag.VERSION_COMPATIBLE: options.version_compatible,
    }
    for flag, wanted in flags.items():
        if wanted:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)
    if options.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.hardware:
        level = trt.HardwareCompatibilityLevel
        levels = {"same": level.SAME_COMPUTE_CAPABILITY, "ampere+": level.AMPERE_PLUS}
        config.hardware_compatibility_level = levels[options.hardware]
    if trt.__name__ == "tensorrt_rtx" and capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{name}"), index)


def _timing_cache(trt: Any, gpu: Gpu | None) -> Path | None:
    """The file of a library's release and a GPU; None for tensorrt_rtx, which measures nothing."""
    if trt.__name__ == "tensorrt_rtx" or gpu is None:
        return None
    of = re.sub(r"\W+", "-", f"{trt.__version__} {gpu.name}".lower())
    folder = cache_folder() / "engines"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / f"timing-{of}.cache"


def _monitor(trt: Any, progress: Progress | None) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.totals: dict[str, int] = {}
            self.stopped: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.totals[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            try:
                if progress is not None:
                    progress(phase, step + 1, self.totals.get(phase, 0))
            except BaseException as error:  # it cannot pass through the builder's C++
                self.stopped = self.stopped or error
            return self.stopped is None

        def phase_finish(self, phase: str) -> None:
            self.totals.pop(phase, None)

    return Monitor()


def _name(trt: Any) -> str:
    return f"{trt.__name__} {trt.__version__}"


def _one_line(text: str, most: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
