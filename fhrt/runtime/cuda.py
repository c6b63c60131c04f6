"""Memory and graphs of a GPU, through the driver bindings of cuda-python."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import FhrtError, RuntimeMissing

PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: pinned for every context


class OutOfMemory(FhrtError):
    """What was to be allocated does not fit; a smaller batch may."""


def call(function: str, *arguments: Any) -> tuple[Any, ...]:
    """What a function of the driver gives beside its status.

    Raises OutOfMemory, and RuntimeMissing for every other failure: after most of them no call of
    this process reaches the device any more.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise RuntimeMissing(
            "cuda-python is not installed; pip install 'fhrt[gpu]' adds it"
        ) from error
    status, *values = getattr(driver, function)(*arguments)
    if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise OutOfMemory(f"{function}: out of memory")
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeMissing(f"{function} gives {status.name}")
    return tuple(values)


@contextmanager
def within(context: Any) -> Iterator[None]:
    """Let the calls of this thread mean a context's GPU, and then the one of before again."""
    call("cuCtxPushCurrent", context)
    try:
        yield
    finally:
        free("cuCtxPopCurrent")


def device_memory(held: ExitStack, size: int) -> int:
    """The address of `size` bytes on the device, freed with `held`. Raises as `call`."""
    (address,) = call("cuMemAlloc", max(1, size))
    held.callback(free, "cuMemFree", address)
    return int(address)


def pinned_memory(held: ExitStack, count: int) -> NDArray[np.float32]:
    """`count` values of the host that the device reads and writes by itself; as above."""
    (address,) = call("cuMemHostAlloc", 4 * count, PORTABLE)
    held.callback(free, "cuMemFreeHost", address)
    values = (ctypes.c_float * count).from_address(int(address))
    return np.ctypeslib.as_array(values)


def free(function: str, *arguments: Any) -> None:
    """`call`, where nothing can be done about a failure: the device is lost, or Python ends."""
    with suppress(FhrtError, RuntimeError):
        call(function, *arguments)


def capture(stream: Any, enqueue: Callable[[], None]) -> Any:
    """What `enqueue` gives the stream to do, as a graph that `cuGraphLaunch` starts at once; to be
    freed by `cuGraphExecDestroy`. Raises as `call`, and what enqueue raises."""
    from cuda.bindings import driver

    # relaxed: memory that the garbage collector frees meanwhile is no part of it
    call("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
    try:
        enqueue()
    except BaseException:
        free("cuStreamEndCapture", stream)
        raise
    (graph,) = call("cuStreamEndCapture", stream)
    try:
        (executable,) = call("cuGraphInstantiate", graph, 0)
    finally:
        free("cuGraphDestroy", graph)
    return executable


class DeviceArray:
    """float32 values on a GPU, contiguous, written in the order of a stream; freed with this
    object, in that order, too. torch, CuPy, pycuda and `fhrt.cuda.launch` take it as it is
    (`__cuda_array_interface__`, which makes them wait for the stream). Raises as `call`."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], index: int, stream: Any) -> None:
        from cuda import core

        self.shape, self.stream = shape, int(stream.handle)
        try:
            device = core.Device(index)
            device.set_current()  # cuda.core wants this of each thread
            self._memory = device.allocate(4 * math.prod(shape), stream=stream)
        except Exception as error:  # the kind that cuda.core raises is not public
            kind = OutOfMemory if "OUT_OF_MEMORY" in str(error) else RuntimeMissing
            raise kind(f"cuda:{index}: {' '.join(str(error).split())}") from error
        self.address = int(self._memory.handle)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return interface(self.address, self.shape, self.dtype, self.stream)


def interface(
    address: int, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None = None
) -> dict[str, Any]:
    """`__cuda_array_interface__` of contiguous values that can be read in the order of a stream, or
    that were waited for."""
    return {
        "shape": shape,
        "typestr": dtype.str,
        "data": (address, False),
        "version": 3,
        "stream": stream,
    }
