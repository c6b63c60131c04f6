"""A GPU of the host whose streams are late: what is enqueued runs when it pleases, in the order
that streams and events demand and in no other. So what lacks an event reads what is not there yet.

The driver is that of tests/runtime, the kernels are those that g++ compiles.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_standin
import numpy as np
import onnxruntime
import runtime_cases
from cuda.bindings.driver import CUresult
from emulator import Emulator
from gpu_standin import OK, STREAM, Driver

from fhrt.cuda.launch import View
from fhrt.runtime import cuda, onnx, onnx_gpu

FRAME = 4096  # bytes; smaller copies are no frames


class LateDriver(Driver):
    """seed: of when the streams work. ways: the bytes of each copy that went up, and came down."""

    def __init__(self, seed: int = 0) -> None:
        self.own, self.lock = threading.local(), threading.RLock()
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.queues: dict[int, deque[Any]] = {STREAM: deque()}
        self.issued = {STREAM: 0}
        self.worked = {STREAM: 0}
        self.eager = {STREAM: self._eager()}
        self.events: dict[int, tuple[int, int]] = {}
        self.ways: dict[str, list[int]] = {"up": [], "down": []}
        self.lost_after: int | None = None  # pieces of work, until the device is lost
        self.overlap = 0  # pieces of work that ran while those of another stream waited

    @property
    def stack(self) -> list[int]:
        """The contexts of this thread."""
        return self.own.__dict__.setdefault("stack", [])

    @stack.setter
    def stack(self, value: list[int]) -> None:
        self.own.stack = value

    def _counted(self, name: str) -> Callable[..., Any]:
        run = super()._counted(name)

        def checked(*arguments: Any) -> tuple[Any, ...]:
            if self.lost_after == 0 and name not in ("cuCtxPushCurrent", "cuCtxPopCurrent"):
                return CUresult.CUDA_ERROR_LAUNCH_FAILED, None
            with self.lock:
                return run(*arguments)

        return checked

    # a stream is a queue of work and of (stream, number) that it waits for

    def enqueue(self, stream: int, work: Any) -> None:
        assert self.stack, "no context is current"
        if self.capturing is not None:
            self.capturing.append(work)
            return
        with self.lock:
            self._enqueue(stream, work)

    def _enqueue(self, stream: int, work: Any) -> None:
        self.queues[stream].append(work)
        self.issued[stream] += 1
        for each in self.rng.permutation(list(self.queues)):
            for _ in range(self.eager[int(each)]):
                if self._may(int(each)):
                    self._step(int(each))

    def _eager(self) -> int:
        """How much a stream works each time; 0 for only when it must."""
        return int(self.rng.choice([0, 1, 100]))

    def _may(self, stream: int) -> bool:
        queue = self.queues[stream]
        return bool(queue) and (callable(queue[0]) or self._past(queue[0]))

    def _past(self, mark: tuple[int, int]) -> bool:
        return self.worked.get(mark[0], 1 << 60) >= mark[1]

    def _step(self, stream: int) -> None:
        work = self.queues[stream].popleft()
        if callable(work):
            self.overlap += any(queue for other, queue in self.queues.items() if other != stream)
            work()
            if self.lost_after:
                self.lost_after -= 1
        self.worked[stream] += 1

    def reach(self, stream: int, number: int) -> None:
        while self.worked[stream] < number:
            if not self._may(stream):
                self.reach(*self.queues[stream][0])
            self._step(stream)

    def reach_all(self) -> None:
        for stream in list(self.queues):
            self.reach(stream, self.issued[stream])

    def cuStreamCreate(self, Flags: int) -> Any:
        assert Flags == 1  # CU_STREAM_NON_BLOCKING
        stream = 100 + len(self.queues)
        self.queues[stream], self.issued[stream], self.worked[stream] = deque(), 0, 0
        self.eager[stream] = self._eager()
        return OK, stream

    def cuStreamDestroy(self, hStream: int) -> Any:
        self.reach(hStream, self.issued[hStream])
        del self.queues[hStream]
        return (OK,)

    def cuStreamSynchronize(self, hStream: int) -> Any:
        assert self.capturing is None
        self.reach(hStream, self.issued[hStream])
        return (OK,)

    def cuStreamWaitEvent(self, hStream: int, hEvent: int, Flags: int) -> Any:
        assert Flags == 0
        self.queues[hStream].append(self.events[hEvent])
        self.issued[hStream] += 1
        return (OK,)

    def cuEventCreate(self, Flags: int) -> Any:
        self.made += 1
        self.events[self.made] = (STREAM, 0)
        return OK, self.made

    def cuEventRecord(self, hEvent: int, hStream: int) -> Any:
        self.events[hEvent] = (hStream, self.issued[hStream])
        return (OK,)

    def cuEventSynchronize(self, hEvent: int) -> Any:
        self.reach(*self.events[hEvent])
        return (OK,)

    def cuEventDestroy(self, hEvent: int) -> Any:
        del self.events[hEvent]
        return (OK,)

    def cuMemAlloc(self, bytesize: int) -> Any:
        if self.used + bytesize > self.capacity:
            self.reach_all()  # what is freed in a stream's order is free once that is there
        return super().cuMemAlloc(bytesize)

    def cuMemFree(self, dptr: int) -> Any:
        self.reach_all()
        return super().cuMemFree(dptr)

    def cuMemcpyHtoDAsync(self, dstDevice: int, srcHost: int, ByteCount: int, hStream: int) -> Any:
        if ByteCount > FRAME:
            self.ways["up"].append(ByteCount)
        return super().cuMemcpyHtoDAsync(dstDevice, srcHost, ByteCount, hStream)

    def cuMemcpyDtoHAsync(self, dstHost: int, srcDevice: int, ByteCount: int, hStream: int) -> Any:
        if ByteCount > FRAME:
            self.ways["down"].append(ByteCount)
        return super().cuMemcpyDtoHAsync(dstHost, srcDevice, ByteCount, hStream)


class Buffer(gpu_standin.Buffer):
    """Freed in the order of its stream."""

    def __init__(self, driver: LateDriver, size: int) -> None:
        with driver.lock:
            super().__init__(driver, size)

    def __del__(self) -> None:
        driver, handle = getattr(self, "_driver", None), self.__dict__.get("handle")
        if driver is None:
            return
        with driver.lock:
            driver.queues[STREAM].append(lambda: driver.blocks.pop(handle))
            driver.issued[STREAM] += 1


class LateGpu(Emulator):
    """In place of fhrt.cuda.launch.Gpu: kernels run in the order of its stream."""

    def __init__(self, library: Path, driver: LateDriver) -> None:
        super().__init__(library)
        self.driver, self.stream = driver, SimpleNamespace(handle=STREAM)

    def view(self, array: Any) -> View:
        seen = gpu_standin.Gpu.view(self, array)  # type: ignore[arg-type]
        reach = seen.strides[0] * seen.shape[0]
        with self.driver.lock:
            self.driver.at(seen.address, reach)
        return seen

    def launch(self, *arguments: Any) -> None:
        self.driver.enqueue(STREAM, lambda: super(LateGpu, self).launch(*arguments))


class LateSession:
    """A session over arrays of the late GPU, which a session of the host computes; as asynchronous
    as a session may be. limit: pictures a call, above which memory is short."""

    def __init__(self, session: Any, gpu: LateGpu) -> None:
        self.session, self.gpu, self.limit = session, gpu, 1 << 30
        self.name, self.scale, self.sizes = session.name, session.scale, session.sizes
        self.batch_max, self.device = session.batch_max, "cuda:0"
        self.runtime, self.precision = "late", "fp32"
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, batch: Any) -> Any:
        given, shape = self.gpu.view(batch), batch.shape
        if shape[0] > self.limit:
            raise cuda.OutOfMemory("cuMemAlloc: out of memory")
        self.shapes.append(shape)
        made = cuda.DeviceArray(shape, 0, self.gpu.stream)

        def work() -> None:
            read, written = (array(at, shape) for at in (given.address, made.address))
            written[:] = self.session(read)

        self.gpu.driver.enqueue(STREAM, work)
        return made


class LateGraph:
    """An onnxruntime.InferenceSession whose CUDA is the late GPU: what is bound lies there, and a
    run is done in the order of the stream, or is waited for unless its options say no."""

    def __init__(self, graph: onnxruntime.InferenceSession, driver: LateDriver) -> None:
        self._graph, self._driver = graph, driver
        self.batches: list[int] = []
        self.says = ""  # what the next run fails with

    def get_inputs(self) -> Any:
        return self._graph.get_inputs()

    def get_outputs(self) -> Any:
        return self._graph.get_outputs()

    def io_binding(self) -> Any:
        real = self._graph.io_binding()

        def bind(there: Any) -> Any:
            def at(name: str, device: str, index: int, kind: Any, shape: Any, address: int) -> None:
                assert (device, index, kind) == ("cuda", 0, np.float32)
                self._driver.at(address, 4 * int(np.prod(shape)))
                there(name, "cpu", 0, kind, shape, address)
                real.count = shape[0]

            return at

        outside = SimpleNamespace(real=real)
        outside.bind_input, outside.bind_output = bind(real.bind_input), bind(real.bind_output)
        return outside

    def run_with_iobinding(self, binding: Any, options: onnxruntime.RunOptions) -> None:
        if self.says:
            raise RuntimeError(self.says)
        self.batches.append(binding.real.count)
        self._driver.enqueue(STREAM, lambda: self._graph.run_with_iobinding(binding.real))
        if options.get_run_config_entry(onnx_gpu.NO_WAIT) != "1":
            self._driver.reach(STREAM, self._driver.issued[STREAM])


def put_onnxruntime_in_place(patch: Any, driver: LateDriver, gpu: LateGpu) -> list[LateGraph]:
    """Make ONNX Runtime's CUDA the late GPU; the graphs that are opened on it."""
    put_in_place(patch, driver)
    opened: list[LateGraph] = []
    plain = onnx.open_graph

    def open_graph(path: Path, device: str, *more: Any) -> tuple[Any, str]:
        graph, where = plain(path, "cpu", threads=1)
        if device == "cpu":
            return graph, where
        assert more[-1] == STREAM
        opened.append(LateGraph(graph, driver))
        return opened[-1], "cuda:0"

    patch.setattr(onnx, "open_graph", open_graph)
    patch.setattr(onnx_gpu, "offers_cuda", lambda: True)
    patch.setattr(onnx_gpu, "find_gpu", lambda index=0: runtime_cases.L4)
    patch.setattr(onnx_gpu, "Gpu", lambda index: gpu)
    return opened


def array(address: int, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


def put_library_in_place(patch: Any, release: str, driver: LateDriver, gpu: LateGpu) -> None:
    """Make TensorRT that of tests/runtime, over the late GPU."""
    patch.setattr(runtime_cases, "Driver", lambda: driver)
    runtime_cases.stand_in(patch, release)
    put_in_place(patch, driver)
    patch.setattr("fhrt.runtime.tensorrt.Stream", lambda index: gpu)


def put_in_place(patch: Any, driver: LateDriver) -> None:
    """Make the driver and cuda.core's memory those of the late GPU."""
    patch.setattr(gpu_standin, "Buffer", Buffer)
    for name, function in driver.functions().items():
        patch.setattr(f"cuda.bindings.driver.{name}", function)
    patch.setattr("cuda.core.Device", gpu_standin.devices(driver))
