"""The networks and parameters that metrics need: what they are, where they lie, how they come.

`backbones.toml` states the facts. A file is in the user's cache whole and as its checksum says, or
not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import tomllib
import urllib.request
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO

from fhrt.errors import ModelError, UsageError, known_names
from fhrt.pictures import write_atomically

TABLE = Path(__file__).with_name("backbones.toml")
TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class Backbone:
    """A file of other people's; the fields are explained at the top of backbones.toml."""

    name: str
    about: str
    file: str
    url: str
    sha256: str
    licence: str
    commercial: bool
    member: str = ""

    def path(self) -> Path:
        """Where it lies once it is there."""
        return cache_folder() / self.file

    def facts(self) -> str:
        """What to know before fetching it, one line a fact."""
        lines = {
            "name": self.name,
            "about": self.about,
            "file": self.path(),
            "url": self.url or "none is known; put your own file there",
            "sha256": self.sha256 or "recorded on first use",
            "licence": self.licence,
            "commercial use": "yes" if self.commercial else "no",
        }
        return "\n".join(f"{key + ':':<16}{value}" for key, value in lines.items())


def backbones() -> dict[str, Backbone]:
    """All of them, by name."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: Backbone(name=name, **values) for name, values in table.items()}


def backbone(name: str) -> Backbone:
    """One of them. Raises UsageError for an unknown name."""
    known = backbones()
    if name not in known:
        raise UsageError(f"unknown network {name!r}{known_names(name, known)}")
    return known[name]


def cache_folder() -> Path:
    """FHRT_WEIGHTS, or `fhrt/weights` in the cache folder of the platform's users."""
    if own := os.environ.get("FHRT_WEIGHTS"):
        return Path(own)
    home = Path.home()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = home / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return cache / "fhrt" / "weights"


def find(name: str) -> Path:
    """The file of a backbone. Raises UsageError for an unknown name, ModelError where it is not
    there yet."""
    path = backbone(name).path()
    if not path.is_file():
        raise ModelError(f"{path} is not there; `fhrt models pull {name}` fetches it")
    return path


def pull(name: str, accept_licence: bool = False) -> Path:
    """Fetch a backbone into the cache, or check the one that is there; returns its path.

    Raises UsageError for an unknown name, and for a licence without commercial use that was not
    accepted; ModelError where it cannot be fetched or its checksum is another one. Then nothing is
    left in the cache.
    """
    found = backbone(name)
    if not found.commercial and not accept_licence:
        raise UsageError(
            f"{name} is for non-commercial use only ({found.licence}); "
            "--accept-licence says that this is what it is for"
        )
    path = found.path()
    if path.is_file():
        _check(found, path)
        return path
    if not found.url:
        raise ModelError(f"{name}: no address is known to be its own; put your file at {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # beside its place, so that the rename stays on one disk
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=path.parent) as beside:
            part = Path(beside) / "part"
            _download(found.url, part)
            if found.member:
                part = _unpack(part, found.member)
            _check(found, part)
            part.replace(path)
    except (OSError, HTTPException, zipfile.BadZipFile, KeyError) as error:
        raise ModelError(
            f"{name}: cannot be fetched from {found.url}: {error}; by hand, it belongs to {path}"
        ) from error
    return path


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        _write(answer, path)
        announced = answer.headers.get("Content-Length")
    # urllib takes a connection that ends early for the end of the file
    if announced is not None and path.stat().st_size != int(announced):
        raise OSError(f"{path.stat().st_size} of {announced} bytes came")


def _unpack(archive: Path, member: str) -> Path:
    path = archive.with_name("member")
    with zipfile.ZipFile(archive) as files, files.open(member) as file:
        _write(file, path)
    return path


def _write(source: IO[bytes], path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        os.fsync(file.fileno())


def _check(found: Backbone, path: Path) -> None:
    """Compare a file's checksum with the known one, or with the one recorded on first use."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = found.path().with_name(found.file + ".sha256")
    known = found.sha256
    if not known and record.is_file():
        known = record.read_text(encoding="utf-8").split()[0]
    if not digest.startswith(known):
        raise ModelError(
            f"{found.name}: {found.file} has sha256 {digest}, and {known} is expected: "
            f"it is damaged or another file; remove {found.path()} if it is there, and pull again"
        )
    if not known:
        write_atomically(record, f"{digest}  {found.file}\n".encode())
