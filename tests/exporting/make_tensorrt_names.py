"""Writes tensorrt_names.json: the names in the Python bindings of TensorRT, release by release.

    python tests/exporting/make_tensorrt_names.py

The bindings are plain wheels, the libraries behind them are not; so empty ones are compiled, which
is enough to import the bindings and to look at their classes. Needs pip and gcc.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

BINDINGS = {
    "tensorrt_cu12_bindings==10.12.*": "tensorrt_bindings",
    "tensorrt_cu12_bindings==10.16.*": "tensorrt_bindings",
    "tensorrt_cu13_bindings==11.4.*": "tensorrt_bindings",
}
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
CLASSES = [
    "Builder",
    "BuilderFlag",
    "ComputeCapability",
    "CudaGraphStrategy",
    "DataType",
    "ExecutionContextAllocationStrategy",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "TensorIOMode",
]

LOOK = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
found = {
    name: [word for word in dir(getattr(trt, name)) if word[0] != "_" and word[:4] != "add_"
           or word == "add_optimization_profile"]
    for name in sys.argv[2:] if hasattr(trt, name)
}
print(json.dumps([trt.__version__, found]))
"""


def names_of(module: str, **environment: str) -> tuple[str, dict[str, list[str]]]:
    """The version of an importable module, and class -> its public names."""
    ran = subprocess.run(
        [sys.executable, "-c", LOOK, module, *CLASSES],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    version, found = json.loads(ran.stdout.splitlines()[-1])
    return version, found


def names_of_wheel(requirement: str, module: str) -> tuple[str, dict[str, list[str]]]:
    """The same of a wheel, whose libraries are not here."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", name, requirement]
        subprocess.run(pip, check=True)
        zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
        binary = next((folder / module).glob("*.so"))
        missing = subprocess.run(["nm", "-D", "-u", binary], check=True, capture_output=True).stdout
        symbols = re.findall(r" U (\w*(?:nfer|Onnx|Plugin)\w*)$", missing.decode(), re.MULTILINE)
        source = folder / "empty.c"
        source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols))
        for library in LIBRARIES:
            file = f"lib{library}.so.{requirement.split('==')[1].split('.')[0]}"
            linked = ["-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", folder / file]
            subprocess.run(["gcc", source, *linked], check=True)
        return names_of(module, PYTHONPATH=name, LD_LIBRARY_PATH=name)


def main() -> None:
    found = {}
    for requirement, module in BINDINGS.items():
        version, names = names_of_wheel(requirement, module)
        found[f"tensorrt {version}"] = names
    version, names = names_of("tensorrt_rtx")
    found[f"tensorrt_rtx {version}"] = names
    lines = [
        f' "{release}": {{\n'
        + ",\n".join(f'  "{name}": {json.dumps(words)}' for name, words in classes.items())
        + "\n }"
        for release, classes in found.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    Path(__file__).with_name("tensorrt_names.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
