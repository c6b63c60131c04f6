"""What runs the kernels: g++'s build of them, and the GPU where there is one."""

from __future__ import annotations

import os

import pytest
from emulator import COMPILER, FLAGS, Emulator, OnGpu, build, has_driver


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> object:
    if COMPILER is None:
        pytest.skip("g++, which compiles the kernels for the CPU, is not here")
    return build(tmp_path_factory.mktemp("emulated"), *os.environ.get(FLAGS, "").split())


@pytest.fixture
def emulator(library) -> Emulator:
    return Emulator(library)


@pytest.fixture(params=["g++", "gpu"] if has_driver() else ["g++"])
def gpu(request: pytest.FixtureRequest) -> Emulator | OnGpu:
    """Runs the kernels on NumPy arrays; `launched` names those that ran."""
    if request.param == "g++":
        return request.getfixturevalue("emulator")
    return OnGpu()
