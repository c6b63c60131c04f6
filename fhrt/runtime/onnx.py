"""ONNX Runtime, on the CPU or on CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fhrt.errors import ModelError, RuntimeMissing, first_line
from fhrt.models import Recipe, recipe_from_metadata
from fhrt.runtime.session import Batch, in_parts

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def open_graph(path: Path, device: str, index: int = 0, threads: int = 0) -> tuple[Any, str]:
    """An onnxruntime.InferenceSession and the device it really runs on.

    onnxruntime-gpu lists CUDA also where its libraries are missing and then runs on the CPU: what
    counts is what the opened session says. Raises RuntimeMissing or ModelError.
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
    missing = RuntimeMissing(
        f"cuda:{index} was asked for, and onnxruntime cannot use it here: "
        "install fhrt[gpu] in place of fhrt[cpu], and see `fhrt doctor`"
    )
    if device == "cuda" and not offers_cuda():
        raise missing
    wanted: list[Any] = [PROVIDERS["cpu"]]
    if device != "cpu" and offers_cuda():
        wanted.insert(0, (PROVIDERS["cuda"], {"device_id": index}))
    try:
        session = ort.InferenceSession(path, options, providers=wanted)
    except Exception as error:  # onnxruntime's own errors share no public class
        raise ModelError(f"{path}: onnxruntime cannot load it: {first_line(error)}") from error
    on_cuda = PROVIDERS["cuda"] in session.get_providers()
    if device == "cuda" and not on_cuda:
        raise missing
    return session, f"cuda:{index}" if on_cuda else "cpu"


def offers_cuda() -> bool:
    """Whether this onnxruntime was built for CUDA; an opened session says whether it runs there."""
    import onnxruntime as ort

    return PROVIDERS["cuda"] in ort.get_available_providers()


def read_recipe(path: Path) -> Recipe:
    """The recipe in the metadata of an ONNX file. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    graph, _ = open_graph(path, "cpu")
    return recipe_from_metadata(path, graph.get_modelmeta().custom_metadata_map)


class OnnxSession:
    """A session over `open_graph`; see runtime.session.Session."""

    runtime = "onnx"
    precision = "fp32"

    def __init__(self, model: Recipe, device: str, index: int, threads: int) -> None:
        self.name, self.scale, self.sizes = model.name, model.scale, model.sizes
        self._graph, self.device = open_graph(model.onnx_path(), device, index, threads)
        given = self._graph.get_inputs()[0]
        self._input = given.name
        self.batch_max = 1 if given.shape[0] == 1 else 8  # a graph of the user's may take but one

    def __call__(self, batch: Batch) -> Batch:
        return in_parts(self._run, batch, self.batch_max)

    def _run(self, batch: Batch) -> Batch:
        output: Batch = self._graph.run(None, {self._input: batch})[0]
        return output
