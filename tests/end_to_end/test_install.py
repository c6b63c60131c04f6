"""The package in a fresh environment with the base and `cpu` alone: no torch, and all commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CHECK = """
import importlib, pkgutil, sys, fhrt
from pathlib import Path

assert Path(fhrt.__file__).is_relative_to(sys.prefix), fhrt.__file__
needs_torch = ("fhrt.networks.", "fhrt.exporting.", "fhrt.runtime.torch", "fhrt.training.")
free = ("fhrt.training.data", "fhrt.training.labelled")
names = [m.name for m in pkgutil.walk_packages(fhrt.__path__, "fhrt.")]
chosen = [n for n in names if n in free or not n.startswith(needs_torch)]
assert len(chosen) > 25, chosen
for name in chosen:
    importlib.import_module(name)
assert "torch" not in sys.modules and importlib.util.find_spec("torch") is None
from fhrt.cli.main import run_app
for command in ["", "run", "demo", "models", "doctor", "eval", "train", "export"]:
    assert run_app([*command.split(), "--help"]) == 0, command
assert run_app(["doctor"]) == 0
assert run_app(["train", "restore", "--data", "."]) == 1  # one line that says what to install
import numpy as np
assert fhrt.restore(np.full((64, 64, 3), 99, np.uint8)).picture.shape == (64, 64, 3)
print("all is well")
"""


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=environment, **options
    )


@pytest.mark.slow
def test_base_and_cpu_alone_import_all_that_needs_no_torch_and_answer_every_help(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "venv"
    assert run(sys.executable, "-m", "venv", folder).returncode == 0
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    reach = run(python, "-m", "pip", "download", "--no-deps", "-d", tmp_path, "hatchling")
    if reach.returncode:
        pytest.skip("pip reaches no package index")
    done = run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{ROOT}[cpu]")
    assert done.returncode == 0, done.stderr
    checked = run(python, "-c", CHECK, cwd=tmp_path)
    assert checked.returncode == 0 and "all is well" in checked.stdout, checked.stderr
    assert "pip install 'fhrt[train]'" in checked.stderr
