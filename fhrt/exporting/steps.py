"""`fhrt export`: checkpoint -> fp32 ONNX -> FP16 ONNX, each run beside the one before."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.errors import ModelError, UsageError, known_names
from fhrt.exporting import artifact
from fhrt.exporting.builders import DEFAULTS, EngineOptions
from fhrt.exporting.engine import build_engine
from fhrt.exporting.fp16 import emulate, trace_half
from fhrt.exporting.parity import Parity, compare, first_departure, of_graph, of_network
from fhrt.exporting.profile import profile_of
from fhrt.exporting.to_onnx import export_onnx, network_of, samples
from fhrt.exporting.triton import write_repository
from fhrt.models import Recipe
from fhrt.pictures import read_photo
from fhrt.quality.protocols import bicubic, files_of
from fhrt.quality.scoring import rate
from fhrt.runtime.torch import recipe_weights

TARGETS = ("onnx", "fp16", "tensorrt", "triton")
FP16_GATE = 55.0  # dB between fp16 and fp32, on the seeded pictures and on faces alike


def export(
    recipe: Recipe,
    checkpoint: Path | None,
    target: Path,
    to: str = "onnx",
    faces: Path | None = None,
    truth: bool = False,
    batch: str = "1:4:8",
    size: str = "",
    options: EngineOptions = DEFAULTS,
) -> dict[str, Any]:
    """Write the folder `target`: model.onnx, manifest.json, card.md; returns the manifest.

    checkpoint: the user's own weights, or None for those of the recipe.

    to: onnx (fp32), fp16, tensorrt (model.engine beside the FP16 ONNX it was built from), or triton
    (the FP16 ONNX in a model repository, NAME/config.pbtxt and NAME/1). batch, size: the least, the
    usual and the most of both that an engine is built for (see `profile_of`). faces: a folder of
    aligned faces, which are compared beside the seeded pictures; with `truth`, the PSNR and SSIM
    that fp16 costs on the recipe's protocol is measured on them.

    A step that misses its gate raises ModelError, names the node from which on the two differ, and
    publishes nothing.
    """
    if to not in TARGETS:
        raise UsageError(f"unknown target {to!r}{known_names(to, TARGETS)}")
    steps: list[artifact.Step] = []
    with artifact.building(target) as folder:
        model, begun = folder / "model.onnx", time.monotonic()
        seeded = export_onnx(recipe, checkpoint, model)
        step = artifact.Step("onnx", parity={"torch, seeded pictures": seeded.figures()})
        weights = recipe_weights(recipe, checkpoint)
        network = network_of(recipe, weights, checkpoint or recipe.name)
        if faces is not None:
            of_faces = compare(of_network(network), of_graph(model), face_batches(faces, recipe))
            step.parity["torch, faces"] = of_faces.figures()
        steps.append(_finished(step, begun, model))
        more: dict[str, Any] = {}
        if to != "onnx":
            begun = time.monotonic()
            half, emulated = folder / "half.onnx", folder / "emulated.onnx"
            trace_half(network, recipe, half)
            emulate(half, emulated)
            step = artifact.Step("fp16")
            inputs = {"fp32, seeded pictures": samples(recipe)}
            if faces is not None:
                inputs["fp32, faces"] = list(face_batches(faces, recipe))
            for against, values in inputs.items():
                parity = compare(of_graph(model), of_graph(emulated), values)
                step.parity[against] = parity.figures()
                _gate(recipe, parity, model, emulated, values[0])
            if faces is not None and truth:
                more["fp16_costs"] = cost(recipe, model, emulated, faces)
            emulated.unlink()
            half.replace(model)
            steps.append(_finished(step, begun, model))
        if to == "tensorrt":
            profile = profile_of(recipe, batch, size)
            built = build_engine(model, folder / "model.engine", profile, options)
            steps.append(artifact.Step("tensorrt", built.seconds, built.bytes))
            more["engine"] = built.key
        if to == "triton":
            write_repository(model, recipe, folder, int(batch.split(":")[-1]))
            model.unlink()
        sources = [checkpoint] if checkpoint else recipe.weights_paths()
        facts = artifact.manifest(
            recipe, sources, steps, precision="fp32" if to == "onnx" else "fp16", **more
        )
        artifact.write(folder, recipe, facts)
    return facts


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


def face_batches(folder: Path, recipe: Recipe, most: int = 16) -> Iterable[np.ndarray]:
    """Up to `most` faces of a folder, spread evenly, as float32 (1, 3, S, S) of the recipe's first
    size. Raises InputError for a folder without pictures."""
    files = files_of(folder)
    for path in files[:: max(1, len(files) // most)][:most]:
        picture = bicubic(read_photo(path).picture, recipe.sizes[0])
        yield picture.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)


def _gate(recipe: Recipe, parity: Parity, exact: Path, other: Path, values: np.ndarray) -> None:
    if parity.psnr < FP16_GATE or parity.not_finite:
        where = first_departure(exact, other, values, FP16_GATE)
        raise ModelError(
            f"{recipe.name}: fp16 departs from fp32: {parity} (the gate is {FP16_GATE:.0f} dB), "
            f"first at {where or 'the output'}; not published"
        )


def _finished(step: artifact.Step, begun: float, model: Path) -> artifact.Step:
    step.seconds, step.bytes = time.monotonic() - begun, model.stat().st_size
    return step
