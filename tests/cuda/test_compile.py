"""The kernels compile for every GPU that is supported, without one, and are kept on disk."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from emulator import kernel_bodies

from fhrt.cuda import compile as compiling
from fhrt.errors import RuntimeMissing

pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-python is not installed")

ARCHS = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
KERNEL = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_kernel_compiles_and_keeps_its_values_in_registers(arch: str) -> None:
    cubin, log = compiling.compile_source(compiling.SOURCE.read_bytes(), arch)
    assert cubin.startswith(b"\x7fELF")
    used = {name: [int(n) for n in numbers] for name, *numbers in KERNEL.findall(log)}
    print(f"\n{arch:16}registers  stack  spilled")
    for name, (stack, stores, loads, registers) in sorted(used.items()):
        print(f"{name:16}{registers:9}{stack:7}{stores + loads:9}")
    assert used.keys() == kernel_bodies().keys()
    assert {name: numbers[:3] for name, numbers in used.items() if any(numbers[:3])} == {}
    # 65,536 registers a multiprocessor: up to 80 a thread, three blocks of 256 threads run at once
    assert max(numbers[3] for numbers in used.values()) <= 80


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    return tmp_path / "kernels"


def test_what_was_compiled_once_is_read_from_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiling.kernels_for("sm_86")
    (kept,) = cache.iterdir()
    assert kept.read_bytes() == first

    def compile_again(source: bytes, arch: str) -> tuple[bytes, str]:
        return b"compiled again", ""

    monkeypatch.setattr(compiling, "compile_source", compile_again)
    assert compiling.kernels_for("sm_86") == first
    assert compiling.kernels_for("sm_89") == b"compiled again"
    monkeypatch.setattr(compiling, "OPTIONS", (*compiling.OPTIONS, "--use_fast_math"))
    assert compiling.kernels_for("sm_86") == b"compiled again"
    changed = cache / "kernels.cu"
    changed.write_bytes(compiling.SOURCE.read_bytes() + b"//")
    monkeypatch.undo()
    monkeypatch.setenv("FHRT_WEIGHTS", str(cache.parent))
    monkeypatch.setattr(compiling, "compile_source", compile_again)
    monkeypatch.setattr(compiling, "SOURCE", changed)
    assert compiling.kernels_for("sm_86") == b"compiled again"


def test_a_cache_that_cannot_be_written_is_done_without(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    monkeypatch.setattr(compiling, "compile_source", lambda source, arch: (b"cubin", ""))
    assert compiling.kernels_for("sm_86") == b"cubin"


def test_a_gpu_that_nvrtc_does_not_know_is_one_line(cache: Path) -> None:
    with pytest.raises(RuntimeMissing, match=r"^kernels.cu does not compile for sm_50: .*arch"):
        compiling.kernels_for("sm_50")
    assert not cache.exists()


def test_a_mistake_in_the_source_is_told_with_its_line() -> None:
    with pytest.raises(RuntimeMissing, match=r"for sm_90: kernels.cu\(2\): error"):
        compiling.compile_source(b"\nnonsense", "sm_90")


def test_without_cuda_python_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(RuntimeMissing, match=r"^cuda-python is not installed; pip install"):
        compiling.kernels_for("sm_90")
