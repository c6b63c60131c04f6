"""`fhrt train`: train one of the systems."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    name: Annotated[str, typer.Argument(help="restore, detector or landmarks.")],
    data: Annotated[Path, typer.Option("--data", help="The folder that holds faces/ and photos/.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write; runs/NAME by default.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML in place of the system's own.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in place of the configuration's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the checkpoint in the output folder.")
    ] = False,
) -> None:
    """Train a system on a folder of data; needs fhrt[train].

    Writes checkpoint.pt, NAME.pth (averaged weights) and log.csv. A run that is killed and resumed
    gives the same numbers as one that was not.
    """
    from dataclasses import replace

    from fhrt.runtime.session import need

    need("torch", "train")
    from fhrt.training import train as trainer

    settings = trainer.read_config(name, config)
    if steps is not None:
        settings = replace(settings, steps=steps)

    def report(step: int, figures: dict[str, float]) -> None:
        shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"{step:6}/{settings.steps}  {shown}", file=sys.stderr, flush=True)

    folder = output or Path("runs") / name
    print(trainer.train(name, data, folder, settings, resume, report))
