"""Stand-ins for `fhrt.cuda.launch.Gpu` that take NumPy arrays: kernels.cu compiled by g++, and the
GPU where there is one."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fhrt.cuda.compile import SOURCE
from fhrt.cuda.launch import Gpu, View

COMPILER = shutil.which("g++")
OPTIONS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
FLAGS = "EMULATOR_FLAGS"  # the environment's further options


def kernel_bodies() -> dict[str, str]:
    """The kernels of the source by name, each with what stands between its name and its end."""
    found = re.findall(r'extern "C" __global__ void (\w+)(.*?\n})', SOURCE.read_text(), re.DOTALL)
    return dict(found)


def build(folder: Path, *options: str) -> Path:
    """Compile shim.h and kernels.cu to a shared library."""
    lines = [f'#include "{Path(__file__).with_name("shim.h")}"', f'#include "{SOURCE}"']
    for name, body in kernel_bodies().items():
        lines.append(f"KERNEL({name}, {'true' if '__syncthreads' in body else 'false'})")
    source, library = folder / "emulated.cpp", folder / "emulated.so"
    source.write_text("\n".join(lines) + "\n")
    command = [str(COMPILER), *OPTIONS, *options, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def has_driver() -> bool:
    """Whether there is a driver of NVIDIA's."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


class Emulator:
    """Device memory is host memory, and a launch is done when it returns."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.launched: list[str] = []

    def view(self, array: np.ndarray) -> View:
        return View(array.ctypes.data, array.shape, array.strides, array.dtype)

    def upload(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any
    ) -> None:
        plain = [each.ctypes.data if isinstance(each, np.ndarray) else each for each in arguments]
        shape = np.array([(*grid, 1, 1)[:3], (*block, 1, 1)[:3]], np.uint32)
        laid_out = self.lay_out(plain)
        getattr(self.library, f"run_{kernel}")(
            ctypes.c_void_p(shape.ctypes.data), ctypes.c_void_p(laid_out.ptr)
        )
        self.launched.append(kernel)

    def lay_out(self, arguments: list[Any]) -> Any:
        """Arguments, an int for an address, as cuLaunchKernel takes them: `ptr` is the address of
        an array of their addresses."""
        kinds = [np.uint64 if isinstance(each, int) else each.dtype for each in arguments]
        cells = [np.array(each, kind) for each, kind in zip(arguments, kinds, strict=True)]
        pointers = np.array([cell.ctypes.data for cell in cells], np.uint64)
        return SimpleNamespace(ptr=pointers.ctypes.data, keep=(cells, pointers))


class OnGpu(Gpu):
    """A GPU that takes NumPy arrays as `Emulator` does: they go there and back at each launch."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[str] = []
        self.mirrors: list[tuple[np.ndarray, Any]] = []

    def view(self, array: np.ndarray) -> View:
        reach = [(n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)]
        if array.size == 0 or min(array.strides) < 0:  # refused, or not launched
            return View(0, array.shape, array.strides, array.dtype)
        whole = (ctypes.c_uint8 * (sum(reach) + array.itemsize)).from_address(array.ctypes.data)
        memory = np.ctypeslib.as_array(whole)
        buffer = self.upload(memory)
        self.mirrors.append((memory, buffer))
        return View(int(buffer.handle), array.shape, array.strides, array.dtype)

    def launch(self, kernel: str, *shape_and_arguments: Any) -> None:
        from cuda.bindings import driver

        super().launch(kernel, *shape_and_arguments)
        self.stream.sync()
        for memory, buffer in self.mirrors:
            (status,) = driver.cuMemcpyDtoH(memory.ctypes.data, int(buffer.handle), memory.nbytes)
            assert status == driver.CUresult.CUDA_SUCCESS, status
        self.launched.append(kernel)
