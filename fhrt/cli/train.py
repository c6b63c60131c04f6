"""`fhrt train`: train one or all of the systems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fhrt.training.config import Config
    from fhrt.training.devices import Devices


def train(
    names: Annotated[
        list[str],
        typer.Argument(help="Systems to train, one after the other, or `all`; see --list."),
    ],
    data: Annotated[
        Path,
        typer.Option("--data", help="Faces: a folder, a zip or a CSV (see `fhrt data prepare`)."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where to write; a folder NAME a system.")
    ] = Path("runs"),
    config: Annotated[
        Path | None, typer.Option("--config", help="A TOML in place of the system's own.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Weights (.pth) to start from, of the same network."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in place of the configuration's.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="As many steps as fit, a system; the pace is measured first."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the configuration's.")] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes, one a GPU.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, each with as many devices.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the checkpoint in the output folder.")
    ] = False,
) -> None:
    """Train systems on faces; needs fhrt[train].

    Writes, a system, OUTPUT/NAME/checkpoint.pt, NAME.pth (averaged weights), log.csv, events for
    TensorBoard and validation/STEP.png. A run that is killed and resumed gives the same numbers as
    one that was not.
    """
    from dataclasses import replace

    from fhrt.errors import UsageError, known_names
    from fhrt.runtime.session import need

    for module in ("torch", "lightning_fabric", "tensorboard"):
        need(module, "train")
    from fhrt.training import config as configs
    from fhrt.training.devices import Devices

    if accelerator not in (known := ("auto", "cpu", "cuda")):
        raise UsageError(f"unknown accelerator {accelerator!r}{known_names(accelerator, known)}")
    if resume and (config or checkpoint or steps or minutes or seed is not None):
        raise UsageError(
            "--resume goes on as the run began: no --config, --checkpoint, --steps, --minutes, "
            "--seed"
        )
    if steps and minutes:
        raise UsageError("--steps and --minutes exclude each other")
    chosen = names
    if names == ["all"]:
        chosen, left_out = in_order(configs.names())
        for name in left_out:
            typer.echo(
                f"fhrt: {name} is left out: it goes on from other people's weights; "
                f"`fhrt train {name} --checkpoint FILE`",
                err=True,
            )
    if (config or checkpoint) and len(chosen) > 1:
        raise UsageError(f"{'--config' if config else '--checkpoint'} is for one system")
    # all are read before any work; what is resumed has its configuration in the checkpoint
    settings = [None if resume else configs.read_config(name, config) for name in chosen]
    where = Devices(accelerator, devices, nodes, minutes)
    for name, of_it in zip(chosen, settings, strict=True):
        if of_it and steps is not None:
            of_it = replace(of_it, steps=steps)
        if of_it and seed is not None:
            of_it = replace(of_it, seed=seed)
        _one(name, data, output / name, of_it, resume, where, checkpoint)


def in_order(names: list[str]) -> tuple[list[str], list[str]]:
    """Every system after the one whose weights it starts from; and those that are left out, as they
    start from weights that none of them makes."""
    from fhrt.training.config import read_config

    starts = {name: read_config(name).start for name in names}
    left_out = [name for name in names if starts[name] and starts[name] not in names]
    chosen = [name for name in names if name not in left_out]
    return sorted(chosen, key=lambda name: (bool(starts[name]), name)), left_out


def _one(
    name: str,
    data: Path,
    output: Path,
    config: Config | None,
    resume: bool,
    devices: Devices,
    checkpoint: Path | None,
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from fhrt.training import train as trainer
    from fhrt.training.log import Reports

    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(name, total=config.steps if config else None)

        def report(step: int, figures: dict[str, float]) -> None:
            shown = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
            console.print(f"{step:7}  {shown}", highlight=False, soft_wrap=True)

        def watch(step: int, steps: int) -> None:
            bar.update(task, completed=step, total=steps)

        def say(line: str) -> None:
            console.print(f"fhrt: {line}", highlight=False, soft_wrap=True)

        weights = trainer.train(
            name,
            data,
            output,
            config,
            resume,
            Reports(report, watch, say),
            devices,
            checkpoint,
        )
    print(weights)
