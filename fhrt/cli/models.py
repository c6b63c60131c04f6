"""`fhrt models`: what can be named with --model."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a model.")] = False,
) -> None:
    """List the models, their licences, and whether their weights are here."""
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
