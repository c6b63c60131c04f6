"""What the tests share: a real portrait, a restorer that is opened once, and damaged copies."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data

from fhrt.damage.degrade import Blind, blind
from fhrt.faces import Picture
from fhrt.restorer import Restorer

os.environ.setdefault("OMP_NUM_THREADS", "1")
# what tests keep is not to be found by whoever runs them
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="fhrt-tests-")


@pytest.fixture(autouse=True)
def _no_defaults_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """FHRT_* of whoever runs the tests must not change what they test."""
    for name in [name for name in os.environ if name.startswith("FHRT_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def astronaut() -> Picture:
    """scikit-image's portrait of Eileen Collins, 512×512, read-only: tests must not change it."""
    picture = np.ascontiguousarray(skimage.data.astronaut())
    picture.flags.writeable = False
    return picture


@pytest.fixture(scope="session")
def damaged(astronaut: Picture) -> Picture:
    """The portrait after blur, shrinking, noise and JPEG, as `fhrt demo` damages it."""
    strong = Blind(blur=(1.6, 1.8), shrink=(2.4, 2.6), noise=(7, 8), quality=(60, 70))
    return blind(astronaut, np.random.default_rng(0), strong)


@pytest.fixture(scope="session")
def restorer() -> Restorer:
    return Restorer(device="cpu", runtime="onnx", threads=1)


@pytest.fixture
def counted(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the batches that the shared restorer's session is called with."""
    shapes: list[tuple[int, ...]] = []
    session = restorer.session

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(session, name)

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            shapes.append(batch.shape)
            return session(batch)

    monkeypatch.setattr(restorer, "session", Counting())
    return shapes


@pytest.fixture
def finds(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[object]], None]:
    """Makes the shared restorer find given faces in every picture, whatever it shows."""

    def use(faces: list[object]) -> None:
        monkeypatch.setattr(restorer, "detect", lambda picture: list(faces))

    return use
