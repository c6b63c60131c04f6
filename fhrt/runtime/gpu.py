"""Which NVIDIA GPU is here, asked of the driver's own libraries: no package needs to be installed,
and devices are numbered as CUDA numbers them (nvidia-smi has another order)."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

WINDOWS = sys.platform == "win32"
CUDA = "nvcuda.dll" if WINDOWS else "libcuda.so.1"
NVML = "nvml.dll" if WINDOWS else "libnvidia-ml.so.1"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """name: as the driver calls it. compute_capability: 90 for 9.0. driver: its version."""

    name: str
    compute_capability: int
    driver: str


def find_gpu(index: int = 0) -> Gpu | None:
    """The GPU that CUDA calls `index`; None where there is no driver or no such GPU."""
    try:
        cuda = ctypes.CDLL(CUDA)
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
    )
    if failed:
        return None
    return Gpu(name.value.decode(), 10 * major.value + minor.value, _driver(cuda))


def _driver(cuda: ctypes.CDLL) -> str:
    """The driver's version; where its management library is missing (containers), that of the CUDA
    it is made for, which changes less often."""
    try:
        nvml = ctypes.CDLL(NVML)
        version = ctypes.create_string_buffer(96)
        if not nvml.nvmlInit_v2() and not nvml.nvmlSystemGetDriverVersion(version, len(version)):
            return version.value.decode()
    except OSError:
        pass
    number = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    return f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
