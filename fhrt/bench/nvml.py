"""Memory and energy of an NVIDIA GPU, asked of the driver's own library as `runtime.gpu` does."""

from __future__ import annotations

import ctypes
from typing import Any

from fhrt.runtime.gpu import CUDA, NVML


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


class Gpu:
    """The GPU that CUDA calls `index`. Raises OSError where there is no driver or no such GPU."""

    def __init__(self, index: int = 0) -> None:
        cuda, self._nvml = ctypes.CDLL(CUDA), ctypes.CDLL(NVML)
        device, place = ctypes.c_int(), ctypes.create_string_buffer(64)
        self._handle = ctypes.c_void_p()
        failed = (
            cuda.cuInit(0)
            or cuda.cuDeviceGet(ctypes.byref(device), index)
            or cuda.cuDeviceGetPCIBusId(place, len(place), device)
            or self._nvml.nvmlInit_v2()
            or self._nvml.nvmlDeviceGetHandleByPciBusId_v2(place, ctypes.byref(self._handle))
        )
        if failed:
            raise OSError(f"the driver knows no GPU {index} (error {failed})")

    def used(self) -> int:
        """Bytes in use on the whole GPU, by all processes."""
        memory = _Memory()
        self._ask(self._nvml.nvmlDeviceGetMemoryInfo, memory)
        return int(memory.used)

    def joules(self) -> float | None:
        """Energy since the driver was loaded; None for a GPU that does not count it."""
        millijoules = ctypes.c_ulonglong()
        try:
            self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, millijoules)
        except OSError:
            return None
        return millijoules.value / 1000

    def _ask(self, function: Any, answer: Any) -> None:
        if code := function(self._handle, ctypes.byref(answer)):
            raise OSError(f"the GPU's driver does not answer (error {code})")
