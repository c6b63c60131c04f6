"""`fhrt models`: what there is, under which licence, and whether it is here; fetching, checking."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fhrt.fetch import Progress
    from fhrt.models import Recipe
    from fhrt.weights import Published

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of `fhrt models`.")]


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a model.")] = False,
) -> None:
    """List the models, their licences, and whether their files are here."""
    if context.invoked_subcommand is not None:
        return
    from fhrt.models import Recipe

    rows: list[dict[str, Any]] = []
    for entry in _catalogue().values():
        published, paths = _published(entry), entry.here()
        task, scale = (entry.task, entry.scale) if isinstance(entry, Recipe) else ("metric", None)
        rows.append(
            {
                "name": published.name,
                "task": task,
                "scale": scale,
                "licence": published.licence,
                "commercial": published.commercial,
                "here": bool(paths),
                "path": str(paths[0]) if paths else "",
                "about": published.about,
            }
        )
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Column, Table

    # One line a model: in a terminal what is too long is cut, and elsewhere there is room.
    console = Console(width=None if sys.stdout.isatty() else 250)
    name, about = Column("name", no_wrap=True), Column("about", no_wrap=True)
    table = Table(name, "task", "licence", "commercial", "here", about, box=None)
    for row in rows:
        words = {True: "yes", False: "no"}
        shown = ("name", "task", "licence", "commercial", "here", "about")
        table.add_row(*(words.get(row[key], str(row[key])) for key in shown))
    console.print(table)


@app.command("pull")
def pull(
    names: Names,
    accept_licence: Annotated[
        bool,
        typer.Option(
            "--accept-licence", help="Your use is one that the licence allows; say it once."
        ),
    ] = False,
    offline: Annotated[
        bool,
        typer.Option("--offline", help="Fetch nothing, check what is here. Or FHRT_OFFLINE=1."),
    ] = False,
) -> None:
    """Say what a model is, fetch its files, check them.

    They go to FHRT_WEIGHTS, or to fhrt/weights in your cache folder. A fetch that broke off goes on
    from where it was.
    """
    from fhrt.errors import ModelError
    from fhrt.weights import pull as fetch_files

    for name, entry in _chosen(names).items():
        published = _published(entry)
        print(_facts(published), flush=True)
        with _bars() as progress:
            paths = fetch_files(published, accept_licence, offline, progress)
        if not (paths or entry.here()):
            raise ModelError(f"{name}: nobody publishes files for it; export it with --checkpoint")


@app.command("verify")
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Without: all that is here.")
    ] = None,
) -> int:
    """Compare the files that are here with their checksums: ok, changed, or unknown.

    Unknown are those that nobody states a checksum of, as for what is trained or exported here.
    Exit code 1 where one has changed, or a model that was named is not here.
    """
    from fhrt.weights import WeightFile
    from fhrt.weights import verify as check

    failed = False
    for name, entry in _chosen(names).items():
        known = {file.file: file for file in _published(entry).files}
        paths = entry.here()
        if names and not paths:
            failed = True
            print(f"missing  {name}")
        for path in paths:
            state, digest, _ = check(known.get(path.name, WeightFile(path.name)))
            failed |= state == "changed"
            print(f"{state:8} {digest}  {path}")
    return int(failed)


@app.command("path")
def path(name: Annotated[str, typer.Argument(help="A name of `fhrt models`.")]) -> None:
    """Print where the files of a model lie, a line each: the ONNX file first, then the weights."""
    from fhrt.errors import ModelError

    paths = _chosen([name])[name].here()
    if not paths:
        raise ModelError(f"{name} is not here; `fhrt models pull {name}` fetches what there is")
    for found in paths:
        print(found)


def _catalogue() -> dict[str, Recipe | Published]:
    from fhrt.models import recipes
    from fhrt.quality.backbones import backbones

    return {**recipes(), **backbones()}


def _chosen(names: list[str] | None) -> dict[str, Recipe | Published]:
    """The models of these names, or all. Raises UsageError for an unknown one."""
    from fhrt.errors import UsageError, known_names

    known = _catalogue()
    for name in names or ():
        if name not in known:
            raise UsageError(f"unknown model {name!r}{known_names(name, known)}")
    return {name: known[name] for name in names or known}


def _published(entry: Recipe | Published) -> Published:
    from fhrt.models import Recipe

    return entry.published() if isinstance(entry, Recipe) else entry


def _facts(published: Published) -> str:
    """What to know of a model before it is fetched, one line a fact."""
    lines = [
        ("name", published.name),
        ("about", published.about),
        ("licence", published.licence),
        ("commercial use", "yes" if published.commercial else "no"),
    ]
    for file in published.files:
        lines.append(("file", file.file))
        lines.append(("url", file.url or "none is known; bring your own file"))
        lines.append(("sha256", file.sha256 or "recorded on first use"))
    return "\n".join(f"{key + ':':<16}{value}" for key, value in lines)


@contextmanager
def _bars() -> Iterator[Callable[[str], Progress]]:
    """A bar a file on stderr, where a person looks at it."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    columns = [rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn()]
    columns += [rich.TransferSpeedColumn(), rich.TimeRemainingColumn()]
    shown = console.is_terminal
    with rich.Progress(*columns, console=console, transient=True, disable=not shown) as bars:

        def begin(file: str) -> Progress:
            task = bars.add_task(file, total=None)
            return lambda here, there: bars.update(task, completed=here, total=there)

        yield begin
