"""The tests of the kernels once more, with every access to memory checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import COMPILER, FLAGS


@pytest.mark.slow
def test_no_kernel_reads_or_writes_outside_its_arrays() -> None:
    if COMPILER is None:
        pytest.skip("g++, which compiles the kernels for the CPU, is not here")
    asked = [COMPILER, "-print-file-name=libasan.so"]
    sanitizer = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout[:-1])
    if not sanitizer.is_absolute():
        pytest.skip("g++ has no address sanitizer here")
    files = [str(Path(__file__).with_name(f"test_{kind}_kernels.py")) for kind in ("face", "film")]
    environment = {
        **os.environ,
        FLAGS: "-fsanitize=address,undefined -fno-sanitize-recover=undefined",
        "LD_PRELOAD": str(sanitizer),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "g++", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
