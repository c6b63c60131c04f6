"""OpenVINO, on the CPU: reads the same ONNX files as ONNX Runtime."""

from __future__ import annotations

import hashlib
import importlib
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from fhrt.errors import ModelError, RuntimeMissing, UsageError
from fhrt.models import Recipe
from fhrt.runtime.session import Batch, in_parts
from fhrt.weights import cache_folder

HINTS = {"fp32": "f32", "bf16": "bf16", "bf16x2": "bf16"}
PRECISIONS = {"openvino": "fp32", "openvino-bf16": "bf16", "openvino-bf16x2": "bf16x2"}
# by their types, what makes them; the second input is the weights
WEIGHED = {
    "Convolution": "convolution",
    "GroupConvolution": "group_convolution",
    "MatMul": "matmul",
}
CONVERTER = "openvino.tools.ovc"


class OpenVinoSession:
    """A session over OpenVINO; see runtime.session.Session. May be called by several threads.

    runtime: a name in PRECISIONS. bf16 rounds what the graph multiplies and most of what it adds;
    it is for processors that multiply it (`multiplies_bf16`), since others would emulate it and
    take four times as long. bf16x2 is the same with each weight as a sum of two (`_in_two`), for
    networks that the rounding of weights sets astray. Raises UsageError for a GPU, RuntimeMissing
    for bf16 where the processor has none, ModelError for a file that cannot be used.
    """

    device = "cpu"

    def __init__(self, model: Recipe, device: str, threads: int, runtime: str = "openvino") -> None:
        if device == "cuda":
            raise UsageError("openvino runs on the CPU: use --device cpu, or --runtime onnx")
        self.runtime, self.precision = runtime, PRECISIONS[runtime]
        if self.precision != "fp32" and not multiplies_bf16():
            raise RuntimeMissing("this processor does not multiply bf16 (AMX, AVX-512-BF16)")
        self.name, self.scale, self.sizes = model.name, model.scale, model.sizes
        self._multiple = model.multiple
        self._compiled = open_graph(model.onnx_path(), self.precision, threads)
        # a graph of the user's may take but one
        self.batch_max = 1 if str(self._compiled.input(0).partial_shape[0]) == "1" else 8

    def __call__(self, batch: Batch) -> Batch:
        return in_parts(self._run, batch, self.batch_max, self._multiple)

    def _run(self, batch: Batch) -> Batch:
        # A request of its own takes 10 µs: threads do not meet in one, and what is returned, which
        # is the request's own memory, is never written to again.
        request = self._compiled.create_infer_request()
        output: Batch = request.infer([batch], share_inputs=True, share_outputs=True)[0]
        return output


def library() -> Any:
    """The openvino package without its converter, which we do not need: importing that sends a
    note over the network each time, and takes as long as all the rest."""
    if "openvino" not in sys.modules:
        sys.modules[CONVERTER] = None  # type: ignore[assignment]  # how Python bars an import
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules[CONVERTER]
    return importlib.import_module("openvino")


def multiplies_bf16() -> bool:
    """Whether the processor multiplies bf16 itself (AMX, AVX-512-BF16)."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _core() -> Any:
    """One for the whole process, never freed: it gives the thread that it is made in a stack for
    signals, and one that is freed in another thread leaves that thread without it, so that the next
    Ctrl-C ends the process."""
    return library().Core()


def open_graph(path: Path, precision: str = "fp32", threads: int = 0) -> Any:
    """The compiled model. What OpenVINO made of it is kept in the cache, under its sha256, and one
    process at a time writes there, since OpenVINO writes in place. Raises ModelError."""
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        # Its threads are not alone: a film's decoder and encoder work beside them. Where every
        # core was busy, batches took 1.0 to 1.2 times as long with threads bound to cores.
        "ENABLE_CPU_PINNING": "NO",
    }
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        kept = cache_folder() / "openvino" / digest[:16]
        kept.mkdir(parents=True, exist_ok=True)
        lock = FileLock(kept / ".lock").acquire()
    except OSError:  # nothing can be kept there: it is compiled each time
        return _load(path, precision, options)
    with lock:
        return _load(path, precision, options | {"CACHE_DIR": str(kept)})


def _load(path: Path, precision: str, options: dict[str, str]) -> Any:
    try:
        graph = _in_two(_core().read_model(path)) if precision == "bf16x2" else path
        return _core().compile_model(graph, "CPU", options)
    except RuntimeError as error:  # the last of its lines says what it was, the others where
        line = next((s for s in reversed(str(error).splitlines()) if s.strip()), "RuntimeError")
        raise ModelError(f"{path}: openvino cannot load it: {line.strip()}") from error


def _in_two(graph: Any) -> Any:
    """The graph with the weights of its layers as sums of two bf16, each of which the input is
    multiplied with: f(x, w) = f(x, high) + f(x, w - high). OpenVINO adds the second to the first
    where that is made. 16 bits of each weight are left, for twice the multiplications (Henry, Tang
    and Heinecke, Leveraging the bfloat16 Artificial Intelligence Datatype, 2019). In place."""
    ops, fp32 = importlib.import_module("openvino.opset13"), library().Type.f32
    for node in graph.get_ordered_ops():
        if node.get_type_name() not in WEIGHED:
            continue
        given, weights = node.input_value(0), node.input_value(1).get_node()
        if weights.get_type_name() == "Convert":  # kept as fp16 in the file
            weights = weights.input_value(0).get_node()
        if weights.get_type_name() != "Constant" or node.get_output_element_type(0) != fp32:
            continue
        whole = weights.get_data().astype(np.float32)
        high = _rounded(whole)
        make = partial(getattr(ops, WEIGHED[node.get_type_name()]), given, **node.get_attributes())
        readers = node.output(0).get_target_inputs()
        total = ops.add(make(ops.constant(high)), make(ops.constant(whole - high)))
        for reader in readers:
            reader.replace_source_output(total.output(0))
    return graph


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """To the nearest that bf16 has, of two as near to the even one."""
    bits = values.view(np.uint32)
    bits = bits + 0x7FFF + (bits >> 16 & 1)
    return (bits & 0xFFFF0000).view(np.float32)
