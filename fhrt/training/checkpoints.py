"""Checkpoints of a run: read without running anything in them, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from fhrt.errors import InputError
from fhrt.runtime.torch import load_weights


def read_checkpoint(path: Path, name: str) -> dict[str, Any]:
    """A checkpoint of the run `name`. Raises InputError where it is missing or another system's,
    ModelError where it cannot be read or holds code, which is never run."""
    if not path.exists():
        raise InputError(f"{path}: nothing to resume")
    state = load_weights(path)
    if not {"name", "config", "step"} <= state.keys():
        raise InputError(f"{path}: no checkpoint of `fhrt train`")
    if state["name"] != name:
        raise InputError(f"{path}: a checkpoint of {state['name']!r}, not of {name!r}")
    return state


def write_atomically(path: Path, state: dict[str, Any]) -> None:
    """torch.save beside the path, flushed to the disk, then renamed onto it. Raises InputError,
    and leaves what was there, where it cannot be written."""
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        beside.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be written: {reason}; the one before is whole") from error
