"""ONNX Runtime, on the CPU, on CUDA, or on CUDA through TensorRT."""

from __future__ import annotations

import ctypes
import importlib
import io
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from fhrt.errors import ModelError, RuntimeMissing, UsageError, first_line
from fhrt.models import Recipe, recipe_from_metadata
from fhrt.runtime.gpu import WINDOWS, find_gpu
from fhrt.runtime.session import Batch, in_parts
from fhrt.weights import cache_folder

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}


def open_graph(
    path: Path,
    device: str,
    index: int = 0,
    threads: int = 0,
    tensorrt: bool = False,
    stream: int = 0,
) -> tuple[Any, str]:
    """An onnxruntime.InferenceSession and the device it really runs on. tensorrt: whether the GPU
    is to run it through TensorRT, whose engines are kept in the cache folder. stream: the handle of
    the CUDA stream that the work goes to, 0 for one of its own.

    onnxruntime-gpu lists CUDA and TensorRT also where their libraries are missing and then runs on
    the CPU: what counts is what the opened session says. Raises RuntimeMissing or ModelError.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised below, in one line
    # The sizes change from call to call, and a plan for each would never be used again.
    options.enable_mem_pattern = False
    # Each session has threads of its own: those of one that has finished must not go on spinning
    # while the next one works (on two cores a picture
    # with four faces took 220 ms, and now 140 to 170).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    asked = "tensorrt" if tensorrt else "cuda"
    must = device == "cuda" or tensorrt
    if must and not _offers(asked):
        raise _missing(asked, index, "it was built without")
    here = find_gpu(index) is not None
    if must and not here:
        raise _missing(asked, index, "there is no such NVIDIA GPU, or no driver for it")
    wanted: list[Any] = [PROVIDERS["cpu"]]
    where: dict[str, Any] = {"device_id": index}
    where |= {"user_compute_stream": str(stream)} if stream else {}
    if device != "cpu" and here and offers_cuda():
        _load_libraries(asked)
        # fp32 is fp32, not TF32, as in engines
        wanted.insert(0, (PROVIDERS["cuda"], where | {"use_tf32": 0}))
    if tensorrt:
        kept = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(_engines())}
        wanted.insert(0, (PROVIDERS["tensorrt"], where | kept))
    try:
        session = ort.InferenceSession(path, options, providers=wanted, enable_fallback=False)
    except Exception as error:  # onnxruntime's own errors share no public class
        if must and (why := _lacking(asked)):
            raise _missing(asked, index, why) from error
        raise ModelError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from error
    opened = session.get_providers()
    if must and PROVIDERS[asked] not in opened:
        raise _missing(asked, index, _lacking(asked) or "it does not say why")
    return session, f"cuda:{index}" if PROVIDERS["cuda"] in opened else "cpu"


def _missing(asked: str, index: int, why: str) -> RuntimeMissing:
    what = f"cuda:{index}" if asked == "cuda" else f"TensorRT on cuda:{index}"
    return RuntimeMissing(
        f"{what} was asked for, and onnxruntime cannot use it here ({why}): "
        "install fhrt[gpu] in place of fhrt[cpu], and see `fhrt doctor`"
    )


def _engines() -> Path:
    """Where the engines of ONNX Runtime's TensorRT are kept."""
    folder = cache_folder() / "onnx-tensorrt"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _load_libraries(asked: str) -> None:
    """Load what the provider is linked with from where pip puts it, which no loader looks at."""
    import onnxruntime as ort

    with redirect_stdout(io.StringIO()):  # what is missing is said by `_lacking`
        ort.preload_dlls()
    if asked == "tensorrt":
        with suppress(ImportError, OSError):
            importlib.import_module("tensorrt")


def _lacking(asked: str) -> str:
    """What the system's loader says is missing of a provider; "" where its libraries are here. Only
    after onnxruntime has tried: it must be the first that loads them."""
    import onnxruntime as ort

    name = f"onnxruntime_providers_{asked}"
    file = f"{name}.dll" if WINDOWS else f"lib{name}.so"
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / file))
    except OSError as error:
        return first_line(error)
    return ""


def offers_cuda() -> bool:
    """Whether this onnxruntime was built for CUDA; an opened session says whether it runs there."""
    return _offers("cuda")


def _offers(provider: str) -> bool:
    import onnxruntime as ort

    return PROVIDERS[provider] in ort.get_available_providers()


def read_recipe(path: Path) -> Recipe:
    """The recipe in the metadata of an ONNX file. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    graph, _ = open_graph(path, "cpu")
    return recipe_from_metadata(path, graph.get_modelmeta().custom_metadata_map)


class OnnxSession:
    """A session over `open_graph`; see runtime.session.Session."""

    precision = "fp32"

    def __init__(
        self,
        model: Recipe,
        device: str,
        index: int,
        threads: int,
        tensorrt: bool = False,
        stream: int = 0,
    ) -> None:
        if tensorrt and device == "cpu":
            raise UsageError("onnx-tensorrt runs on a GPU: use --device cuda:0, or --runtime onnx")
        self.name, self.scale, self.sizes = model.name, model.scale, model.sizes
        self.runtime = "onnx-tensorrt" if tensorrt else "onnx"
        path = model.onnx_path()
        self._graph, self.device = open_graph(path, device, index, threads, tensorrt, stream)
        self._index, self._multiple = index, model.multiple
        given = self._graph.get_inputs()[0]
        self._input, self._output = given.name, self._graph.get_outputs()[0].name
        self.batch_max = 1 if given.shape[0] == 1 else 8  # a graph of the user's may take but one

    def __call__(self, batch: Batch) -> Batch:
        run = self._run if self.device == "cpu" else self._run_bound
        return in_parts(run, batch, self.batch_max, self._multiple)

    def _run(self, batch: Batch) -> Batch:
        output: Batch = self._graph.run(None, {self._input: batch})[0]
        return output

    def _run_bound(self, batch: Batch) -> Batch:
        """Through memory of the device: one copy there, one back, and nothing in between."""
        import onnxruntime as ort

        kind = self.device.partition(":")[0]
        binding = self._graph.io_binding()
        value = ort.OrtValue.ortvalue_from_numpy(batch, kind, self._index)
        binding.bind_ortvalue_input(self._input, value)
        binding.bind_output(self._output, kind, self._index)
        self._graph.run_with_iobinding(binding)
        output: Batch = binding.copy_outputs_to_cpu()[0]
        return output
