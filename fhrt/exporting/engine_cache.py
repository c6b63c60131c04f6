"""Engines that are kept: one that no longer fits is built anew, once, and it is said why."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from fhrt.errors import InputError
from fhrt.exporting.builders import DEFAULTS, EngineOptions
from fhrt.exporting.engine import EngineFacts, Progress, build_engine, engine_key
from fhrt.exporting.profile import Profile
from fhrt.pictures import write_atomically
from fhrt.weights import cache_folder

SIDE_BY_SIDE = ("gpu", "compute_capability", "library", "profile", "options")


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
