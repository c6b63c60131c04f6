"""The cases: model × runtime × precision × device, each at batches and sizes; and the gaps: those
that cannot be had here, with the reason."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fhrt.errors import FhrtError, RuntimeMissing, UsageError, known_names
from fhrt.exporting.engine_cache import open_fitting
from fhrt.models import PRECISIONS, Recipe
from fhrt.runtime.session import (
    RUNTIMES,
    Batch,
    Session,
    find_recipe,
    parse_device,
)

MODELS = ("restore", "restore-gan")
DEVICES = ("cpu", "cuda:0")
BATCHES = (1, 4)


@dataclass(frozen=True)
class Setup:
    """A model as it is run. model: what was asked for, a name of the catalogue or a file. name: how
    to call it. file: the ONNX file that is run. recipe: as the catalogue or the file has it."""

    model: str
    name: str
    runtime: str
    precision: str
    device: str
    recipe: Recipe = field(compare=False, repr=False)
    file: Path = field(compare=False, repr=False)

    @property
    def key(self) -> str:
        return f"{self.name} {self.runtime} {self.precision} {self.device}"

    @property
    def multiplies(self) -> str:
        """The precision of the product of matrices that it is to be compared with: bf16 has another
        ceiling than fp32, and so has fp16 on a GPU. (A CPU computes fp16 in fp32.)"""
        if self.runtime.startswith("openvino-bf16"):
            return "bf16"
        return "fp16" if self.device != "cpu" and self.precision == "fp16" else "fp32"

    @property
    def products(self) -> int:
        """How often it multiplies with each weight: with one that is a sum of two, twice."""
        return 2 if self.runtime == "openvino-bf16x2" else 1


@dataclass(frozen=True)
class Gap:
    """Something that was asked for and cannot be measured here."""

    what: str
    reason: str


def plan(
    models: Iterable[str] = (),
    runtimes: Iterable[str] = (),
    precisions: Iterable[str] = (),
    devices: Iterable[str] = (),
    artifacts: Path = Path("artifacts"),
) -> tuple[list[Setup], list[Gap]]:
    """Every combination: those that can be opened, and the others. Nothing given means all: the
    bundled restorers, every runtime, precision and kind of device.

    fp32 is the model itself; other precisions are artifacts/NAME-PRECISION/model.onnx, as
    `fhrt export` writes them; engines are those of artifacts/NAME-tensorrt. A file is run as it is.
    Raises UsageError for unknown words, ModelError for a file that is no model.
    """
    asked = tuple(runtimes) or tuple(r for r in RUNTIMES if r != "auto")
    wanted = tuple(precisions) or PRECISIONS
    for word, known in [(r, RUNTIMES) for r in asked] + [(p, PRECISIONS) for p in wanted]:
        if word not in known or word == "auto":
            raise UsageError(f"unknown runtime or precision {word!r}{known_names(word, known)}")
    places = tuple(devices) or DEVICES
    for device in places:
        parse_device(device)
    found: list[Setup] = []
    gaps: list[Gap] = []
    for model, device in itertools.product(tuple(models) or MODELS, places):
        recipe = find_recipe(model)
        for runtime, precision in itertools.product(asked, _precisions(recipe, wanted)):
            try:
                setup = setup_of(model, runtime, precision, device, artifacts)
                open_setup(setup)
            except FhrtError as error:
                what = f"{_name(model, recipe)} {runtime} {precision} {device}"
                gaps.append(Gap(what, str(error)))
            else:
                found.append(setup)
    return found, gaps


def setup_of(model: str, runtime: str, precision: str, device: str, artifacts: Path) -> Setup:
    """One combination, not yet opened. Raises UsageError, ModelError or RuntimeMissing where it
    cannot be had."""
    recipe = find_recipe(model)
    file = _file(recipe, runtime, precision, artifacts)
    return Setup(model, _name(model, recipe), runtime, precision, device, recipe, file)


def open_setup(setup: Setup, threads: int = 0) -> Session:
    """Open it. Raises as `open_fitting`, and RuntimeMissing where another device would run it."""
    model: str | Path | Recipe = setup.recipe
    if setup.precision != "fp32" or setup.runtime == "tensorrt":
        model = setup.file
    session = open_fitting(model, setup.device, setup.runtime, threads)
    if not session.device.startswith(setup.device.partition(":")[0]):
        raise RuntimeMissing(f"{setup.key} would run on {session.device}")
    return session


def shapes(
    setup: Setup, batch_max: int, batches: Iterable[int] = (), sizes: Iterable[int] = ()
) -> list[tuple[int, int]]:
    """(batch, side) of the calls to time; the sizes are the smallest and the largest of the recipe,
    where none are given, and only such as the model takes."""
    recipe = setup.recipe
    own = recipe.sizes or (256,)
    asked = tuple(sizes) or tuple(sorted({min(own), max(own)}))
    fit = [s for s in asked if s % recipe.multiple == 0 and (not recipe.fixed or s in own)]
    return [(n, side) for side in fit for n in (tuple(batches) or BATCHES) if n <= batch_max]


def batch_of(count: int, side: int) -> Batch:
    """A seeded input, float32 (count, 3, side, side) in [0, 1]."""
    return np.random.default_rng(1).random((count, 3, side, side), np.float32)


def _file(recipe: Recipe, runtime: str, precision: str, artifacts: Path) -> Path:
    """The ONNX file that is run, or that torch's network is the source of."""
    if runtime == "tensorrt" and not recipe.file:
        return _of_engine(recipe, precision, artifacts)
    if precision == "fp32" or recipe.file:
        return recipe.onnx_path()
    if runtime == "torch":
        raise RuntimeMissing("the torch runtime computes in fp32")
    path = artifacts / f"{recipe.name}-{precision}" / "model.onnx"
    if not path.is_file():
        raise RuntimeMissing(
            f"{path} is not here; `fhrt export {recipe.name} --to {precision}` makes it"
        )
    return path


def _of_engine(recipe: Recipe, precision: str, artifacts: Path) -> Path:
    """What an artifact's engine was built from, which lies beside it."""
    from fhrt.bench.counts import precision_of

    path = artifacts / f"{recipe.name}-tensorrt" / "model.onnx"
    if not path.is_file() or precision_of(path) != precision:
        wanted = f"fhrt export {recipe.name} --to tensorrt --precision {precision}"
        raise RuntimeMissing(f"{path.parent} has no {precision} engine; `{wanted}` makes it")
    return path


def _precisions(recipe: Recipe, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """What can be asked for: a file is of one precision."""
    if not recipe.file:
        return wanted
    from fhrt.bench.counts import precision_of

    return (precision_of(Path(recipe.file)),)


def _name(model: str, recipe: Recipe) -> str:
    """The recipe's name; for a file, also what it or, for an artifact, its folder is called."""
    if not recipe.file:
        return recipe.name
    path = Path(model)
    own = path.parent.name if path.stem == "model" else path.stem
    return own or recipe.name
