"""`fhrt export`: checkpoint to a checked ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    name: Annotated[str, typer.Argument(help="A name of `fhrt models`.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Weights (.pth); the bundled ones if not given."),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The ONNX file, or a folder for it.")
    ] = Path(),
    half: Annotated[
        bool,
        typer.Option("--half-weights", help="Store fp16 weights, and write them as NAME.pth too."),
    ] = False,
) -> None:
    """Write the ONNX file of a network, run beside PyTorch before it is published."""
    from fhrt.models import recipe
    from fhrt.runtime.session import need

    for module in ("torch", "onnx", "onnxscript"):
        need(module, "train")
    need("onnxruntime", "cpu")
    from fhrt.exporting.to_onnx import export_onnx, halve

    found = recipe(name)
    target = output / f"{name}.onnx" if output.is_dir() or not output.suffix else output
    target.parent.mkdir(parents=True, exist_ok=True)
    weights = checkpoint or found.weights_path()
    if half:
        rounded = target.with_suffix(".pth")
        halve(weights, rounded)
        weights = rounded
    parity = export_onnx(found, weights, target)
    print(f"{target}: {parity}")
