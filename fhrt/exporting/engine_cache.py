"""Engines that are kept: one that no longer fits is built anew, once, and it is said why.

`open_fitting` is how the rest of fhrt opens a model; an engine for another GPU or release than are
here is replaced there by one that is built from the ONNX beside it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from fhrt.errors import EngineMisfit, InputError
from fhrt.exporting.builders import DEFAULTS, EngineOptions
from fhrt.exporting.engine import EngineFacts, Progress, build_engine, engine_key
from fhrt.exporting.profile import Profile
from fhrt.models import Recipe
from fhrt.pictures import write_atomically
from fhrt.runtime.session import Session, find_recipe, open_session, parse_device
from fhrt.weights import cache_folder

SIDE_BY_SIDE = ("gpu", "compute_capability", "library", "profile", "options")


def open_fitting(
    model: str | Path | Recipe, device: str = "auto", runtime: str = "auto", threads: int = 0
) -> Session:
    """As `runtime.session.open_session`; but where the engine of an artifact does not fit the GPU,
    driver or library that are here, the one for them is opened, which the cache keeps, and which is
    built first, with a RuntimeWarning that says why, where it is not there yet. Raises as
    `open_session` and `build_engine`."""
    try:
        return open_session(model, device, runtime, threads)
    except EngineMisfit as error:
        wish = _wish(Path(find_recipe(model).file).parent)
        if wish is None:
            raise
        return _reopen(find_recipe(model), parse_device(device)[1], error, *wish)


def _wish(folder: Path) -> tuple[Profile, EngineOptions, str] | None:
    """What the engine of an artifact was to be, for the machine it is opened on, and its precision;
    None where the manifest does not say."""
    try:
        facts: Any = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        ranges = {name: tuple(sizes) for name, sizes in facts["build"]["profile"].items()}
        options = EngineOptions(**facts["build"]["options"])
        library, precision = str(facts["engine"]["library"]), str(facts["precision"])
        return (
            Profile(**ranges),
            replace(options, library=library, compute_capabilities=()),
            precision,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _reopen(
    recipe: Recipe,
    index: int,
    why: EngineMisfit,
    profile: Profile,
    options: EngineOptions,
    precision: str,
) -> Session:
    from fhrt.runtime.tensorrt import TensorRtSession

    onnx, refused = Path(recipe.file), ""
    target = engine_path(onnx, profile, options)
    while True:
        facts, built = engine_for(onnx, target, profile, options, refused=refused)
        if built:
            warnings.warn(
                f"{onnx.with_name('model.engine')}: {refused or why.reason}; built anew of "
                f"{onnx.name} in {facts.seconds:.0f} s, and kept",
                RuntimeWarning,
                stacklevel=3,
            )
        try:
            return TensorRtSession(recipe, target, facts.key, precision, index)
        except EngineMisfit as error:
            if built:
                raise
            refused = error.reason  # of the kept one, such as by another driver


def engine_for(
    onnx: Path,
    target: Path,
    profile: Profile,
    options: EngineOptions = DEFAULTS,
    progress: Progress | None = None,
    refused: str = "",
) -> tuple[EngineFacts, str]:
    """The facts of the engine at `target`, and why it was built just now; "" if it was not.

    It is built where there is none, where its key (`engine_key`, kept beside it in
    TARGET.json) is another one now, and where it was `refused`: what its runtime said. Of
    several processes that ask for one target, one builds. Raises as `build_engine`; what was at the
    target is then as it was.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock")).acquire()
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
    with lock:
        key = engine_key(onnx, profile, options)
        kept = read_facts(target)
        reason = refused or _misfit(target, kept, key)
        if kept is not None and not reason:
            return kept, ""
        facts = build_engine(onnx, target, profile, options, progress)
        text = json.dumps(asdict(facts), indent=2) + "\n"
        write_atomically(_note(target), text.encode())
    return facts, reason


def engine_path(onnx: Path, profile: Profile, options: EngineOptions = DEFAULTS) -> Path:
    """Where the cache keeps the engine of a graph. Those of several GPUs, libraries, profiles and
    options lie side by side; one for a new driver, release or model takes the old one's place."""
    key = engine_key(onnx, profile, options)
    parts = [str(onnx.resolve()), *(key[name] for name in SIDE_BY_SIDE)]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]
    return cache_folder() / "engines" / f"{onnx.stem}-{digest}.engine"


def read_facts(engine: Path) -> EngineFacts | None:
    """What is kept beside an engine; None where there is nothing that can be read."""
    try:
        return EngineFacts(**json.loads(_note(engine).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _misfit(engine: Path, kept: EngineFacts | None, key: dict[str, str]) -> str:
    if not engine.is_file():
        return "there is no engine yet"
    if kept is None:
        return "it is not known how the engine was built"
    if engine.stat().st_size != kept.bytes:
        return f"the engine has {engine.stat().st_size} bytes, not the {kept.bytes} it was given"
    changed = [name for name in key if kept.key.get(name) != key[name]]
    if "model" in changed:
        return "the model is another one now"
    return "; ".join(
        f"{name.replace('_', ' ')} was {kept.key.get(name) or 'none'}, is {key[name] or 'none'}"
        for name in changed
    )


def _note(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")
