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

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


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
class Values:
    """The values that a graph of somebody else takes or gives: (RGB in [0, 1] − mean) / std, one of
    each a channel or for all, in the order rgb or bgr. `fhrt export` folds this into the graph."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: str = "rgb"

    def __post_init__(self) -> None:
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"order {self.order!r}: it is rgb or bgr")
        if {len(self.mean), len(self.std)} - {1, 3} or 0 in self.std:
            raise ValueError("mean and std have one value or three, and std no 0")


@dataclass(frozen=True)
class Conversion:
    """How a model is exported.

    opset: of the ONNX that is traced from a network. batch, size: the profile of an engine, each
    MIN:OPT:MAX; no size for the sizes of the recipe. keep_fp32: what stays fp32 at a lower
    precision, with * for any letters: modules of a network (beside what it keeps itself, by its
    `.float()`), names or operators of the nodes of a graph. gates: by precision (fp32: ONNX against
    what it came from), the least PSNR in dB between the outputs, for a range of 1. input, output:
    of a graph of somebody else.
    """

    opset: int = 20
    batch: str = "1:4:8"
    size: str = ""
    keep_fp32: tuple[str, ...] = ()
    gates: dict[str, float] = field(default_factory=dict)
    input: Values = Values()
    output: Values = Values()

    def __post_init__(self) -> None:
        for precision in self.gates:
            if precision not in PRECISIONS:
                raise ValueError(f"gate of {precision!r}{known_names(precision, PRECISIONS)}")


@dataclass(frozen=True)
class Recipe:
    """What is known of a model before it is opened.

    task: restore, upscale, unmask, detect, landmarks or parse. network: its name in
    `fhrt.networks`, and options what it is built with; `graph` where there is an ONNX file alone.
    scale: output size over input size. sizes: sides in pixels of the square pictures it was made
    to be given. multiple: what height and width must be divisible by; where it is the only size,
    no other will do. protocol: what `fhrt eval --all` scores it on. steps, trained_on: of the
    training of the bundled weights. checkpoint: where the weights are other people's. export: how
    it is exported. file: the ONNX file where it is not NAME.onnx.
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
    export: Conversion = Conversion()
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
        others = ("file", "checkpoint", "export", "protocol", "steps", "trained_on")
        names = [f.name for f in fields(self) if f.name not in others]
        return {name: json.dumps(getattr(self, name)) for name in names}


Made = TypeVar("Made", Recipe, Checkpoint, Conversion, Values, WeightFile)


def recipes() -> dict[str, Recipe]:
    """Every recipe of the catalogue, by name, in the order of the names."""
    paths = data_folder("export").glob("*.toml")
    return {path.stem: recipe_from_toml(path) for path in sorted(paths, key=lambda path: path.stem)}


def recipe_from_toml(path: Path) -> Recipe:
    """The recipe in a TOML file; its name is the file's. Raises ModelError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path}: no TOML: {error}") from error
    return _recipe(path.stem, values, path)


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
    if "checkpoint" in given:
        section = dict(given["checkpoint"])
        section["files"] = tuple(_made(WeightFile, f, origin) for f in section.get("files", ()))
        given["checkpoint"] = _made(Checkpoint, section, origin)
    if "export" in given:
        section = dict(given["export"])
        for side in ("input", "output"):
            section[side] = _made(Values, section.get(side, {}), origin)
        given["export"] = _made(Conversion, section, origin)
    return _made(Recipe, given, origin)


def _made(kind: type[Made], values: dict[str, Any], origin: Path) -> Made:
    """An instance of a dataclass, made of what a file says. Raises ModelError."""
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise ModelError(f"{origin}: unknown key {key!r}{known_names(key, known)}")
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    try:
        return kind(**values | lists)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{origin}: {error}") from error
