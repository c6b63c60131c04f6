"""A converted model beside the exact one, judged by NVIDIA's Polygraphy and not by our own code;
and what of a graph TensorRT cannot take."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.errors import InputError, ModelError, RuntimeMissing, UsageError, first_line
from fhrt.exporting.builders import EngineOptions
from fhrt.exporting.engine import build_engine
from fhrt.exporting.parity import spans
from fhrt.exporting.profile import Profile, Sizes
from fhrt.runtime.engine_library import EXTRAS, open_library
from fhrt.runtime.gpu import find_gpu
from fhrt.runtime.onnx import open_graph

EQUAL = 200.0  # dB, for outputs without any difference, as parity.Parity has it
ASK = "import sys; from fhrt.exporting.crosscheck import _print_faults; _print_faults(sys.argv[1])"


def crosscheck(
    exact: Path,
    model: Path,
    inputs: Sequence[np.ndarray],
    report: Path,
    gate: float,
    engine: Path | None = None,
    library: str = "",
) -> dict[str, Any]:
    """Compare the fp32 ONNX `exact` with what was made of it, by Polygraphy's Comparator.

    exact runs in ONNX Runtime on the CPU; `model`, its conversion, in ONNX Runtime (on CUDA where
    that can be had) and in TensorRT: `engine`, for `library` (tensorrt, or else tensorrt_rtx, if
    not given), or one built for these inputs. inputs: float32 (N, C, H, W). gate: the least PSNR
    in dB, over the range of the output (`parity.spans`), of every output for every input.

    Writes into the folder `report`, also where the gate is missed: comparison.log, what Polygraphy
    says of each input, and accuracy.json, its results, which `polygraphy check accuracy FILE
    --compare psnr --psnr-threshold DB` holds against another gate. Returns what manifest.json
    keeps: the runners, the largest and mean absolute difference and the lowest PSNR of each pair,
    and under not_run what could not be run, with the reason.

    It shows that the files and the runtimes agree, by code that shares nothing with `parity`.
    Without a GPU it does not show FP16: ONNX Runtime's CPU kernels compute that in fp32, with no
    overflow and hardly any rounding. That is what `precision.emulate` is for.

    Raises ModelError for a model or a given engine that cannot be run, a pair below the gate, an
    output without its counterpart, and values that are not finite; RuntimeMissing without
    Polygraphy, and where there is nothing to compare the exact model with; InputError where the
    report cannot be written; UsageError for inputs that are no pictures.
    """
    if not inputs or any(values.ndim != 4 for values in inputs):
        raise UsageError("a cross-check needs one or more inputs (N, C, H, W)")
    not_run: dict[str, str] = {}
    about: dict[str, str] = {}
    name = _choose_library(library, not_run)
    with _log(report / "comparison.log") as say, tempfile.TemporaryDirectory() as scratch:
        say.info(f"{model.name} against {exact.name}: PSNR for a range of 1, the gate is {gate} dB")
        session, device = open_graph(exact, "cpu")
        runners = [_onnx_runner("exact", session, device, about)]
        try:
            runners.append(_onnx_runner("converted", *open_graph(model, "auto"), about))
        except ModelError as error:
            if not _lacks_kernels(error):
                raise
            not_run["converted"] = str(error)
        if name:
            try:
                plan = engine or _build(model, inputs, Path(scratch), name)
                runners.append(_tensorrt_runner(name, plan, about))
            except (RuntimeMissing, ModelError) as error:
                if engine is not None and isinstance(error, ModelError):
                    raise
                not_run[name] = str(error)
        for what, reason in not_run.items():
            say.warning(f"not run: {what}: {reason}")
        if len(runners) == 1:
            reasons = "; ".join(not_run.values())
            raise RuntimeMissing(f"{model}: nothing to compare with {exact}: {reasons}")
        feeds = [{session.get_inputs()[0].name: values} for values in inputs]
        results = _compare(runners, feeds, gate, model)
        with say.verbosity(say.WARNING):  # it would say where, which may be a scratch folder
            results.save(str(report / "accuracy.json"))
    for pair, of_inputs in results[0].items():  # Polygraphy skips what it finds no match for
        if any(len(compared) < len(session.get_outputs()) for compared in of_inputs):
            raise ModelError(f"{model}: {pair[1]} lacks an output that {exact} has")
    pairs = {f"exact, {pair[1]}": _figures(results, pair) for pair in results[0]}
    for pair, figures in pairs.items():
        if not figures["passed"]:
            raise ModelError(f"{model}: {pair}: {_failure(figures)}; the gate is {gate:.0f} dB")
    return {
        "polygraphy": importlib.metadata.version("polygraphy"),
        "report": report.name,
        "gate": gate,
        "runners": about,
        "pairs": pairs,
        "not_run": not_run,
    }


def capability(onnx: Path) -> str:
    """What each installed TensorRT finds wrong with a graph, as `polygraphy inspect capability`
    asks it: the operators it refuses, their nodes, why, and which nodes it finds no fault with. A
    line for each library, and where it refuses, one for each operator and one for the rest.

    The graph is only parsed: tensorrt_rtx needs no GPU for that, tensorrt does. Each library is
    asked in a process of its own, as Polygraphy knows one in a process, and a parser may crash.
    No file is written. Raises ModelError for what is no ONNX graph, RuntimeMissing without
    Polygraphy or any of the libraries.
    """
    _polygraphy()
    if not onnx.is_file():
        raise ModelError(f"{onnx}: no such model file")
    libraries = [name for name in EXTRAS if importlib.util.find_spec(name)]
    if not libraries:
        open_library()  # says what to install
    return "\n".join(_support(name, onnx) for name in libraries)


def _choose_library(wanted: str, not_run: dict[str, str]) -> str:
    """The library that Polygraphy is to use, "" where there is none that can be run here.

    It must be said before Polygraphy's modules are imported, and holds for the whole process.
    """
    settings = _polygraphy("config")
    try:
        trt = open_library(wanted)
    except RuntimeMissing as error:
        not_run[wanted or "tensorrt"] = str(error)
        return ""
    name = str(trt.__name__)
    rtx = name == "tensorrt_rtx"
    if "polygraphy.datatype" in sys.modules and rtx != settings.USE_TENSORRT_RTX:
        not_run[name] = "Polygraphy already uses the other library in this process"
        return ""
    settings.USE_TENSORRT_RTX = rtx
    if find_gpu() is None:
        not_run[name] = f"{name} {trt.__version__} is installed, but there is no GPU to run it on"
        return ""
    return name


def _onnx_runner(name: str, session: Any, device: str, about: dict[str, str]) -> Any:
    import onnxruntime

    about[name] = f"onnxruntime {onnxruntime.__version__} on {device}"
    return _polygraphy("backend.onnxrt").OnnxrtRunner(session, name=name)


def _lacks_kernels(error: ModelError) -> bool:
    """Whether onnxruntime refused a graph for its types, which TensorRT may well have. bf16 it
    mostly calls an invalid graph."""
    return type(error.__cause__).__name__ == "NotImplemented" or "bfloat16" in str(error)


def _build(model: Path, inputs: Sequence[np.ndarray], scratch: Path, library: str) -> Path:
    """An engine for the shapes of the inputs. Raises as `build_engine`."""

    def spread(axis: int) -> Sizes:
        sizes = sorted(values.shape[axis] for values in inputs)
        return sizes[0], sizes[len(sizes) // 2], sizes[-1]

    target = scratch / "model.engine"
    profile = Profile(spread(0), spread(2), spread(3))
    build_engine(model, target, profile, EngineOptions(library=library))
    return target


def _tensorrt_runner(library: str, engine: Path, about: dict[str, str]) -> Any:
    """Raises RuntimeMissing where Polygraphy finds no CUDA runtime, ModelError for an engine that
    cannot be loaded."""
    trt, gpu = open_library(library), find_gpu()
    backend = _polygraphy("backend.trt")
    where = f"{library} {trt.__version__} on {gpu.name if gpu else 'no GPU'}"
    try:
        _polygraphy("cuda").wrapper()
    except Exception as error:  # Polygraphy's own, or OSError
        raise RuntimeMissing(
            f"Polygraphy finds no CUDA runtime (libcudart): {first_line(error)}; "
            "put its folder on LD_LIBRARY_PATH"
        ) from error
    try:
        loaded = backend.EngineFromPath(str(engine))()
    except Exception as error:  # Polygraphy's own, and what the bindings make of a null pointer
        raise ModelError(f"{engine}: {where} cannot load it: {first_line(error)}") from error
    about[library] = where
    return backend.TrtRunner(loaded, name=library)


def _compare(
    runners: list[Any], feeds: list[dict[str, np.ndarray]], gate: float, model: Path
) -> Any:
    """Polygraphy's AccuracyResults, of differences and of PSNR, of the first runner with each."""
    comparator = _polygraphy("comparator")
    psnr: Any = comparator.PsnrCompareFunc

    class RangeOfOne(psnr):  # type: ignore[misc]
        """Polygraphy's PSNR takes the largest value of the reference for the range."""

        def _compute_metric(self, reference: Any, other: Any) -> float:
            error = float(np.mean(((reference.astype(np.float64) - other) / spans(reference)) ** 2))
            return -10 * math.log10(error) if error else math.inf

    # any difference will do: it is PSNR that decides, but no number is a failure of both
    differences = comparator.SimpleCompareFunc(check_error_stat="max", atol=math.inf, rtol=math.inf)
    try:
        stream = comparator.Comparator.run(runners, feeds, streaming=True)
        with np.errstate(all="ignore"):  # what is not finite is refused, not warned of
            return comparator.Comparator.compare_accuracy(
                stream,
                comparisons=[(0, index) for index in range(1, len(runners))],
                compare_func=[differences, RangeOfOne(gate)],
            )
    except Exception as error:  # Polygraphy's and onnxruntime's errors share no public class
        raise ModelError(f"{model}: cannot be cross-checked: {first_line(error)}") from error


