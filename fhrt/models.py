"""The catalogue: a recipe (export/*.toml) a model, and where its weights lie."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from fhrt.errors import ModelError, UsageError, known_names
from fhrt.weights import (
    Published,
    WeightFile,
    cache_folder,
    check_licence,
    data_folder,
    locate,
    need,
)


@dataclass(frozen=True)
class Checkpoint:
    """How other people publish the weights of a model.

    state_keys: the first of them that a file has holds the state dict; where it has none, the file
    is the state dict itself. prefix: what is taken off the keys that begin with it. blend: where
    there are two files, the share of the first in the weights that are used, 0 to 1; the rest is
    the second's (deep network interpolation, Wang et al. 2019).
    """

    files: tuple[WeightFile, ...] = ()
    state_keys: tuple[str, ...] = ()
    prefix: str = ""
    blend: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """What is known of a model before it is opened.

    task: restore, upscale, unmask, detect, landmarks or parse. network: its name in
    `fhrt.networks`, and options what it is built with. scale: output size over input size. sizes:
    sides in pixels of the square pictures it was made to be given. multiple: what height and width
    must be divisible by; where it is the only size, no other will do. protocol: what `fhrt eval
    --all` scores it on. steps, trained_on: of the training of the bundled weights. checkpoint:
    where the weights are other people's. file: the ONNX file where it is not NAME.onnx.
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
    checkpoint: Checkpoint = Checkpoint()
    file: str = ""

    @property
    def fixed(self) -> bool:
        """Whether it takes pictures of one size only."""
        return self.sizes == (self.multiple,)

    def onnx_path(self) -> Path:
        """The ONNX file, to use it. Raises ModelError where it is missing, UsageError where its
        licence is to be accepted first (see `weights.check_licence`)."""
        if self.file:
            return Path(self.file)
        check_licence(self.published())
        made = cache_folder() / f"{self.name}.onnx"
        remedy = f"`fhrt export {self.name} -o {made}` makes it from weights"
        if self.checkpoint.files and not self.published().here():
            remedy = f"first, `fhrt models pull {self.name}` fetches its weights; then, {remedy}"
        return need(f"{self.name}.onnx", remedy)

    def weights_paths(self) -> list[Path]:
        """The torch weights, to use them: one file, or the two of a blend. Raises as `onnx_path`,
        and ModelError for an ONNX file, which has none."""
        if self.file:
            raise ModelError(
                f"{self.file}: an ONNX file holds no torch weights; use --runtime onnx"
            )
        check_licence(self.published())
        names = [file.file for file in self.checkpoint.files]
        if names:
            return [need(name, f"`fhrt models pull {self.name}` fetches it") for name in names]
        return [need(f"{self.name}.pth", "`fhrt train` makes such, or put yours there")]

    def weights_path(self) -> Path:
        """The torch weights, or the first file of a blend; see `weights_paths`."""
        return self.weights_paths()[0]

    def here(self) -> list[Path]:
        """The ONNX file and the weights that are here, whether they may be used or not."""
        own = [locate(f"{self.name}.onnx")]
        own += self.published().here() if self.checkpoint.files else [locate(f"{self.name}.pth")]
        return [path for path in own if path is not None]

    def published(self) -> Published:
        """What there is to fetch, and under which licence."""
        files = self.checkpoint.files
        return Published(self.name, self.about, self.licence, self.commercial, files)

    def metadata(self) -> dict[str, str]:
        """What an exported ONNX file carries in its metadata_props, all as JSON: what is needed to
        run it."""
        others = ("file", "checkpoint", "protocol", "steps", "trained_on")
        names = [f.name for f in fields(self) if f.name not in others]
        return {name: json.dumps(getattr(self, name)) for name in names}


Made = TypeVar("Made", Recipe, Checkpoint, WeightFile)


def recipes() -> dict[str, Recipe]:
    """Every recipe of the catalogue, by name, in the order of the names."""
    found = {}
    for path in sorted(data_folder("export").glob("*.toml"), key=lambda path: path.stem):
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


def _recipe(name: str, values: dict[str, Any], origin: Path) -> Recipe:
    given = {"name": name} | values
    if isinstance(sizes := given.get("sizes"), list):
        given["sizes"] = tuple(sizes)
    if "checkpoint" in given:
        section = dict(given["checkpoint"])
        section["files"] = tuple(_made(WeightFile, f, origin) for f in section.get("files", ()))
        section["state_keys"] = tuple(section.get("state_keys", ()))
        given["checkpoint"] = _made(Checkpoint, section, origin)
    return _made(Recipe, given, origin)


def _made(kind: type[Made], values: dict[str, Any], origin: Path) -> Made:
    """An instance of a dataclass, made of what a file says. Raises ModelError."""
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise ModelError(f"{origin}: unknown key {key!r}{known_names(key, known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ModelError(f"{origin}: {error}") from error
