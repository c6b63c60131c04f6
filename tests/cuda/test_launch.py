"""What of launching needs no GPU: errors in one line, views of arrays, and how arguments lie."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from emulator import Emulator, has_driver

from fhrt.cuda.launch import Gpu, View, rgb_to_nv12
from fhrt.errors import RuntimeMissing, UsageError


@pytest.mark.skipif(has_driver(), reason="there is a driver here")
def test_without_a_driver_opening_a_gpu_is_one_line() -> None:
    pytest.importorskip("cuda.core", reason="cuda-python is not installed")
    with pytest.raises(RuntimeMissing, match=r"^cuda:0 cannot be used: [^\n]*driver[^\n]*$"):
        Gpu()


def test_without_cuda_python_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(RuntimeMissing, match=r"^cuda-python is not installed; pip install"):
        Gpu()


def test_an_array_of_the_host_is_refused() -> None:
    pytest.importorskip("cuda.core", reason="cuda-python is not installed")
    gpu = Gpu.__new__(Gpu)  # the driver is asked only for arrays of a device
    gpu.stream = SimpleNamespace(handle=7)
    gpu._device = SimpleNamespace(name="NVIDIA Example", device_id=0)
    with pytest.raises(UsageError, match="Host does not lie on NVIDIA Example"):
        gpu.view(Host())
    with pytest.raises(UsageError, match="ndarray is no device array: NumPy"):
        gpu.view(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="str is no device array"):
        gpu.view("picture.png")


class Host:
    """An array of the host that does not mind being asked for by a stream."""

    __dlpack_device__ = np.zeros((4, 4, 3), np.uint8).__dlpack_device__

    def __dlpack__(self, *, stream: int | None = None, **options: object) -> object:
        return np.zeros((4, 4, 3), np.uint8).__dlpack__(**options)


@pytest.mark.parametrize(
    "strides, first, packed",
    [
        ((12, 3, 1), 0, True),
        ((64, 3, 1), 1, True),
        ((64, 3, 1), 0, False),
        ((12, -3, 1), 1, False),
        ((12, 3, 2), 2, False),
    ],
)
def test_padded_rows_are_told_from_contiguous_arrays(
    strides: tuple[int, ...], first: int, packed: bool
) -> None:
    assert View(0, (2, 4, 3), strides, np.dtype(np.uint8)).packed(first) == packed


def test_cuda_core_lays_arguments_out_as_the_kernels_take_them(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = pytest.importorskip("cuda.core._kernel_arg_handler", reason="another cuda.core")
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    luma, chroma = np.zeros((2, 20, 30), np.uint8), np.zeros((2, 10, 15, 2), np.uint8)
    rgb_to_nv12(emulator, picture, luma[0], chroma[0], "bt2020")  # pointers, int64, int32, float32
    monkeypatch.setattr(emulator, "lay_out", handler.ParamHolder)
    rgb_to_nv12(emulator, picture, luma[1], chroma[1], "bt2020")
    assert luma[0].any() and chroma[0].any()
    assert np.array_equal(*luma) and np.array_equal(*chroma)
