"""The library of engines, `tensorrt` or `tensorrt_rtx`: which is here, what it says, and whether an
engine is for it and for the GPU."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fhrt.errors import EngineMisfit, RuntimeMissing, UsageError, first_line, known_names
from fhrt.runtime.gpu import Gpu

EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}  # the extra of fhrt that installs each
OLDEST = (10, 12)  # tensorrt


def open_library(wanted: str = "") -> Any:
    """The module `tensorrt` where it can be imported, else `tensorrt_rtx`, or the wanted one.

    Raises UsageError for another name, RuntimeMissing with the line that installs it.
    """
    if wanted and wanted not in EXTRAS:
        raise UsageError(f"unknown engine library {wanted!r}{known_names(wanted, EXTRAS)}")
    names = [wanted] if wanted else list(EXTRAS)
    lacking = []
    for name in names:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:  # also where only a library of it is missing
            lacking.append(f"{name} cannot be imported ({first_line(error)})")
            continue
        version = tuple(int(number) for number in re.findall(r"\d+", module.__version__)[:2])
        if name == "tensorrt" and version < OLDEST:
            raise RuntimeMissing(f"tensorrt {module.__version__} is too old; 10.12 is needed")
        return module
    lines = " or ".join(f"pip install 'fhrt[{EXTRAS[name]}]'" for name in names)
    raise RuntimeMissing(f"{', '.join(lacking)}; {lines} adds it")


@cache
def listener(trt: Any) -> Any:
    """The logger of this process: the library keeps the first that it is given for good."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.heard: list[tuple[bool, str]] = []  # whether it is an error, what was said

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.heard.append((severity != trt.ILogger.WARNING, message))

        def reason(self) -> str:
            """The first error; the others follow from it."""
            errors = [message for error, message in self.heard if error]
            return " ".join(errors[0].split())[:300] if errors else "it gives no reason"

        def warning(self, words: str) -> str:
            """The first message with these words; "" without one."""
            found = next((message for _, message in self.heard if words in message), "")
            return " ".join(found.split())[:300]

    return Listener()


def check_key(engine: Path, key: Mapping[str, str], trt: Any, gpu: Gpu, remedy: str) -> None:
    """Raises EngineMisfit, which ends with the remedy, for an engine that was built by another
    release or for another GPU. key: what it was built of, for and with, as in manifest.json. Its
    driver does not matter: the library itself refuses an engine that a driver cannot run."""
    options, capability = key.get("options", ""), gpu.compute_capability
    wrong = ""
    if key.get("version") != trt.__version__ and "version_compatible=True" not in options:
        wrong = f"{key['library']} {key.get('version')}, and {trt.__version__} is here"
    named = key.get("compute_capability", "").split()
    if key.get("gpu"):
        fits = key["gpu"] == gpu.name
        fits |= "hardware=same" in options and named == [str(capability)]
        fits |= "hardware=ampere+" in options and capability >= 80
    else:
        fits = str(capability) in named or (named[1:] == ["and", "later"] and capability >= 80)
    if not fits:
        of = key.get("gpu") or f"compute capability {key.get('compute_capability')}"
        wrong = f"{of}, and {gpu.name} ({capability}) is here"
    if wrong:
        raise EngineMisfit(engine, f"built for {wrong}", remedy)
