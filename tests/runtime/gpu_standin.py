"""A GPU and a TensorRT of the host: device memory is host memory, and an engine is run by ONNX
Runtime.

The driver's functions have the parameters of the real bindings, the library's classes no name that
the release they stand in for lacks; and both insist on what the real ones leave undefined: every
address was allocated, a context has run before it is captured, and keeps its shape afterwards.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from cuda.bindings.driver import CUresult

from fhrt.cuda.launch import View
from fhrt.errors import UsageError

NAMES: dict[str, dict[str, list[str]]] = json.loads(
    (Path(__file__).parents[1] / "exporting" / "tensorrt_names.json").read_text(encoding="utf-8")
)
OK, STREAM, CONTEXT = CUresult.CUDA_SUCCESS, 7, 5


class Driver:
    """The functions of cuda.bindings.driver that are used. capacity: bytes of device memory.
    fails: function -> what it gives from now on. done: how often each was called."""

    def __init__(self) -> None:
        self.capacity = 1 << 40
        self.fails: dict[str, CUresult] = {}
        self.done: Counter[str] = Counter()
        self.blocks: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.stack: list[int] = []
        self.owner: int | None = None  # the thread whose work the stream has
        self.made = 0

    def functions(self) -> dict[str, Callable[..., Any]]:
        names = [name for name in dir(self) if name.startswith("cu")]
        return {name: self._counted(name) for name in names}

    def _counted(self, name: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> tuple[Any, ...]:
            self.done[name] += 1
            if name in self.fails:
                return (self.fails[name], None)
            return getattr(self, name)(*arguments)

        return run

    @property
    def used(self) -> int:
        return sum(block.nbytes for block in self.blocks.values())

    def at(self, address: int, size: int, pinned: bool = False) -> int:
        """The address, after a look at whether all of it was allocated."""
        blocks = self.pinned if pinned else self.blocks
        fits = (0 <= address - start <= block.nbytes - size for start, block in blocks.items())
        assert any(fits), f"{size} bytes at {address:#x} were never allocated"
        return address

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        assert stream == STREAM and self.owner in (None, get_ident()), "two threads at once"
        self.owner = get_ident()
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def cuCtxGetCurrent(self) -> Any:
        return OK, CONTEXT

    def cuCtxPushCurrent(self, ctx: Any) -> Any:
        assert ctx == CONTEXT
        self.stack.append(ctx)
        return (OK,)

    def cuCtxPopCurrent(self) -> Any:
        return OK, self.stack.pop()

    def cuMemAlloc(self, bytesize: int) -> Any:
        assert self.stack and bytesize > 0
        if self.used + bytesize > self.capacity:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
        block = np.full(bytesize, 0xFF, np.uint8)  # NaN, until something is written there
        self.blocks[block.ctypes.data] = block
        return OK, block.ctypes.data

    def cuMemFree(self, dptr: int) -> Any:
        del self.blocks[dptr]
        return (OK,)

    def cuMemHostAlloc(self, bytesize: int, Flags: int) -> Any:
        block = np.full(bytesize, 0xFF, np.uint8)
        self.pinned[block.ctypes.data] = block
        return OK, block.ctypes.data

    def cuMemFreeHost(self, p: int) -> Any:
        del self.pinned[p]
        return (OK,)

    def _copy(self, target: int, source: int, size: int, stream: int) -> Any:
        self.enqueue(stream, lambda: ctypes.memmove(target, source, size))
        return (OK,)

    def cuMemcpyHtoDAsync(self, dstDevice: int, srcHost: int, ByteCount: int, hStream: int) -> Any:
        source = self.at(srcHost, ByteCount, pinned=True)
        return self._copy(self.at(dstDevice, ByteCount), source, ByteCount, hStream)

    def cuMemcpyDtoHAsync(self, dstHost: int, srcDevice: int, ByteCount: int, hStream: int) -> Any:
        target = self.at(dstHost, ByteCount, pinned=True)
        return self._copy(target, self.at(srcDevice, ByteCount), ByteCount, hStream)

    def cuMemcpyDtoDAsync(
        self, dstDevice: int, srcDevice: int, ByteCount: int, hStream: int
    ) -> Any:
        target, source = self.at(dstDevice, ByteCount), self.at(srcDevice, ByteCount)
        return self._copy(target, source, ByteCount, hStream)

    def cuStreamSynchronize(self, hStream: int) -> Any:
        assert hStream == STREAM and self.capturing is None
        self.owner = None
        return (OK,)

    def cuStreamBeginCapture(self, hStream: int, mode: Any) -> Any:
        assert self.capturing is None and mode.name.endswith("RELAXED")
        self.capturing = []
        return (OK,)

    def cuStreamEndCapture(self, hStream: int) -> Any:
        recorded, self.capturing = self.capturing, None
        return OK, recorded

    def cuGraphInstantiate(self, hGraph: Any, flags: int) -> Any:
        self.made += 1
        self.graphs[self.made] = hGraph
        return OK, self.made

    def cuGraphDestroy(self, hGraph: Any) -> Any:
        return (OK,)

    def cuGraphLaunch(self, hGraphExec: int, hStream: int) -> Any:
        for work in self.graphs[hGraphExec]:
            self.enqueue(hStream, work)
        return (OK,)

    def cuGraphExecDestroy(self, hGraphExec: int) -> Any:
        del self.graphs[hGraphExec]
        return (OK,)


class Buffer:
    """As cuda.core's, freed with its last reference."""

    def __init__(self, driver: Driver, size: int) -> None:
        status, self.handle = driver.cuMemAlloc(size)
        if status != OK:
            raise RuntimeError(f"{status.name}: out of memory")
        self._driver = driver

    def __del__(self) -> None:
        if hasattr(self, "_driver"):
            self._driver.cuMemFree(self.handle)


