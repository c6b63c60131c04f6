"""The path of an export: source -> fp32 ONNX -> lower precision -> engine or Triton repository."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.errors import ModelError, UsageError, known_names
from fhrt.exporting import artifact
from fhrt.exporting.builders import DEFAULTS, EngineOptions, find_builder
from fhrt.exporting.crosscheck import capability, crosscheck
from fhrt.exporting.engine import EngineFacts, Progress, build_engine
from fhrt.exporting.int8 import CALIBRATION, quantise
from fhrt.exporting.parity import check_parity, compare, first_departure, gate_of, of_graph
from fhrt.exporting.precision import emulate, lower
from fhrt.exporting.profile import Profile, profile_of
from fhrt.exporting.sources import Source
from fhrt.exporting.to_onnx import samples
from fhrt.exporting.triton import write_repository
from fhrt.models import PRECISIONS, Recipe
from fhrt.pictures import read_photo
from fhrt.quality.protocols import bicubic, files_of
from fhrt.quality.scoring import rate
from fhrt.runtime.gpu import find_gpu
from fhrt.runtime.session import PICTURE_TASKS

TARGETS = ("onnx", "fp16", "bf16", "int8", "tensorrt", "triton")
FACES = 16  # of a folder, that outputs are compared on


@dataclass(frozen=True)
class Wish:
    """What an export is to be.

    to: onnx (fp32), fp16, bf16 or int8, all ONNX; tensorrt (model.engine, beside the ONNX of
    `precision` it was built from); or triton (that ONNX in a model repository, NAME/config.pbtxt
    and NAME/1). faces: a folder of aligned faces, `most` of which outputs are compared on beside
    the seeded pictures. cost: whether the PSNR and SSIM that the precision costs on the recipe's
    protocol is measured on those faces. calibration: a folder of pictures such as the network will
    be given, which int8 takes its ranges from. batch, size: of an engine, in place of the recipe's
    (see `profile_of`). polygraphy: whether it is to compare the models, too.
    """

    to: str = "onnx"
    precision: str = "fp16"
    faces: Path | None = None
    most: int = FACES
    cost: bool = False
    calibration: Path | None = None
    batch: str = ""
    size: str = ""
    engine: EngineOptions = DEFAULTS
    polygraphy: bool = False

    def __post_init__(self) -> None:
        if self.to not in TARGETS:
            raise UsageError(f"unknown target {self.to!r}{known_names(self.to, TARGETS)}")
        if self.precision not in PRECISIONS:
            known = known_names(self.precision, PRECISIONS)
            raise UsageError(f"unknown precision {self.precision!r}{known}")
        if self.cost and self.faces is None:
            raise UsageError("what a precision costs is measured on faces: --faces FOLDER")
        if self.lowest == "int8" and self.calibration is None:
            raise UsageError("int8 takes its ranges from pictures: --calibration FOLDER")

    @property
    def lowest(self) -> str:
        """The precision of the ONNX that is published."""
        if self.to in ("tensorrt", "triton"):
            return self.precision
        return "fp32" if self.to == "onnx" else self.to


def export(
    source: Source, target: Path, wish: Wish = Wish(), progress: Progress | None = None
) -> dict[str, Any]:
    """Write the folder `target`: model.onnx, manifest.json, card.md; returns the manifest. progress
    is told what is done, and of an engine how many steps of a phase (0 of 0: not known).

    Every model is run beside the one it was made of. A step that misses its gate raises ModelError,
    names the node from which on the two differ, and publishes nothing. Raises UsageError for a wish
    that cannot be met.
    """
    recipe, say = source.recipe, progress or (lambda what, done, of: None)
    if wish.to == "tensorrt":  # what cannot be had is said before minutes of work
        profile = profile_of(recipe, wish.batch, wish.size)
        find_builder(wish.engine)
    with artifact.building(target) as folder:
        exact, model = folder / "exact.onnx", folder / "model.onnx"
        inputs = {"seeded pictures": samples(recipe)}
        if wish.faces is not None:
            inputs["faces"] = list(face_batches(wish.faces, recipe, wish.most))
        say("fp32 ONNX, compared", 0, 0)
        steps = [_exact(source, exact, inputs)]
        more: dict[str, Any] = {"precision": wish.lowest}
        if wish.lowest == "fp32":
            shutil.copyfile(exact, model)
        else:
            shown = folder / "shown.onnx"
            say(f"{wish.lowest} ONNX, compared", 0, 0)
            steps.append(_lowered(source, wish, exact, model, shown, inputs))
            if wish.cost and wish.faces is not None:
                more["costs"] = cost(recipe, exact, shown, wish.faces)
            shown.unlink(missing_ok=True)
        if wish.to == "tensorrt":
            engine = folder / "model.engine"
            built = _engine(model, engine, profile, wish.engine, progress)
            parity = _engine_parity(source, wish, exact, engine, built, profile, inputs)
            steps.append(artifact.Step("tensorrt", built.seconds, built.bytes, parity))
            more["engine"] = built.key
            more["build"] = {"profile": asdict(profile), "options": asdict(wish.engine)}
        if wish.polygraphy:
            more["polygraphy"] = crosscheck(
                exact,
                model,
                [values for values in inputs["seeded pictures"] if len(values) == 1],
                folder / "polygraphy",
                gate_of(recipe, wish.lowest),
                folder / "model.engine" if wish.to == "tensorrt" else None,
                wish.engine.library,
            )
        if wish.to == "triton":
            batch = wish.batch or recipe.export.batch
            write_repository(model, recipe, folder, int(batch.split(":")[-1]))
            model.unlink()
        exact.unlink()
        facts = artifact.manifest(recipe, source.files, source.published, steps, **more)
        artifact.write(folder, recipe, facts)
    return facts


def _exact(source: Source, target: Path, inputs: dict[str, list[np.ndarray]]) -> artifact.Step:
    """The fp32 ONNX."""
    begun, step = time.monotonic(), artifact.Step("onnx")
    reference = source.write(target)
    for name, values in inputs.items():
        parity = compare(reference, of_graph(target), values)
        step.parity[f"{source.came_from}, {name}"] = parity.figures()
        check_parity(source.recipe, "fp32", parity)
    return step.finished(begun, target)


def _lowered(
    source: Source,
    wish: Wish,
    exact: Path,
    target: Path,
    shown: Path,
    inputs: dict[str, list[np.ndarray]],
) -> artifact.Step:
    """The ONNX of a lower precision. shown: what a CPU can run to show what it gives."""
    recipe, precision = source.recipe, wish.lowest
    begun, step = time.monotonic(), artifact.Step(precision)
    if precision == "int8":
        assert wish.calibration is not None
        quantise(exact, recipe, list(face_batches(wish.calibration, recipe, CALIBRATION)), target)
        shutil.copyfile(target, shown)
    else:
        lower(exact, recipe, precision, target)
        emulate(target, shown)
    for name, values in inputs.items():
        parity = compare(of_graph(exact), of_graph(shown), values)
        step.parity[f"fp32, {name}"] = parity.figures()
        gate = gate_of(recipe, precision)
        check_parity(
            recipe, precision, parity, partial(first_departure, exact, shown, values[0], gate)
        )
    return step.finished(begun, target)


def _engine(
    model: Path,
    target: Path,
    profile: Profile,
    options: EngineOptions,
    progress: Progress | None,
) -> EngineFacts:
    """As `build_engine`; where the graph cannot be read, the error also has what Polygraphy, if it
    is installed, finds wrong with all of it."""
    try:
        return build_engine(model, target, profile, options, progress)
    except ModelError as error:
        if "cannot read" not in str(error) or not find_spec("polygraphy"):
            raise
        raise ModelError(f"{error}; {' '.join(capability(model).split())}") from error


def _engine_parity(
    source: Source,
    wish: Wish,
    exact: Path,
    engine: Path,
    built: EngineFacts,
    profile: Profile,
    inputs: dict[str, list[np.ndarray]],
) -> dict[str, dict[str, float]]:
    """Of the engine beside fp32, on the inputs that its profile takes; nothing where there is no
    GPU to run it, and for a network that gives no picture, which `--polygraphy` compares."""
    recipe = source.recipe
    if find_gpu() is None or recipe.task not in PICTURE_TASKS:
        return {}
    from fhrt.runtime.tensorrt import TensorRtSession

    shapes = [(batch, height, width) for batch, _, height, width in profile.shapes(3)[:2]]
    given = {"seeded pictures": samples(recipe, shapes)}
    given["faces"] = [face for face in inputs.get("faces", []) if profile.takes(face.shape)]
    precision = "fp16" if wish.engine.tf32 and wish.lowest == "fp32" else wish.lowest
    session = TensorRtSession(recipe, engine, built.key, wish.lowest)
    found = {}
    try:
        for name, values in given.items():
            if values:
                parity = compare(of_graph(exact), lambda batch: [session(batch)], values)
                found[f"fp32, {name}"] = parity.figures()
                check_parity(recipe, precision, parity)
    finally:
        session.close()
    return found


def cost(recipe: Recipe, exact: Path, other: Path, faces: Path) -> dict[str, float]:
    """What a conversion costs on the recipe's protocol: mean PSNR in dB and SSIM, exact − other."""

    def first(run: Any) -> Any:
        return lambda values: run(values)[0]

    networks = {"exact": first(of_graph(exact)), "other": first(of_graph(other))}
    one, two = (rating.summary() for rating in rate(networks, faces, recipe.protocol))
    return {
        metric: one["output"][metric]["mean"] - two["output"][metric]["mean"]
        for metric in ("psnr", "ssim")
    } | {"n": float(one["n"])}


def face_batches(folder: Path, recipe: Recipe, most: int = FACES) -> Iterable[np.ndarray]:
    """Up to `most` faces of a folder, spread evenly, as float32 (1, 3, S, S) of the recipe's first
    size, or of 256 pixels without one. Raises InputError for a folder without pictures."""
    files = files_of(folder)
    side = recipe.sizes[0] if recipe.sizes else recipe.multiple * max(1, 256 // recipe.multiple)
    for path in files[:: max(1, len(files) // most)][:most]:
        picture = bicubic(read_photo(path).picture, side)
        yield picture.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
