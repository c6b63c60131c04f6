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
    to: Annotated[str, typer.Option(help="onnx, fp16, tensorrt or triton.")] = "onnx",
    faces: Annotated[
        Path | None, typer.Option(help="Aligned faces to compare on, beside seeded pictures.")
    ] = None,
    truth: Annotated[
        bool, typer.Option("--cost", help="Score what fp16 costs on --faces, on its protocol.")
    ] = False,
    batch: Annotated[
        str, typer.Option(help="MIN:OPT:MAX pictures a call, of an engine.")
    ] = "1:4:8",
    size: Annotated[
        str, typer.Option(help="SIDE or MIN:OPT:MAX pixels, of an engine; the recipe's own else.")
    ] = "",
    library: Annotated[
        str, typer.Option(help="tensorrt or tensorrt_rtx; the first that is installed else.")
    ] = "",
    capability: Annotated[
        list[str] | None,
        typer.Option(help="A compute capability (86) that tensorrt_rtx builds for; repeatable."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="A folder for the artifact's, or NAME.onnx alone."),
    ] = Path("artifacts"),
    half: Annotated[
        bool,
        typer.Option("--half-weights", help="Store fp16 weights, and write them as NAME.pth too."),
    ] = False,
) -> None:
    """Checkpoint to ONNX, to FP16, to an engine, each run beside the one before; what differs is
    not published.

    Writes OUTPUT/NAME (NAME-fp16, NAME-tensorrt, NAME-triton): model.onnx, manifest.json, card.md.
    """
    from fhrt.errors import UsageError
    from fhrt.models import recipe
    from fhrt.runtime.session import need

    for module in ("torch", "onnx", "onnxscript"):
        need(module, "train")
    need("onnxruntime", "cpu")
    from fhrt.exporting.builders import EngineOptions
    from fhrt.exporting.steps import export as export_artifact
    from fhrt.exporting.to_onnx import export_onnx, halve

    found = recipe(name)
    if output.suffix == ".onnx":
        if to != "onnx" or faces:
            raise UsageError(f"{output}: one file is plain ONNX; name a folder for an artifact")
        output.parent.mkdir(parents=True, exist_ok=True)
        if half:
            checkpoint = halve(found, checkpoint, output.with_suffix(".pth"))
        print(f"{output}: {export_onnx(found, checkpoint, output)}")
        return
    if half:
        raise UsageError("--half-weights is for one file, -o NAME.onnx")
    target = output / (name if to == "onnx" else f"{name}-{to}")
    facts = export_artifact(
        found,
        checkpoint,
        target,
        to,
        faces,
        truth,
        batch,
        size,
        EngineOptions(library, compute_capabilities=tuple(capability or ())),
    )
    for step in facts["steps"]:
        print(f"{step['to']}: {step['bytes'] / 1e6:.1f} MB, {step['seconds']:.1f} s")
        for against, parity in step["parity"].items():
            print(f"  against {against}: largest {parity['largest']:.2g}, {parity['psnr']:.1f} dB")
    if "fp16_costs" in facts:
        print(
            "fp16 costs {psnr:.4f} dB and {ssim:.6f} SSIM, n {n:.0f}".format(**facts["fp16_costs"])
        )
    print(target)