def devices(driver: Driver) -> Any:
    """A class in place of cuda.core.Device."""

    class Device:
        def __init__(self, index: int) -> None:
            self._set = False

        def set_current(self) -> None:
            self._set = True

        def allocate(self, size: int, *, stream: Any) -> Buffer:
            assert self._set and int(stream.handle) == STREAM
            return Buffer(driver, size)

    return Device


class Gpu:
    """In place of fhrt.cuda.launch.Gpu."""

    def __init__(self, index: int = 0) -> None:
        self.stream = SimpleNamespace(handle=STREAM)

    def view(self, array: Any) -> View:
        if not hasattr(array, "__cuda_array_interface__"):
            raise UsageError(f"{type(array).__name__} is no device array")
        about = array.__cuda_array_interface__
        dtype, shape = np.dtype(about["typestr"]), about["shape"]
        steps = np.cumprod([1, *shape[:0:-1]])[::-1]
        strides = about.get("strides") or tuple(int(s) * dtype.itemsize for s in steps)
        return View(about["data"][0], shape, strides, dtype)


def plan_of(onnx: Path, profile: list[tuple[int, ...]]) -> bytes:
    """An engine's file. profile: the smallest, the fastest and the largest input."""
    return b"engine " + json.dumps({"onnx": str(onnx), "profile": profile}).encode()


def library(release: str, driver: Driver) -> Any:
    """The module, `tensorrt` or `tensorrt_rtx`. says: what the next context cannot run for."""
    names = NAMES[release]
    module: Any = ModuleType(release.split()[0])
    module.__version__ = release.split()[1]
    module.says = ""
    module.contexts = []
    enums = ["DataType", "ExecutionContextAllocationStrategy", "TensorIOMode"]
    for name in [*enums, *["CudaGraphStrategy"] * (module.__name__ == "tensorrt_rtx")]:
        words = [word for word in names[name] if word not in ("name", "value", "itemsize")]
        setattr(module, name, enum.IntEnum(name, words, start=0))

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class IRuntimeConfig:
        cuda_graph_strategy = None

        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            assert strategy == module.ExecutionContextAllocationStrategy.USER_MANAGED

    class IExecutionContext:
        def __init__(self, engine: Any) -> None:
            self._engine, self._ran, self._captured = engine, False, False
            self._shape: tuple[int, ...] = ()
            self._addresses: dict[str, int] = {}
            self._scratch = 0

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert name == self._engine._input.name and not self._captured
            low, _, high = self._engine._profile
            self._shape = tuple(shape)
            return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

        def get_tensor_shape(self, name: str) -> list[int]:
            n, _, height, width = self._shape
            scale = self._engine._scale
            return [n, 3, height * scale, width * scale]

        def update_device_memory_size_for_shapes(self) -> int:
            return 16 * int(np.prod(self._shape))

        def set_device_memory(self, memory: int, size: int) -> None:
            assert size >= 16 * int(np.prod(self._shape))
            self._scratch = driver.at(memory, size)

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            engine = self._engine
            if module.says:
                engine._logger.log(ILogger.ERROR, module.says)
                return False
            assert self._scratch
            shapes = (self._shape, self.get_tensor_shape(engine._output.name))
            sides = [
                (driver.at(self._addresses[node.name], 4 * int(np.prod(shape))), shape)
                for node, shape in zip((engine._input, engine._output), shapes, strict=True)
            ]
            if driver.capturing is not None:
                assert self._ran, "captured before its first run"
                self._captured = True

            def work() -> None:
                given, made = (
                    np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(at))
                    for at, shape in sides
                )
                batch = np.nan_to_num(given.reshape(shapes[0]))
                made[:] = engine._session.run(None, {engine._input.name: batch})[0].ravel()
                self._ran = True

            driver.enqueue(stream_handle, work)
            return True

    class ICudaEngine:
        def __init__(self, logger: Any, onnx: str, profile: list[list[int]]) -> None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(onnx, options)
            self._logger, self._profile = logger, profile
            self._input, self._output = (
                self._session.get_inputs()[0],
                self._session.get_outputs()[0],
            )
            self._scale = 1

        @property
        def num_io_tensors(self) -> int:
            return 2

        @property
        def device_memory_size_v2(self) -> int:
            return 16 * int(np.prod(self._profile[2]))

        def get_tensor_name(self, index: int) -> str:
            return str((self._input, self._output)[index].name)

        def get_tensor_mode(self, name: str) -> Any:
            modes = module.TensorIOMode
            return modes.INPUT if name == self._input.name else modes.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return module.DataType.FLOAT

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
            assert profile_index == 0
            return self._profile

        def create_runtime_config(self) -> Any:
            return IRuntimeConfig()

        def create_execution_context(self, how: Any) -> Any:
            if module.__name__ == "tensorrt_rtx":
                assert how.cuda_graph_strategy == module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            else:
                assert how == module.ExecutionContextAllocationStrategy.USER_MANAGED
            module.contexts.append(IExecutionContext(self))
            return module.contexts[-1]

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> Any:
            if not content.startswith(b"engine "):
                self._logger.log(ILogger.ERROR, "Error Code 1: magic tag\n does not match")
                return None
            return ICudaEngine(self._logger, **json.loads(content[7:]))

    for kind in (ICudaEngine, IExecutionContext, ILogger, IRuntimeConfig, Runtime):
        own = {name for name in vars(kind) if not name.startswith("_")}
        if module.__name__ == "tensorrt":
            own -= {"cuda_graph_strategy"}
        assert own <= set(names[kind.__name__]), (release, kind, own)
        setattr(module, kind.__name__, kind)
    return module
