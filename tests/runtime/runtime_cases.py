"""What the tests of the runtimes share: a TensorRT and a GPU of the host in place of real ones, an
engine's artifact, pictures, and what to do without a GPU: FHRT_REQUIRE=gpu makes tests that need
one fail where they would skip.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from gpu_standin import Driver, Gpu, devices, library, plan_of

from fhrt.models import recipe
from fhrt.runtime import gpu, tensorrt

REQUIRED = os.environ.get("FHRT_REQUIRE") == "gpu"
L4 = gpu.Gpu("NVIDIA L4", 89, "580.65.06")
PROFILE = [(1, 3, 16, 16), (4, 3, 64, 64), (8, 3, 512, 512)]


def lacking(reason: str) -> NoReturn:
    """Skip, or fail where GPU tests must run."""
    if REQUIRED:
        pytest.fail(f"FHRT_REQUIRE=gpu: {reason}")
    pytest.skip(reason)


def artifact(
    folder: Path, release: str, content: bytes | None = None, **changes: str | None
) -> Path:
    """As `fhrt export restore --to tensorrt --precision fp32` writes it on a machine with an L4;
    changes: of the engine's key."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(recipe("restore").onnx_path().read_bytes())
    rtx = release.startswith("tensorrt_rtx")
    key = {
        "gpu": "" if rtx else L4.name,
        "compute_capability": "89",
        "driver": "" if rtx else L4.driver,
        "library": release.split()[0],
        "version": release.split()[1],
        "profile": "batch 1:4:8, height 16:64:512, width 16:64:512",
        "options": "",
        "model": "",
    } | changes
    (folder / "manifest.json").write_text(json.dumps({"precision": "fp32", "engine": key}))
    plan = content if content is not None else plan_of(folder / "model.onnx", PROFILE)
    (folder / "model.engine").write_bytes(plan)
    return folder


def pictures(count: int, height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """float32 (count, 3, height, width) in [0, 1]: soft colours, another one each, under noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 40
    soft = 0.5 + 0.3 * np.sin(x)[None, None] * np.cos(y) * rng.uniform(0.2, 1, (count, 3, 1, 1))
    return (soft + rng.normal(0, 0.05, soft.shape)).clip(0, 1).astype(np.float32)


def stand_in(patch: pytest.MonkeyPatch, release: str, here: gpu.Gpu = L4) -> tuple[Any, Driver]:
    """Puts a library and a GPU of the host in the place of the real ones."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    driver = Driver()
    module = library(release, driver)
    for name, function in driver.functions().items():
        patch.setattr(f"cuda.bindings.driver.{name}", function)
    patch.setattr("cuda.core.Device", devices(driver))
    patch.setitem(sys.modules, module.__name__, module)
    for user in (tensorrt, gpu):
        patch.setattr(user, "find_gpu", lambda index=0: here if index == 0 else None)
    patch.setattr(tensorrt, "Stream", Gpu)
    return module, driver
