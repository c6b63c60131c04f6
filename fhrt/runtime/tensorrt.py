"""TensorRT and TensorRT-RTX: runs the engine in the artifact of `fhrt export NAME --to tensorrt`.

It calls only what tensorrt 10.12 to 11.4 have (tests/exporting/tensorrt_names.json), and for
tensorrt_rtx what that has.
"""

from __future__ import annotations

import json
import re
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.cuda.launch import Gpu as Stream
from fhrt.errors import (
    DeviceLost,
    EngineMisfit,
    FhrtError,
    ModelError,
    RuntimeMissing,
    UsageError,
    first_line,
)
from fhrt.models import Recipe
from fhrt.runtime import cuda
from fhrt.runtime.engine_library import check_key, listener, open_library
from fhrt.runtime.gpu import find_gpu
from fhrt.runtime.session import Batch, check_batch

BUCKETS = (1, 2, 4, 8, 16)  # pictures a call; others are padded to the next
KEPT = 32  # shapes whose graph is kept

Shape = tuple[int, ...]


def open_artifact(model: Recipe, device: str, index: int) -> TensorRtSession:
    """The session of model.engine in the folder of the model's ONNX file. Raises UsageError where
    there is none, ModelError where its manifest is missing, and as TensorRtSession."""
    folder = Path(model.file).parent
    engine = folder / "model.engine"
    if not model.file or not engine.is_file():
        where = "" if not model.file else f"{folder}: no model.engine in it: "
        raise UsageError(
            f"{where}tensorrt runs an engine: `fhrt export {model.name} --to tensorrt`, then "
            f"--model artifacts/{model.name}-tensorrt"
        )
    if device == "cpu":
        raise UsageError("tensorrt runs on a GPU: use --device cuda:0, or --runtime onnx")
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        key, precision = dict(manifest["engine"]), str(manifest["precision"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{folder}/manifest.json does not say how the engine was built ({first_line(error)}); "
            f"{_remedy(model)}"
        ) from error
    return TensorRtSession(model, engine, key, precision, index)


@dataclass(eq=False)
class _Plan:
    """One shape of the input: a context of its own, and its graph. A context from which a graph was
    captured must not be given another shape."""

    context: Any
    output: Shape
    graph: Any = None


class TensorRtSession:
    """A session over an engine; see runtime.session.Session.

    engine: its file. key: of the engine (`check_key`). precision: of the graph it was built from.
    index: of the GPU. Host arrays come back as host arrays; an array on the GPU (DLPack or
    `__cuda_array_interface__`) as a `cuda.DeviceArray`, with nothing copied to the host. `gpu`
    launches kernels on the stream that the engine runs on; a `cuda.DeviceArray` of that stream is
    not waited for. May be called by several threads, one
    of which runs at a time: `fhrt run --jobs` restores photographs in threads that share a session,
    and two batches at once on one GPU would only need the memory twice.

    Where memory does not suffice, the batch halves, and a RuntimeWarning says so once. Raises
    RuntimeMissing without the library, cuda-python or the GPU, DeviceLost once that has failed;
    EngineMisfit for an engine that does not fit, ModelError for one that cannot be read or is none
    of pictures; UsageError for a shape outside its profile.
    """

    def __init__(
        self,
        model: Recipe,
        engine: Path,
        key: Mapping[str, str],
        precision: str = "fp16",
        index: int = 0,
    ) -> None:
        self.name, self.scale, self.sizes = model.name, model.scale, model.sizes
        self.runtime, self.precision, self.device = key["library"], precision, f"cuda:{index}"
        self._index, self._file, self._multiple = index, engine, model.multiple
        self._lock = threading.Lock()
        self._lost, self._warned = "", False
        trt, found = open_library(key["library"]), find_gpu(index)
        if found is None:
            raise RuntimeMissing(f"cuda:{index} was asked for, and there is no such GPU here")
        check_key(engine, key, trt, found, _remedy(model))
        self._trt, self._listener = trt, listener(trt)
        self.gpu = Stream(index)
        (self._context,) = cuda.call("cuCtxGetCurrent")
        self._engine = self._load("version_compatible=True" in key.get("options", ""), model)
        self._names = self._check_tensors()
        low, _, high = self._engine.get_tensor_profile_shape(self._names[0], 0)
        self._low, self._high = tuple(low), tuple(high)
        fitting = {n for n in BUCKETS if self._low[0] < n < self._high[0]}
        self._buckets = sorted(fitting | {self._low[0], self._high[0]})
        self._work: _Workspace | None = None
        with self._lock:
            self._guarded(lambda: self._allocate(self._high[0]))

    def __call__(self, batch: Any) -> Any:
        with self._lock:
            if self._lost:
                raise DeviceLost(self._lost)
            if self._work is None:
                raise UsageError(f"{self._file}: the session is closed")
            return self._guarded(partial(self._call, batch))

    def close(self) -> None:
        """Free all that it holds on the GPU; so does the end of the object."""
        with self._lock:
            if self._work is not None:
                self._work.close()
                self._work = None

    def _guarded(self, run: Callable[[], Any]) -> Any:
        """Run, on this GPU, whichever thread it is; a failure of the device becomes one line, and
        the end of this session."""
        try:
            with cuda.within(self._context):
                return run()
        except _Refused as error:
            raise FhrtError(f"{self._file}: {self.runtime} cannot run it: {error}") from error
        except RuntimeMissing as error:
            self._lost = (
                f"{self.device} is lost: {error}; nothing runs on it in this process any more: "
                "start again"
            )
            raise DeviceLost(self._lost) from error

    def _load(self, host_code: bool, model: Recipe) -> Any:
        self._listener.heard.clear()
        library = f"{self.runtime} {self._trt.__version__}"
        try:
            runtime = self._trt.Runtime(self._listener)
        except TypeError as error:  # what the bindings make of a null pointer
            reason = self._listener.reason()
            raise RuntimeMissing(f"{library} does not start: {reason}") from error
        if host_code:  # an engine for later releases carries their code
            runtime.engine_host_code_allowed = True
        try:
            content = self._file.read_bytes()
        except OSError as error:
            raise ModelError(f"{self._file}: cannot be read: {error.strerror}") from error
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            reason = self._listener.reason()
            raise EngineMisfit(self._file, f"{library} refuses it: {reason}", _remedy(model))
        return engine

    def _check_tensors(self) -> tuple[str, str]:
        """The names of the input and the output. Raises ModelError where they are not pictures."""
        engine, trt = self._engine, self._trt
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        modes = trt.TensorIOMode
        given, made = (
            [name for name in names if engine.get_tensor_mode(name) == mode]
            for mode in (modes.INPUT, modes.OUTPUT)
        )
        kinds = {engine.get_tensor_dtype(name) for name in names}
        if len(given) != 1 or len(made) != 1 or kinds != {trt.DataType.FLOAT}:
            raise ModelError(f"{self._file}: an engine with one float32 input and output is needed")
        return given[0], made[0]

    def _allocate(self, most: int) -> None:
        """A workspace for `most` pictures a call, or for fewer where these do not fit."""
        while True:
            try:
                largest, limited = (most, *self._high[1:]), most < self._high[0]
                engine = (self._trt, self._engine, self._names)
                self._work = _Workspace(*engine, self.gpu.stream, self._context, largest, limited)
                self.batch_max = most
                return
            except cuda.OutOfMemory:
                most = self._fewer(most)

    def _fewer(self, most: int) -> int:
        """The next smaller batch. Raises FhrtError where there is none."""
        smaller = max((n for n in self._buckets if n < most), default=0)
        sides = f"{self._high[2]}×{self._high[3]}"
        if not smaller:
            raise FhrtError(
                f"{self._file}: {most} of {sides} do not fit into the memory of {self.device}; "
                "build it for smaller pictures, or free memory"
            )
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: {most} of {sides} do not fit into the memory of {self.device}: "
                "smaller batches are used",
                RuntimeWarning,
                stacklevel=2,
            )
        return smaller

    def _call(self, batch: Any) -> Any:
        on_host = isinstance(batch, np.ndarray)
        given: Any = batch if on_host else self.gpu.view(batch)
        self._check(given.shape, given.dtype)
        if not on_host and not given.packed(0):
            raise UsageError("a batch on the GPU must be contiguous")
        ordered = isinstance(batch, cuda.DeviceArray)
        ordered = ordered and batch.stream == int(self.gpu.stream.handle)
        made: Any = None
        (count, *shape), done = given.shape, 0
        while done < count:
            work = self._work
            assert work is not None
            part = min(count - done, work.most)
            try:
                plan = work.plan((next(n for n in self._buckets if n >= part), *shape))
                if made is None:
                    whole = (count, *plan.output[1:])
                    made = np.empty(whole, np.float32)
                    if not on_host:
                        made = cuda.DeviceArray(whole, self._index, self.gpu.stream)
                if on_host:
                    work.from_host(given[done : done + part])
                    work.run(plan)
                    work.to_host(made[done : done + part])
                else:
                    work.from_device(given.address, done, (part, *shape))
                    work.run(plan)
                    work.to_device(made.address, done, (part, *plan.output[1:]))
                    if not ordered:  # its owner may write to it as soon as this returns
                        cuda.call("cuStreamSynchronize", int(self.gpu.stream.handle))
            except cuda.OutOfMemory:
                smaller = self._fewer(work.most)
                work.close()
                self._work = None  # till there is another
                self._allocate(smaller)
                continue
            done += part
        return made

    def _check(self, shape: Shape, dtype: Any) -> None:
        check_batch(shape, dtype, self._multiple)
        for axis, name in ((2, "height"), (3, "width")):
            low, high = self._low[axis], self._high[axis]
            if not low <= shape[axis] <= high:
                sizes = str(low) if low == high else f"{low} to {high}"
                raise UsageError(
                    f"{name} {shape[axis]} is outside the engine's profile, {sizes}; "
                    f"`fhrt export {self.name} --to tensorrt --size MIN:OPT:MAX` makes a wider one"
                )


