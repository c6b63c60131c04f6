"""The catalogue: a recipe (export/*.toml) a model, and where its weights lie."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fhrt.errors import ModelError, UsageError, known_names

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Recipe:
    """What is known of a model before it is opened.

    task: restore, upscale, unmask, detect or landmarks. network: its name in `fhrt.networks`, and
    options what it is built with. scale: output size over input size. sizes: sides in pixels of the
    square pictures it was made to be given. multiple: what height and width must be divisible by;
    where it is the only size, no other will do. protocol: what `fhrt eval --all` scores it on.
    steps, trained_on: of the training of the bundled weights. file: the ONNX file where it is not
    weights/NAME.onnx.
    """

    name: str
    about: str
    task: str
    network: str
    licence: str
    commercial: bool
    scale: int = 1
    sizes: tuple[int, ...] = ()
    multiple: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    protocol: str = ""
    steps: int = 0
    trained_on: str = ""
    file: str = ""

    @property
    def fixed(self) -> bool:
        """Whether it takes pictures of one size only."""
        return self.sizes == (self.multiple,)

    def onnx_path(self) -> Path:
        """The ONNX file. Raises ModelError where it is missing."""
        return Path(self.file) if self.file else _weights(f"{self.name}.onnx")

    def weights_path(self) -> Path:
        """The torch weights. Raises ModelError where they are missing."""
        if self.file:
            raise ModelError(
                f"{self.file}: an ONNX file holds no torch weights; use --runtime onnx"
            )
        return _weights(f"{self.name}.pth")

    def metadata(self) -> dict[str, str]:
        """What an exported ONNX file carries in its metadata_props, all as JSON."""
        return {f.name: json.dumps(getattr(self, f.name)) for f in fields(self) if f.name != "file"}


def recipes() -> dict[str, Recipe]:
    """Every recipe of the catalogue, by name, in the order of the names."""
    found = {}
    for path in sorted(data_folder("export").glob("*.toml")):
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path}: no TOML: {error}") from error
        found[path.stem] = _recipe(path.stem, values, path)
    return found


def recipe(name: str) -> Recipe:
    """The recipe of a model of the catalogue. Raises UsageError for an unknown name."""
    known = recipes()
    if name not in known:
        raise UsageError(f"unknown model {name!r}{known_names(name, known)}")
    return known[name]


def recipe_from_metadata(path: Path, properties: dict[str, str]) -> Recipe:
    """The recipe that an ONNX file carries (see `Recipe.metadata`). Raises ModelError."""
    if "name" not in properties:
        raise ModelError(f"{path}: carries no recipe; make it with `fhrt export`")
    try:
        values = {key: json.loads(value) for key, value in properties.items()}
    except ValueError as error:
        raise ModelError(f"{path}: its recipe cannot be read: {error}") from error
    return _recipe(str(values["name"]), values | {"file": str(path)}, path)


def data_folder(name: str) -> Path:
    """`export` or `weights`: at the top of a checkout, inside the package in a wheel."""
    inside = PACKAGE / "_data" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def _weights(file: str) -> Path:
    folders = [data_folder("weights")]
    if own := os.environ.get("FHRT_WEIGHTS"):
        folders.insert(0, Path(own))
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise ModelError(f"{file} is in none of: {', '.join(map(str, folders))}")


def _recipe(name: str, values: dict[str, object], origin: Path) -> Recipe:
    known = [f.name for f in fields(Recipe)]
    for key in values:
        if key not in known:
            raise ModelError(f"{origin}: unknown key {key!r}{known_names(key, known)}")
    values = {"name": name} | values
    if isinstance(sizes := values.get("sizes"), list):
        values["sizes"] = tuple(sizes)
    try:
        return Recipe(**values)  # type: ignore[arg-type]
    except TypeError as error:
        raise ModelError(f"{origin}: {error}") from error