def _figures(results: Any, pair: tuple[str, str]) -> dict[str, Any]:
    """largest, mean: of the absolute differences; psnr: the lowest, in dB; over all outputs of all
    inputs. A shape that differs has no figures, and they are no numbers."""
    differences, psnrs = (
        [found for outputs in result[pair] for found in outputs.values()] for result in results
    )
    largest = [getattr(found, "max_absdiff", math.nan) for found in differences]
    means = [getattr(found, "mean_absdiff", math.nan) for found in differences]
    lowest = float(np.min([getattr(found, "psnr", math.nan) for found in psnrs]))
    return {
        "largest": float(np.max(largest)),
        "mean": float(np.mean(means)),
        "psnr": min(lowest, EQUAL) if not math.isnan(lowest) else lowest,
        "inputs": len(results[0][pair]),
        "passed": all(map(bool, [*differences, *psnrs])),
    }


def _failure(figures: dict[str, Any]) -> str:
    if not math.isfinite(figures["psnr"]):
        return "an output has another shape or values that are not finite"
    apart = f"largest difference {figures['largest']:.2g}, mean {figures['mean']:.2g}"
    return f"{apart}, {figures['psnr']:.1f} dB"


@contextmanager
def _log(path: Path) -> Iterator[Any]:
    """Polygraphy's logger, writing to this file and nowhere else."""
    logger, python = _polygraphy("logger").G_LOGGER, logging.getLogger("Polygraphy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(path, "w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    before = logger.colors, logger.use_python_logging_system, python.propagate, python.level
    logger.colors, logger.use_python_logging_system, python.propagate = False, True, False
    logger.once_logged.clear()  # "once" is for each report
    python.setLevel(logging.INFO)
    python.addHandler(file)
    try:
        yield logger
    finally:
        logger.colors, logger.use_python_logging_system, python.propagate, level = before
        python.setLevel(level)
        python.removeHandler(file)
        file.close()


def _support(library: str, onnx: Path) -> str:
    """What one library says of a graph. Raises ModelError where there is no graph."""
    rtx = str(int(library == "tensorrt_rtx"))
    asked = subprocess.run(
        [sys.executable, "-c", ASK, str(onnx.resolve())],
        env={**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": rtx},
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        lines = asked.stderr.strip().splitlines() or [f"it stopped with {asked.returncode}"]
        said = next((line[4:] for line in lines if line[:4] in ("[E] ", "[!] ")), lines[-1])
        return f"{library} cannot be asked: {said}"
    found = json.loads(asked.stdout.splitlines()[-1])
    runs, faults = found["runs"], found["faults"]
    sound = sum(last - first + 1 for first, last in runs)
    if not sound and not faults:  # such a file is read as an empty graph
        raise ModelError(f"{onnx}: no ONNX graph in it")
    name = f"{library} {found['version']}"
    if not faults:
        return f"{name} can read all {sound} nodes"
    alike: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        key = fault["operator"] or "the file", fault["reason"]
        alike.setdefault(key, []).append(fault["node"])
    lines = [f"{name} cannot read {len(faults)} of {sound + len(faults)} nodes:"]
    for (operator, reason), nodes in alike.items():
        shown = ", ".join(nodes[:3]) + ", …" * (len(nodes) > 3)
        lines.append(f"  {operator} ({len(nodes)}: {shown}): {reason}")
    if sound:
        rest = ", ".join(f"{a} to {b}" if a < b else str(a) for a, b in runs)
        lines.append(f"  no fault is found with the rest (nodes {rest})")
    return "\n".join(lines)


def _print_faults(onnx: str) -> None:
    """In the process of `capability`: print, as JSON, what the parser finds wrong with a file, and
    the runs of nodes between the faults."""
    asked = _polygraphy("tools.inspect.subtool.capability")
    with redirect_stdout(sys.stderr):  # where Polygraphy's own lines belong
        _, runs, parser = asked.supports_model(onnx)
    faults = [parser.get_error(index) for index in range(parser.num_errors)]
    found = {
        "version": asked.trt.__version__,
        # the runs are listed whether or not the graph as a whole is taken
        "runs": [[nodes[0], nodes[-1]] for nodes, _ in runs if nodes],
        "faults": [
            {
                "operator": fault.node_operator(),
                "node": fault.node_name() or str(fault.node()),
                "reason": _reason(fault.desc(), fault.code().name),
            }
            for fault in faults
        ],
    }
    print(json.dumps(found))


def _reason(description: str, code: str) -> str:
    """The parser gives an assertion of its source, often with words for a person in it."""
    if words := re.search(r'"(.+)"', description):
        return words[1]
    plain = code.replace("_", " ").lower()
    return plain if description in ("", "false") else f"{plain}: {description}"


def _polygraphy(module: str = "") -> Any:
    """Polygraphy, or a module of it. Raises RuntimeMissing with the line that installs it."""
    try:
        importlib.import_module("polygraphy")
    except ImportError as error:
        raise RuntimeMissing(
            "polygraphy is not installed; pip install 'fhrt[polygraphy]' adds it"
        ) from error
    return importlib.import_module(f"polygraphy.{module}" if module else "polygraphy")
