"""Compile kernels.cu for a GPU by NVRTC, once: what comes out is kept in the cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from fhrt.errors import RuntimeMissing
from fhrt.weights import cache_folder

SOURCE = Path(__file__).with_name("kernels.cu")
OPTIONS = ("--std=c++17", "--ptxas-options=-v")  # -v: registers and spills, into the log
REMEDY = "pip install 'fhrt[gpu]'"


def kernels_for(arch: str) -> bytes:
    """The cubin of kernels.cu for `arch` ("sm_90"), from the cache or compiled now (a second).

    Needs no GPU. Raises RuntimeMissing without NVRTC, or where it does not know this GPU.
    """
    source = SOURCE.read_bytes()
    major, minor = _call("nvrtcVersion")
    key = hashlib.sha256(source)
    key.update("\n".join((arch, f"{major}.{minor}", *OPTIONS)).encode())
    path = cache_folder() / "kernels" / f"{arch}-{key.hexdigest()[:16]}.cubin"
    if path.is_file():
        return path.read_bytes()
    cubin, _ = compile_source(source, arch)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second a start
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_bytes(cubin)
        beside.replace(path)
    return cubin


def compile_source(source: bytes, arch: str) -> tuple[bytes, str]:
    """CUDA C++ -> its cubin for `arch`, and the log, in which ptxas gives the registers and spills
    of each kernel. Raises RuntimeMissing without NVRTC, or where it cannot compile this."""
    (program,) = _call("nvrtcCreateProgram", source, SOURCE.name.encode(), 0, [], [])
    try:
        options = [option.encode() for option in (f"--gpu-architecture={arch}", *OPTIONS)]
        try:
            _call("nvrtcCompileProgram", program, len(options), options)
        except RuntimeMissing as error:
            log = _text(program, "ProgramLog").decode(errors="replace").strip()
            reason = log.splitlines()[0] if log else str(error)
            raise RuntimeMissing(f"{SOURCE.name} does not compile for {arch}: {reason}") from error
        return _text(program, "CUBIN"), _text(program, "ProgramLog").decode(errors="replace")
    finally:
        _call("nvrtcDestroyProgram", program)


def _text(program: Any, what: str) -> bytes:
    (size,) = _call(f"nvrtcGet{what}Size", program)
    text = bytes(size)  # NVRTC writes into it
    _call(f"nvrtcGet{what}", program, text)
    return text.rstrip(b"\0") if what == "ProgramLog" else text


def _call(function: str, *arguments: Any) -> tuple[Any, ...]:
    """What a function of NVRTC gives beside its status. Raises RuntimeMissing where it fails."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise RuntimeMissing(f"cuda-python is not installed; {REMEDY}") from error
    try:
        status, *values = getattr(nvrtc, function)(*arguments)
    except RuntimeError as error:  # the bindings without the library
        raise RuntimeMissing(f"NVRTC cannot be loaded: {error}; {REMEDY}") from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeMissing(f"NVRTC: {function} gives {status.name}")
    return tuple(values)
