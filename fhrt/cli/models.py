"""`fhrt models`: what can be named with --model, and `fhrt models pull`: what metrics need."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a model.")] = False,
) -> None:
    """List the models, their licences, and whether their weights are here."""
    if context.invoked_subcommand is not None:
        return
    from fhrt.errors import ModelError
    from fhrt.models import recipes

    rows: list[dict[str, Any]] = []
    for name, recipe in recipes().items():
        try:
            path, here = str(recipe.onnx_path()), True
        except ModelError:
            path, here = "", False
        rows.append(
            {
                "name": name,
                "task": recipe.task,
                "scale": recipe.scale,
                "licence": recipe.licence,
                "commercial": recipe.commercial,
                "here": here,
                "path": path,
                "about": recipe.about,
            }
        )
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "task", "licence", "commercial use", "here", "about", box=None)
    for row in rows:
        words = {True: "yes", False: "no"}
        shown = ("name", "task", "licence", "commercial", "here", "about")
        table.add_row(*(words.get(row[key], str(row[key])) for key in shown))
    Console().print(table)


@app.command("pull")
def pull(
    name: Annotated[
        str | None, typer.Argument(help="What to fetch; without it, what there is.")
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Your use is one that its licence allows.")
    ] = False,
) -> None:
    """Fetch a network that metrics need: say what it is, download it, check it.

    It goes to FHRT_WEIGHTS, or to fhrt/weights in your cache folder.
    """
    from fhrt.quality.backbones import backbone, backbones
    from fhrt.quality.backbones import pull as fetch

    if name is None:
        from rich.console import Console
        from rich.table import Table

        table = Table("name", "licence", "commercial use", "here", "about", box=None)
        for found in backbones().values():
            words = ["yes" if true else "no" for true in (found.commercial, found.path().is_file())]
            table.add_row(found.name, found.licence, *words, found.about)
        Console().print(table)
        return
    print(backbone(name).facts(), flush=True)
    fetch(name, accept_licence)
