"""`fhrt bench` from end to end, what it writes, and what it says cannot be had."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="fhrt[bench] is not installed")
pytest.importorskip("onnx", reason="fhrt[bench] is not installed")

from fhrt.bench import memory, nvml, results, scaling
from fhrt.bench.cases import plan, shapes
from fhrt.bench.ceiling import open_copy, open_product
from fhrt.cli.main import run_app
from fhrt.errors import RuntimeMissing, UsageError
from fhrt.faces import Picture
from fhrt.models import recipe
from fhrt.quality.metrics import psnr
from fhrt.quality.protocols import cases as damaged_cases
from fhrt.runtime.gpu import find_gpu


@pytest.fixture(scope="module")
def written(astronaut: Picture, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a short run with quality, and that of its pictures."""
    data, out = tmp_path_factory.mktemp("faces"), tmp_path_factory.mktemp("out")
    for number in range(2):
        piece = astronaut[20 * number : 20 * number + 256, 90:346]
        Image.fromarray(piece).save(data / f"{number}.png")
    words = ["bench", "restore", "--quick", "--only", "networks", "--only", "memory", "-o"]
    words += [str(out), "--data", str(data), "--size", "256", "--batch", "1"]
    words += ["--runtime", "onnx", "--precision", "fp32", "--precision", "fp16"]
    words += ["--artifacts", str(data / "none")]
    assert run_app(words) == 0
    (folder,) = out.iterdir()
    return folder, data


def test_one_command_writes_all_of_it(written: tuple[Path, Path]) -> None:
    folder, _ = written
    names = {path.name for path in folder.iterdir()}
    assert names == {"results.json", "results.csv", "table.md", "pareto.png", "pareto.svg"}
    found = json.loads((folder / "results.json").read_text())
    assert folder.name == found["machine"]["kind"]
    with Image.open(folder / "pareto.png") as picture:
        assert picture.size[0] > 1000
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["rows"])
    table = (folder / "table.md").read_text()
    assert found["machine"]["date"] in table and "| restore | onnx | fp32 |" in table


def test_a_row_has_latency_counts_memory_and_the_protocols_quality(
    written: tuple[Path, Path],
) -> None:
    folder, data = written
    found = results.read(folder)
    (row,) = [row for row in found["rows"] if row["kind"] == "network"]
    assert 0 < row["least"] <= row["p50"] <= row["p95"] <= row["p99"]
    assert row["ms"] == pytest.approx(1000 * row["p50"])
    assert 0 < row["share"] < 3 and row["flops"] > 1e9 and row["bound"] == "product"
    assert 5e7 < row["host_bytes"] < 2e9
    session_free = found["quality"]["restore onnx fp32 cpu"]
    given = [min(100, psnr(c.baseline, c.truth)) for _, c in damaged_cases(data, "blind-256")]
    assert session_free["input_psnr"] == pytest.approx(np.mean(given))
    assert session_free["psnr_cost"] == 0 and session_free["n"] == 2


def test_what_is_missing_is_a_gap_with_its_reason(written: tuple[Path, Path]) -> None:
    gaps = {gap["what"]: gap["reason"] for gap in results.read(written[0])["gaps"]}
    assert "fhrt export restore --to fp16" in gaps["restore onnx fp16 cpu"]
    if find_gpu() is None:
        assert "cuda:0 was asked for" in gaps["restore onnx fp32 cuda:0"]
    table = (written[0] / "table.md").read_text()
    lines = table.partition("## Gaps")[2].splitlines()
    for what, reason in gaps.items():
        assert any(what in line and reason in line for line in lines), what


def test_the_run_is_its_own_equal(written: tuple[Path, Path]) -> None:
    folder = str(written[0])
    assert run_app(["bench", "--from", folder, "--against", folder]) == 0
    assert run_app(["bench", "--from", folder, "--best", "psnr>5,ssim>0.1"]) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "network"],
        ["--runtime", "auto"],
        ["--precision", "fp8"],
        ["--device", "gpu"],
        ["--best", "speed>1"],
        ["--seeded"],
        ["--only", "networks", "--against", "."],
        ["--from", "somewhere"],
        ["no-such-model"],
    ],
)
def test_a_wrong_word_is_said_before_anything_is_measured(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["bench", *words, "-o", str(tmp_path)]) == 2
    said = [s for s in capsys.readouterr().err.splitlines() if not s.startswith("fhrt bench:")]
    assert len(said) == 1 and not list(tmp_path.iterdir())


def test_a_file_is_run_at_the_precision_that_it_is_of() -> None:
    path = recipe("restore").onnx_path()
    setups, gaps = plan([str(path)], ["onnx", "torch"], [], ["cpu"])
    assert [setup.key for setup in setups] == ["restore onnx fp32 cpu"]
    assert [gap.what for gap in gaps] == ["restore torch fp32 cpu"]
    assert setups[0].file == path