class _Refused(Exception):
    """The library does not do what it was asked for, and says why."""


class _Workspace:
    """What is held on the device for calls of up to `most` pictures: the buffers, the scratch
    memory that all contexts share, since one runs at a time, and a plan for each shape.

    device: its context. largest: (N, C, H, W). limited: whether that is less than the engine takes.
    Raises as `cuda.call`.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        names: tuple[str, str],
        stream: Any,
        device: Any,
        largest: Shape,
        limited: bool,
    ) -> None:
        self.most = largest[0]
        self._trt, self._engine, self._names, self._limited = trt, engine, names, limited
        self._handle = int(stream.handle)
        self._plans: OrderedDict[Shape, _Plan] = OrderedDict()
        held = ExitStack()
        self.close = weakref.finalize(self, _release, self._plans, held, stream, device)
        try:
            context, output = self._context(largest)
            sizes = [4 * prod(shape) for shape in (largest, output)]
            own = engine.device_memory_size_v2
            self._size = context.update_device_memory_size_for_shapes() if limited else own
            self._input, self._output = (cuda.device_memory(held, size) for size in sizes)
            self._scratch = cuda.device_memory(held, self._size)
            self._given, self._made = (cuda.pinned_memory(held, size // 4) for size in sizes)
        except BaseException:
            self.close()
            raise

    def plan(self, shape: Shape) -> _Plan:
        """How a shape is run; made at its first call, which runs it once, as the library puts some
        of its work off until then."""
        if shape in self._plans:
            self._plans.move_to_end(shape)
            return self._plans[shape]
        context, output = self._context(shape)
        if self._limited:
            context.update_device_memory_size_for_shapes()
        context.set_device_memory(self._scratch, self._size)
        for name, address in zip(self._names, (self._input, self._output), strict=True):
            context.set_tensor_address(name, address)
        plan = _Plan(context, output)
        self._enqueue(context)
        cuda.call("cuStreamSynchronize", self._handle)
        if self._trt.__name__ != "tensorrt_rtx":  # which captures by itself
            try:
                plan.graph = cuda.capture(self._handle, lambda: self._enqueue(context))
            except (RuntimeMissing, _Refused):  # not every layer can be captured
                cuda.call("cuStreamSynchronize", self._handle)
        self._plans[shape] = plan
        if len(self._plans) > KEPT:
            _forget(self._plans)
        return plan

    def run(self, plan: _Plan) -> None:
        """From the input buffer to the output buffer, in the stream's order."""
        if plan.graph is None:
            self._enqueue(plan.context)
        else:
            cuda.call("cuGraphLaunch", plan.graph, self._handle)

    def from_host(self, part: Batch) -> None:
        np.copyto(self._given[: part.size].reshape(part.shape), part)
        source, size = self._given.ctypes.data, 4 * part.size
        cuda.call("cuMemcpyHtoDAsync", self._input, source, size, self._handle)

    def to_host(self, part: Batch) -> None:
        size = 4 * part.size
        cuda.call("cuMemcpyDtoHAsync", self._made.ctypes.data, self._output, size, self._handle)
        cuda.call("cuStreamSynchronize", self._handle)
        np.copyto(part, self._made[: part.size].reshape(part.shape))

    def from_device(self, address: int, first: int, shape: Shape) -> None:
        """`shape` of the pictures at an address, from the one numbered `first` on."""
        source = address + 4 * first * prod(shape[1:])
        cuda.call("cuMemcpyDtoDAsync", self._input, source, 4 * prod(shape), self._handle)

    def to_device(self, address: int, first: int, shape: Shape) -> None:
        target = address + 4 * first * prod(shape[1:])
        cuda.call("cuMemcpyDtoDAsync", target, self._output, 4 * prod(shape), self._handle)

    def _context(self, shape: Shape) -> tuple[Any, Shape]:
        """A context without memory, given the shape, and the shape that it makes."""
        trt = self._trt
        managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        listener(trt).heard.clear()
        if trt.__name__ == "tensorrt_rtx":
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(managed)
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(managed)
        if context is None or not context.set_input_shape(self._names[0], shape):
            raise self._refusal()
        return context, tuple(context.get_tensor_shape(self._names[1]))

    def _enqueue(self, context: Any) -> None:
        listener(self._trt).heard.clear()
        if not context.execute_async_v3(self._handle):
            raise self._refusal()

    def _refusal(self) -> Exception:
        reason = listener(self._trt).reason()
        short = re.search(r"out ?of ?memory|cudaErrorMemoryAllocation", reason, re.IGNORECASE)
        return cuda.OutOfMemory(reason) if short else _Refused(reason)


def _forget(plans: OrderedDict[Shape, _Plan]) -> None:
    """Drop the plan that was not used for the longest."""
    _, plan = plans.popitem(last=False)
    if plan.graph is not None:
        cuda.free("cuGraphExecDestroy", plan.graph)


def _release(plans: OrderedDict[Shape, _Plan], held: ExitStack, stream: Any, device: Any) -> None:
    """Free it all, once nothing runs any more; from any thread, as the garbage collector may."""
    with suppress(FhrtError, RuntimeError), cuda.within(device):
        cuda.free("cuStreamSynchronize", int(stream.handle))
        while plans:
            _forget(plans)
        held.close()


def _remedy(model: Recipe) -> str:
    return f"build it anew: `fhrt export {model.name} --to tensorrt`"
