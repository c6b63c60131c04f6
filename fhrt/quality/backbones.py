"""The networks and parameters that metrics and losses need, all of them other people's.

`backbones.toml` states the facts; `fhrt models pull|verify|path` treats them as any other model.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from fhrt.errors import UsageError, known_names
from fhrt.weights import Published, WeightFile, check_licence, need

TABLE = Path(__file__).with_name("backbones.toml")


def backbones() -> dict[str, Published]:
    """All of them, by name; each is one file."""
    found = {}
    for name, facts in tomllib.loads(TABLE.read_text(encoding="utf-8")).items():
        file = {key: facts.pop(key) for key in ("file", "url", "sha256", "member") if key in facts}
        found[name] = Published(name=name, files=(WeightFile(**file),), **facts)
    return found


def find(name: str) -> Path:
    """The file of a backbone, to use it. Raises UsageError for an unknown name, and for a licence
    that is to be accepted first; ModelError where the file is not there yet."""
    known = backbones()
    if name not in known:
        raise UsageError(f"unknown network {name!r}{known_names(name, known)}")
    check_licence(known[name])
    return need(known[name].files[0].file, f"`fhrt models pull {name}` fetches it")