def test_shapes_are_those_that_the_model_takes() -> None:
    (setup,), _ = plan(["restore"], ["onnx"], ["fp32"], ["cpu"])
    assert shapes(setup, 8) == [(1, 256), (4, 256), (1, 512), (4, 512)]
    assert shapes(setup, 2, sizes=[250, 384]) == [(1, 384)]
    with pytest.raises(UsageError):
        plan(["restore"], devices=["tpu"])


def test_ceilings_multiply_and_copy_what_they_say() -> None:
    product, copy = open_product(threads=1), open_copy(threads=1)
    assert product.work == 2 * 384**3 * 48
    assert product.call()[0] == pytest.approx(1 / 384, rel=1e-3)  # type: ignore[index]
    assert copy.work == 6 * 64 * 2**20
    assert copy.call()[0] == -1  # type: ignore[index]


@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="fhrt[openvino] is not installed"
)
def test_a_runtime_of_bf16_stands_beside_products_of_bf16() -> None:
    """Compiled everywhere, run in bf16 where the processor multiplies it."""
    from fhrt.runtime.openvino import multiplies_bf16

    product = open_product(threads=1, precision="bf16")
    assert product.work == 4 * 2 * 384**3 * 48
    (value,) = product.call().values()  # type: ignore[attr-defined]
    assert value * 384 == pytest.approx(1, rel=0.02)
    runtimes = ["openvino", "openvino-bf16", "openvino-bf16x2"]
    setups, gaps = plan(["restore"], runtimes, ["fp32"], ["cpu"])
    assert setups[0].multiplies == "fp32"
    if multiplies_bf16():
        assert abs(value * 384 - 1) > 1e-3  # since 1/384 is no value of bf16
        assert [s.multiplies for s in setups] == ["fp32", "bf16", "bf16"]
        assert setups[2].file == setups[1].file == setups[0].file
    else:
        assert all("does not multiply bf16" in gap.reason for gap in gaps) and len(gaps) == 2


def test_peak_memory_is_that_of_a_process_of_its_own() -> None:
    ballast = np.ones(10**8)  # 800 MB that the measured process must not inherit
    task: dict[str, Any] = {"call": ["restore", "onnx", "fp32", "cpu", "artifacts"]}
    small, large = (
        memory.measure(task | {"batch": 1, "side": side, "threads": 1})["host_bytes"]
        for side in (256, 1024)
    )
    assert memory.peak() > ballast.nbytes > large > small > 5e7
    assert large - small > 3 * 4 * (1024**2 - 256**2)  # at least the picture itself


def test_a_task_that_fails_says_why_in_one_line() -> None:
    task = {"call": ["restore", "onnx", "int8", "cpu", "nowhere"], "batch": 1, "side": 256}
    with pytest.raises(RuntimeMissing, match=r"nowhere/restore-int8/model\.onnx is not here"):
        memory.measure(task | {"threads": 1})


def test_slopes_are_those_of_the_logarithms() -> None:
    assert scaling.slope([[1, 2], [2, 4], [4, 8]]) == pytest.approx(1)
    assert scaling.slope([[1, 5], [10, 5]]) == pytest.approx(0)
    noisy = [[x, 3 * x**0.7 * math.exp((-1) ** x * 0.01)] for x in (1, 2, 4, 8, 16)]
    assert scaling.slope(noisy) == pytest.approx(0.7, abs=0.02)


def test_a_gpus_memory_and_energy_are_read_in_the_units_of_its_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stand-in for the driver: there is no GPU here, and the calls have C's shapes."""
    asked: list[bytes] = []

    def place(buffer: Any, size: int, device: Any) -> int:
        buffer.value = b"0000:65:00.0"
        return 0

    def handle(name: Any, found: Any) -> int:
        asked.append(name.value)
        found._obj.value = 7
        return 0

    def used(given: Any, found: Any) -> int:
        found._obj.used = 5 * 2**30 if given.value == 7 else 0
        return 0

    def energy(given: Any, found: Any) -> int:
        found._obj.value = 123_456
        return 0

    library = SimpleNamespace(
        cuInit=lambda flags: 0,
        cuDeviceGet=lambda device, index: 0 if index == 0 else 101,
        cuDeviceGetPCIBusId=place,
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByPciBusId_v2=handle,
        nvmlDeviceGetMemoryInfo=used,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )
    monkeypatch.setattr(nvml.ctypes, "CDLL", lambda name: library)
    gpu = nvml.Gpu()
    assert asked == [b"0000:65:00.0"]
    assert gpu.used() == 5 * 2**30 and gpu.joules() == pytest.approx(123.456)
    library.nvmlDeviceGetTotalEnergyConsumption = lambda given, found: 3  # not supported
    assert gpu.joules() is None
    with pytest.raises(OSError, match="no GPU 1"):
        nvml.Gpu(1)
