"""Which library builds engines, for which GPUs, and what it can be asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from fhrt.errors import RuntimeMissing, UsageError, known_names
from fhrt.runtime.engine_library import open_library
from fhrt.runtime.gpu import Gpu, find_gpu

OLDEST_GPU = 75  # compute capability: Turing
HARDWARE = ("", "same", "ampere+")


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    library: tensorrt or tensorrt_rtx; the first of them that is installed if not given. workspace:
    the most scratch memory in MiB, 0 for all there is. tf32: whether fp32 may be multiplied as
    TF32, whose mantissa is that of fp16. timing_cache: whether measured kernels are remembered for
    the next build. hardware: GPUs it is to run on beside the one here: same (compute capability) or
    ampere+. version_compatible: whether later releases of tensorrt are to run it, too. refit:
    whether its weights can be replaced. strip: leave out the weights; it must be refitted to be
    run. compute_capabilities: what tensorrt_rtx builds for ("86", "89"); if not given, the GPU that
    is here, and without one every GPU from Ampere on.
    """

    library: str = ""
    workspace: int = 0
    tf32: bool = False
    timing_cache: bool = True
    hardware: str = ""
    version_compatible: bool = False
    refit: bool = False
    strip: bool = False
    compute_capabilities: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What changes the engine, and is not said elsewhere in its key."""
        elsewhere = ("library", "timing_cache", "compute_capabilities")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in elsewhere}
        return ", ".join(f"{name}={value}" for name, value in values.items() if value)


DEFAULTS = EngineOptions()


def engine_options(
    words: list[str], library: str = "", capabilities: tuple[str, ...] = ()
) -> EngineOptions:
    """Options of words NAME or NAME=VALUE, as they are written on a command line. Raises UsageError
    for an unknown name, and for a value that is none of it.

    >>> engine_options(["workspace=512", "refit", "timing_cache=no"])
    EngineOptions(library='', workspace=512, tf32=False, timing_cache=False, hardware='', \
version_compatible=False, refit=True, strip=False, compute_capabilities=())
    """
    known = {f.name: type(f.default) for f in fields(EngineOptions)}
    del known["library"], known["compute_capabilities"]
    values: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in known:
            raise UsageError(f"unknown engine option {name!r}{known_names(name, known)}")
        if known[name] is bool and text in ("", "yes", "no"):
            values[name] = text != "no"
        elif known[name] is int and text.isdecimal():
            values[name] = int(text)
        elif known[name] is str and text:
            values[name] = text
        else:
            wanted = {bool: "yes or no", int: "a number", str: "a word"}[known[name]]
            raise UsageError(f"engine option {name!r} is {wanted}, not {text!r}")
    return EngineOptions(library, compute_capabilities=capabilities, **values)


def find_builder(options: EngineOptions) -> tuple[Any, Gpu | None, tuple[str, ...]]:
    """The library, the GPU that is here, and the compute capabilities to build for; none of them
    for tensorrt_rtx's own choice, every GPU from Ampere on.

    Raises RuntimeMissing where there is no library, or no GPU that it can use; UsageError for
    options that it does not have.
    """
    trt, gpu = open_library(options.library), find_gpu()
    if options.hardware not in HARDWARE:
        known = known_names(options.hardware, HARDWARE[1:])
        raise UsageError(f"unknown hardware compatibility {options.hardware!r}{known}")
    if trt.__name__ == "tensorrt_rtx":
        return trt, gpu, _capabilities(trt, gpu, options)
    if options.compute_capabilities:
        raise UsageError("tensorrt builds for the GPU it runs on; only tensorrt_rtx for others")
    if gpu is None:
        raise RuntimeMissing(
            "tensorrt builds on the GPU that an engine is for, and none is here; "
            "tensorrt_rtx builds without one: pip install 'fhrt[rtx]'"
        )
    if gpu.compute_capability < OLDEST_GPU:
        raise RuntimeMissing(
            f"{gpu.name} has compute capability {gpu.compute_capability / 10}; "
            f"tensorrt needs {OLDEST_GPU / 10} or later; use --runtime onnx"
        )
    return trt, gpu, (str(gpu.compute_capability),)


def _capabilities(trt: Any, gpu: Gpu | None, options: EngineOptions) -> tuple[str, ...]:
    """For tensorrt_rtx: what to build for, after a look at what it has."""
    for name in ("hardware", "version_compatible"):
        if getattr(options, name):
            raise UsageError(f"tensorrt_rtx has no option {name}; its engines fit many GPUs anyway")
    if gpu is None and (options.refit or options.strip):
        raise RuntimeMissing("tensorrt_rtx needs a GPU to build an engine that can be refitted")
    names = [name[2:] for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name)]
    known = sorted(names, key=int)
    for wanted in options.compute_capabilities:
        if wanted not in known:
            raise UsageError(
                f"tensorrt_rtx cannot build for compute capability {wanted!r}; "
                f"it can for {', '.join(known)}"
            )
    if options.compute_capabilities or gpu is None:
        return options.compute_capabilities
    if str(gpu.compute_capability) not in known:
        raise RuntimeMissing(
            f"tensorrt_rtx does not run on {gpu.name} (compute capability "
            f"{gpu.compute_capability}); it does on {', '.join(known)}"
        )
    return (str(gpu.compute_capability),)
