"""An artifact: a folder with a model, a manifest that says how it was made and checked, and a card.

It appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fhrt.errors import InputError
from fhrt.models import Recipe

PACKAGES = ("fhrt", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass
class Step:
    """One conversion: what it made, how many seconds it and its comparisons took, how large it is,
    and what was compared."""

    to: str
    seconds: float = 0.0
    bytes: int = 0
    parity: dict[str, dict[str, float]] = field(default_factory=dict)

    def finished(self, begun: float, made: Path) -> Step:
        """With its time, from `begun` (time.monotonic) till now, and its size."""
        return replace(self, seconds=time.monotonic() - begun, bytes=made.stat().st_size)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The version of Python, and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def manifest(
    recipe: Recipe, sources: list[Path], published: bool, steps: list[Step], **more: Any
) -> dict[str, Any]:
    """What manifest.json holds. published: whether the sources are the recipe's own, checked
    against their checksums where those are known, or files of the user's."""
    metadata = json.dumps(recipe.metadata(), sort_keys=True).encode()
    return {
        "name": recipe.name,
        "recipe": recipe.metadata(),
        "recipe_sha256": hashlib.sha256(metadata).hexdigest(),
        "licence": recipe.licence,
        "commercial": recipe.commercial,
        "made_of": {path.name: sha256(path) for path in sources},
        "published": published,
        "versions": versions(PACKAGES),
        "machine": platform.platform(),
        "steps": [asdict(step) for step in steps],
        **more,
    }


def card(recipe: Recipe, facts: dict[str, Any]) -> str:
    """card.md: for people, what manifest.json holds for programs."""
    lines = [f"# {recipe.name}", "", f"{recipe.about[:1].upper()}{recipe.about[1:]}.", ""]
    use = "allowed" if recipe.commercial else "not allowed"
    lines += [f"- Licence: {recipe.licence}; commercial use {use}."]
    whose = "the recipe's own" if facts["published"] else "a file of the user's, not checked"
    lines += [
        f"- Made of `{file}` ({whose}), sha256 `{digest}`."
        for file, digest in facts["made_of"].items()
    ]
    for step in facts["steps"]:
        size = f"{step['bytes'] / 1e6:.1f} MB, {step['seconds']:.1f} s"
        seen = "" if step["parity"] else "; not run here, thus compared with nothing"
        lines.append(f"- {step['to']}: {size}{seen}")
        for against, parity in step["parity"].items():
            apart = f"largest difference {parity['largest']:.2g}, {parity['psnr']:.0f} dB"
            lines.append(f"  - against {against}, {parity['inputs']:.0f} inputs: {apart}")
    return "\n".join(lines) + "\n"


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target`, which takes its place when the block ends well, and is
    removed when it does not. Raises InputError where it cannot be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
    try:
        yield beside
        for path in beside.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        beside.chmod(0o755)
        old = target.with_name(f".{target.name}-old-{os.getpid()}")
        if target.exists():
            target.rename(old)
        beside.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write(folder: Path, recipe: Recipe, facts: dict[str, Any]) -> None:
    """manifest.json and card.md."""
    text = json.dumps(facts, indent=2) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    (folder / "card.md").write_text(card(recipe, facts), encoding="utf-8")
