"""`fhrt doctor`: what is installed, what is not, and the line that adds it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys

EXTRAS = {
    "base": ["numpy", "opencv-python-headless", "pillow", "av", "typer", "rich", "filelock"],
    "cpu": ["onnxruntime"],
    "gpu": ["onnxruntime-gpu", "cuda-python", "nvidia-cuda-nvrtc"],
    "openvino": ["openvino"],
    "tensorrt": ["tensorrt"],
    "rtx": ["tensorrt-rtx"],
    "polygraphy": ["polygraphy"],
    "demo": ["scikit-image"],
    "eval": ["matplotlib"],
    "train": ["torch", "lightning-fabric", "tensorboard", "onnx", "onnxscript"],
    "bench": ["pytest-benchmark"],
}


def doctor() -> int:
    """Versions, runtimes, GPU, and what is missing. Exit code 1 where nothing could be restored."""
    from fhrt import __version__

    print(f"fhrt {__version__}  python {platform.python_version()}  {platform.platform()}")
    installed: dict[str, str] = {}
    for extra, packages in EXTRAS.items():
        for package in packages:
            try:
                installed[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        found = [f"{p} {installed[p]}" for p in packages if p in installed]
        absent = [p for p in packages if p not in installed]
        line = f"{extra:11}" + ", ".join(found)
        if absent:
            line += ("  " if found else "") + f"missing: {', '.join(absent)}"
            line += (
                f"  (pip install 'fhrt[{extra}]')" if extra != "base" else "  (pip install fhrt)"
            )
        print(line)
    if {"onnxruntime", "onnxruntime-gpu"} <= installed.keys():
        print(
            "onnxruntime and onnxruntime-gpu overwrite each other's files: uninstall both, then "
            "install one"
        )
    ready = _runtime()
    _gpu()
    _models()
    return 0 if ready else 1


def _runtime() -> bool:
    """Print what ONNX Runtime really opens, since it lists providers that it cannot use, and what
    auto takes on the CPU, which is measured now where it is not remembered."""
    from fhrt.errors import FhrtError
    from fhrt.models import recipe
    from fhrt.runtime.session import open_session

    for device in ("cpu", "cuda"):
        try:
            session = open_session("restore", device, "onnx")
            print(f"onnx on {device}: works ({session.device}, {session.precision})")
        except FhrtError as error:
            print(f"onnx on {device}: no: {error}")
            if device == "cpu":
                return False
    if importlib.util.find_spec("openvino") is not None:
        from fhrt.runtime.choice import choose

        choice = choose(recipe("restore"))
        print(f"auto on cpu: {choice.runtime} ({choice.why})")
    return True


def _gpu() -> None:
    """Print what there is for a GPU, and what each part of it lacks."""
    from fhrt.errors import FhrtError, RuntimeMissing
    from fhrt.runtime.engine_library import EXTRAS as LIBRARIES
    from fhrt.runtime.engine_library import open_library
    from fhrt.runtime.gpu import CUDA, find_gpu
    from fhrt.runtime.session import open_session

    gpu = find_gpu()
    if gpu is None:
        print(f"gpu: none: {CUDA} of an NVIDIA driver is not here, or sees no GPU")
    else:
        capability = gpu.compute_capability / 10
        print(f"gpu: {gpu.name}, compute capability {capability}, driver {gpu.driver}")
    try:
        _kernels(gpu.compute_capability if gpu else 0)
    except RuntimeMissing as error:
        print(f"kernels: no: {error}")
    for name in LIBRARIES:
        try:
            library = open_library(name)
            can = "runs engines" if gpu else "builds engines; running them needs a GPU"
            print(
                f"{name}: {library.__version__}, {can if name != 'tensorrt' or gpu else 'no GPU'}"
            )
        except RuntimeMissing as error:
            print(f"{name}: no: {error}")
    if gpu is None:
        return
    for runtime in ("onnx-tensorrt", "torch"):
        try:
            session = open_session("restore", "cuda", runtime)
            print(f"{runtime} on cuda: works ({session.device}, {session.precision})")
        except FhrtError as error:
            print(f"{runtime} on cuda: no: {error}")


def _kernels(capability: int) -> None:
    """Compile the kernels for the GPU that is here, or for one like an L4."""
    from fhrt.cuda.compile import kernels_for
    from fhrt.cuda.launch import Gpu

    arch = f"sm_{capability or 89}"
    size = len(kernels_for(arch))
    if capability:
        Gpu()
        print(f"kernels: compiled for {arch} ({size} bytes) and loaded")
    else:
        print(f"kernels: compile for {arch} ({size} bytes); nothing here runs them")


def _models() -> None:
    from fhrt.models import recipes

    for name, recipe in recipes().items():
        if paths := recipe.here():
            print(f"model {name}: {paths[0]}")
        elif recipe.commercial and not recipe.checkpoint.files:  # ours, and nobody fetches it
            print(f"model {name}: missing", file=sys.stderr)
