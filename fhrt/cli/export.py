"""`fhrt export`: checkpoint, or an ONNX file, to a checked ONNX, engine or Triton repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fhrt.exporting.engine import Progress
    from fhrt.exporting.sources import Source


def export(
    name: Annotated[
        str, typer.Argument(help="A name of `fhrt models`, or an ONNX file (with --recipe).")
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Weights (.pth) of your own; the recipe's if not given."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="A TOML that says what the ONNX file is.")
    ] = None,
    to: Annotated[str, typer.Option(help="onnx, fp16, bf16, int8, tensorrt or triton.")] = "onnx",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16 or int8, for tensorrt and triton.")
    ] = "fp16",
    faces: Annotated[
        Path | None, typer.Option(help="Aligned faces to compare on, beside seeded pictures.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="How many of --faces, at most.")] = 16,
    cost: Annotated[
        bool, typer.Option("--cost", help="Score what the precision costs, on --faces.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Pictures as the network will be given, for int8.")
    ] = None,
    batch: Annotated[
        str, typer.Option(help="MIN:OPT:MAX pictures a call, of an engine; the recipe's else.")
    ] = "",
    size: Annotated[
        str, typer.Option(help="SIDE or MIN:OPT:MAX pixels, of an engine; the recipe's else.")
    ] = "",
    library: Annotated[
        str, typer.Option(help="tensorrt or tensorrt_rtx; the first that is installed else.")
    ] = "",
    capability: Annotated[
        list[str] | None,
        typer.Option(help="A compute capability (86) that tensorrt_rtx builds for; repeatable."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE]",
            help="workspace=MIB, tf32, timing_cache=no, hardware=same|ampere+, version_compatible, "
            "refit, strip; repeatable.",
        ),
    ] = None,
    polygraphy: Annotated[
        bool, typer.Option("--polygraphy", help="Let Polygraphy compare, too; keeps its report.")
    ] = False,
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

    Writes OUTPUT/NAME (NAME-fp16, NAME-tensorrt, …): model.onnx, manifest.json, card.md.
    """
    from fhrt.errors import UsageError
    from fhrt.runtime.session import need

    for module in ("torch", "onnx", "onnxscript"):
        need(module, "train")
    need("onnxruntime", "cpu")
    from fhrt.exporting.builders import engine_options
    from fhrt.exporting.sources import export_onnx
    from fhrt.exporting.steps import Wish
    from fhrt.exporting.steps import export as export_artifact
    from fhrt.exporting.to_onnx import halve
    from fhrt.models import recipe as find_recipe

    if output.suffix == ".onnx":
        if to != "onnx" or faces or recipe or polygraphy:
            raise UsageError(f"{output}: one file is plain ONNX; name a folder for an artifact")
        output.parent.mkdir(parents=True, exist_ok=True)
        found = find_recipe(name)
        _say_unchecked(checkpoint)
        if half:
            checkpoint = halve(found, checkpoint, output.with_suffix(".pth"))
        print(f"{output}: {export_onnx(found, checkpoint, output)}")
        return
    if half:
        raise UsageError("--half-weights is for one file, -o NAME.onnx")
    options = engine_options(engine or [], library, tuple(capability or ()))
    wish = Wish(
        to, precision, faces, most, cost, calibration, batch, size, options, polygraphy
    )  # fmt: skip
    source = _source(name, checkpoint, recipe)
    target = output / (source.recipe.name if to == "onnx" else f"{source.recipe.name}-{to}")
    with _progress() as progress:
        facts = export_artifact(source, target, wish, progress)
    _report(facts)
    print(target)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Shows on a terminal what is being done, and how far a builder is."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("", spinner="line") as status:

        def show(what: str, done: int, of: int) -> None:
            status.update(f"{what} {done}/{of}" if of else what)

        yield show


def _source(name: str, checkpoint: Path | None, recipe: Path | None) -> Source:
    from fhrt import models
    from fhrt.errors import UsageError
    from fhrt.exporting.sources import Graph, Network

    if name.endswith(".onnx"):
        if recipe is None or checkpoint is not None:
            raise UsageError(f"{name}: an ONNX file is exported with --recipe TOML alone")
        return Graph(models.recipe_from_toml(recipe), Path(name))
    if recipe is not None:
        if checkpoint is None:
            raise UsageError("--recipe describes an ONNX file, or a --checkpoint")
        return Network(models.recipe_from_toml(recipe), checkpoint)
    found = models.recipe(name)
    _say_unchecked(checkpoint)
    return Network(found, checkpoint)


def _say_unchecked(checkpoint: Path | None) -> None:
    if checkpoint is not None:
        typer.echo(f"fhrt: {checkpoint} is your own file: no checksum is compared", err=True)


def _report(facts: dict[str, Any]) -> None:
    for step in facts["steps"]:
        print(f"{step['to']}: {step['bytes'] / 1e6:.1f} MB, {step['seconds']:.1f} s")
        for against, parity in step["parity"].items():
            print(f"  against {against}: largest {parity['largest']:.2g}, {parity['psnr']:.1f} dB")
    if "costs" in facts:
        print(
            "{} costs {psnr:.4f} dB and {ssim:.6f} SSIM, n {n:.0f}".format(
                facts["precision"], **facts["costs"]
            )
        )
