"""ONNX Runtime on a GPU, on a stream of ours: pictures that lie there stay there."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fhrt.cuda.launch import Gpu
from fhrt.errors import DeviceLost, FhrtError, RuntimeMissing, UsageError, first_line
from fhrt.models import Recipe
from fhrt.runtime import cuda
from fhrt.runtime.gpu import find_gpu
from fhrt.runtime.onnx import OnnxSession, offers_cuda
from fhrt.runtime.session import check_batch

SHORT = re.compile(r"out of memory|Failed to allocate|ALLOC_FAILED", re.IGNORECASE)
LOST = re.compile(r"(CUDA|CUDNN|CUBLAS) failure", re.IGNORECASE)
NO_WAIT = "disable_synchronize_execution_providers"  # onnxruntime_run_options_config_keys.h


def open_onnx(
    model: Recipe, device: str, index: int, threads: int, tensorrt: bool = False
) -> OnnxSession:
    """On a GPU, where its kernels can be had (cuda-python, NVRTC), the session below; else
    OnnxSession. Raises as that."""
    if device != "cpu" and offers_cuda() and find_gpu(index) is not None:
        try:
            gpu = Gpu(index)
        except RuntimeMissing:
            return OnnxSession(model, device, index, threads, tensorrt)
        try:
            return OnnxGpuSession(model, gpu, index, threads, tensorrt)
        except RuntimeMissing:
            if device == "cuda":
                raise
    return OnnxSession(model, device, index, threads, tensorrt)


class OnnxGpuSession(OnnxSession):
    """As OnnxSession, and a `frames.DeviceSession`: an array of the GPU (DLPack or
    `__cuda_array_interface__`) comes back as a `cuda.DeviceArray`. A `cuda.DeviceArray` of the
    stream of `gpu` is not waited for. May be called by several threads, one of which runs at a
    time.

    Where memory does not suffice, a batch of the host halves, and a RuntimeWarning says so once;
    for one of the GPU, which its caller has room for, it raises cuda.OutOfMemory. Raises DeviceLost
    once the GPU has failed.
    """

    def __init__(
        self, model: Recipe, gpu: Gpu, index: int, threads: int, tensorrt: bool = False
    ) -> None:
        import onnxruntime as ort

        self.gpu, self._stream = gpu, int(gpu.stream.handle)
        super().__init__(model, "cuda", index, threads, tensorrt, self._stream)
        self._lock = threading.Lock()
        self._lost, self._warned = "", False
        self._go_on = ort.RunOptions()
        self._go_on.add_run_config_entry(NO_WAIT, "1")

    def __call__(self, batch: Any) -> Any:
        with self._lock:
            if self._lost:
                raise DeviceLost(self._lost)
            if not isinstance(batch, np.ndarray):
                with self._failures():
                    return self._run_there(batch)
            while True:
                try:
                    with self._failures():
                        return super().__call__(batch)
                except cuda.OutOfMemory as error:
                    self._halve(min(len(batch), self.batch_max), error)

    def _run_there(self, batch: Any) -> cuda.DeviceArray:
        given = self.gpu.view(batch)
        check_batch(given.shape, given.dtype, self._multiple)
        if not given.packed(0):
            raise UsageError("a batch on the GPU must be contiguous")
        count, *one = given.shape
        larger = [one[0], one[1] * self.scale, one[2] * self.scale]
        made = cuda.DeviceArray((count, *larger), self._index, self.gpu.stream)
        for first in range(0, count, self.batch_max):
            some = min(self.batch_max, count - first)
            binding = self._graph.io_binding()
            for bind, name, address, shape in (
                (binding.bind_input, self._input, given.address, one),
                (binding.bind_output, self._output, made.address, larger),
            ):
                start = address + first * int(np.prod(shape)) * 4
                bind(name, "cuda", self._index, np.float32, (some, *shape), start)
            self._graph.run_with_iobinding(binding, self._go_on)
        if not (isinstance(batch, cuda.DeviceArray) and batch.stream == self._stream):
            # its owner may write to it as soon as this returns
            cuda.call("cuStreamSynchronize", self._stream)
        return made

    def _halve(self, count: int, error: cuda.OutOfMemory) -> None:
        """Half as many at once. Raises FhrtError where it was but one."""
        if count == 1:
            raise FhrtError(
                f"{self.name}: not even one picture fits into the memory of {self.device}; "
                "make it smaller, or free memory"
            ) from error
        self.batch_max = count // 2
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: {count} pictures do not fit into the memory of {self.device} at "
                "once: fewer are taken",
                RuntimeWarning,
                stacklevel=3,
            )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What the device does, told from what onnxruntime refuses: its errors share no class."""
        try:
            yield
        except (cuda.OutOfMemory, UsageError):
            raise
        except Exception as error:
            said = first_line(error)
            if SHORT.search(str(error)):
                raise cuda.OutOfMemory(said) from error
            if not LOST.search(str(error)) and not isinstance(error, RuntimeMissing):
                raise FhrtError(f"{self.name}: onnxruntime cannot run it: {said}") from error
            self._lost = (
                f"{self.device} is lost: {said}; nothing runs on it in this process any more: "
                "start again"
            )
            raise DeviceLost(self._lost) from error
