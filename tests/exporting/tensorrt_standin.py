"""A module in place of `tensorrt`, with no name that the release it stands in for lacks.

Its builder writes down what it is asked for and gives back a few bytes. Names are those of
tensorrt_names.json: a class of the stand-in may have no others, and an object takes no others.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

NAMES: dict[str, dict[str, list[str]]] = json.loads(
    Path(__file__).with_name("tensorrt_names.json").read_text(encoding="utf-8")
)
TENSORRT = [release for release in NAMES if release.startswith("tensorrt ")]
PLAN = b"ftrt of the stand-in"


Plan = Callable[[str, list[tuple[int, ...]]], bytes]


def standin(release: str, plan: Plan = lambda path, shapes: PLAN) -> Any:
    """The module, with `built`: a namespace a build, of what the builder was asked for. plan: what
    an engine is of the path of its ONNX and the smallest, fastest and largest input."""
    names = NAMES[release]
    module: Any = ModuleType("tensorrt")
    module.__version__ = release.split()[1]
    module.built = []
    module.fails_with = ""

    def enum_of(name: str) -> Any:
        words = [word for word in names[name] if word not in ("name", "value")]
        return enum.IntEnum(name, words, start=0)

    for name in (
        "BuilderFlag",
        "HardwareCompatibilityLevel",
        "MemoryPoolType",
        "NetworkDefinitionCreationFlag",
    ):
        setattr(module, name, enum_of(name))

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class IProgressMonitor:
        pass

    class IHostMemory(bytes):
        @property
        def nbytes(self) -> int:
            return len(self)

    class ITimingCache:
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> Any:
            return IHostMemory(self._content + b"timing;")

    class IOptimizationProfile:
        def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
            self._shapes = {name: (tuple(low), tuple(best), tuple(high))}

    class IBuilderConfig:
        def __init__(self) -> None:
            self._flags = {module.BuilderFlag.TF32}
            self._limits: dict[Any, int] = {}

        def __setattr__(self, name: str, value: Any) -> None:
            if name[0] != "_" and name not in names["IBuilderConfig"]:
                raise AttributeError(f"{release}: IBuilderConfig has no {name}")
            object.__setattr__(self, name, value)

        def set_flag(self, flag: Any) -> None:
            self._flags.add(module.BuilderFlag(flag))

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(module.BuilderFlag(flag))

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._limits[module.MemoryPoolType(pool)] = size

        def add_optimization_profile(self, profile: Any) -> int:
            self._profile = profile._shapes
            return 0

        def create_timing_cache(self, content: bytes) -> Any:
            return ITimingCache(content)

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            self._cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._cache

    class INetworkDefinition:
        def __init__(self, flags: int) -> None:
            assert flags == 1 << module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
            self.num_inputs = self.num_layers = 0

        def get_input(self, index: int) -> Any:
            return self._input

    class ParserError:
        def __init__(self, index: int, node: Any) -> None:
            self._index, self._node = index, node

        def node(self) -> int:
            return self._index

        def node_name(self) -> str:
            return str(self._node.name)

        def node_operator(self) -> str:
            return str(self._node.op_type)

        def desc(self) -> str:
            return "Plugin not found"

    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            self._network, self._errors = network, []

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return self._errors[index]

        def parse_from_file(self, path: str) -> bool:
            graph = onnx.load(path).graph
            network = self._network
            network._path = path
            network.num_inputs, network.num_layers = len(graph.input), len(graph.node)
            dims = graph.input[0].type.tensor_type.shape.dim
            shape = tuple(dim.dim_value or -1 for dim in dims)
            network._input = SimpleNamespace(name=graph.input[0].name, shape=shape)
            nodes = enumerate(graph.node)
            self._errors = [ParserError(i, node) for i, node in nodes if node.domain == "my.ops"]
            return not self._errors

    class Builder:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def create_network(self, flags: int) -> Any:
            return INetworkDefinition(flags)

        def create_builder_config(self) -> Any:
            return IBuilderConfig()

        def create_optimization_profile(self) -> Any:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            asked = {name.lstrip("_"): value for name, value in vars(config).items()}
            module.built.append(SimpleNamespace(**asked))
            monitor = config.progress_monitor
            monitor.phase_start("Building engine", None, 2)
            monitor.phase_start("Timing", "Building engine", 1)
            for phase, step in (("Timing", 0), ("Building engine", 0), ("Building engine", 1)):
                if not monitor.step_complete(phase, step):
                    return None
            monitor.phase_finish("Timing")
            monitor.phase_finish("Building engine")
            if module.fails_with:
                self._logger.log(ILogger.WARNING, "careful")
                self._logger.log(ILogger.ERROR, module.fails_with)
                return None
            (shapes,) = asked["profile"].values()
            return IHostMemory(plan(network._path, list(shapes)))

    for kind in (
        Builder,
        IBuilderConfig,
        IHostMemory,
        ILogger,
        INetworkDefinition,
        IOptimizationProfile,
        IProgressMonitor,
        ITimingCache,
        OnnxParser,
        ParserError,
    ):
        own = {name for name in vars(kind) if not name.startswith("_")}
        assert own <= set(names[kind.__name__]), (release, kind, own)
        setattr(module, kind.__name__, kind)
    return module
