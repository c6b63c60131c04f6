"""Every function of the driver that the code names is one of cuda-python's bindings: what a GPU
stand-in would take, and a GPU would not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*(ROOT / "fhrt").rglob("*.py"), *(ROOT / "benchmarks" / "gpu_check").glob("*.py")]


def test_the_driver_has_what_is_called_by_name() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    names = set(re.findall(r'"(cu[A-Z]\w+)"', text))
    assert len(names) > 25 and "cuMemAlloc" in names
    assert [name for name in sorted(names) if not callable(getattr(driver, name, None))] == []
