"""What a run goes on from and leaves behind: weights to start from, checkpoints. Read without
running anything in them, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fhrt.errors import InputError, ModelError
from fhrt.models import recipes
from fhrt.runtime.torch import load_weights, recipe_weights
from fhrt.training.config import Config

Weights = tuple[Path, dict[str, Tensor]]  # where they come from, and the state dict


def starting_weights(name: str, config: Config, beside: Path, file: Path | None) -> Weights | None:
    """What the run `name` starts from: the user's `file`, or else what its configuration calls
    `start`: a .pth file, the result of that run in the folder `beside`, or a model of the
    catalogue. None where there is neither.

    A file is laid out as the catalogue says of its network, or is a plain state dict. Raises
    InputError or ModelError for what is missing or cannot be read.
    """
    known, start = recipes(), config.start
    if start.endswith(".pth") and file is None:
        file = Path(start)
        if not file.is_file():
            raise InputError(f"{start}: no such weights to start from")
    if file is not None:
        network = config.options.get("network", config.system)
        layout = next((model for model in known.values() if model.network == network), None)
        return file, recipe_weights(layout, file) if layout else load_weights(file)
    if not start:
        return None
    trained = beside / start / f"{start}.pth"
    if trained.is_file():
        return trained, load_weights(trained)
    if start not in known:
        raise InputError(f"{trained}: not there; `fhrt train {start}` comes first")
    if known[start].checkpoint.files and not known[start].published().here():
        raise ModelError(
            f"{name} starts from weights, and there are none here: give them with --checkpoint "
            f"FILE, or fetch them with `fhrt models pull {start}`"
        )
    return known[start].weights_path(), recipe_weights(known[start])


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
