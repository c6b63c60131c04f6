"""The files of a folder or of a zip, by name."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from fhrt.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
MAX_BYTES = 1 << 30  # of one member of a zip, unpacked: more is no photograph


@dataclass(frozen=True)
class Files:
    """What lies below a folder or in a zip: names with slashes, sorted, and how to read one."""

    names: list[str]
    read: Callable[[str], bytes]

    def pictures(self) -> list[str]:
        return [name for name in self.names if PurePosixPath(name).suffix.lower() in SUFFIXES]


def open_files(data: Path) -> Files:
    """A folder, searched below, or a zip. Raises InputError for anything else."""
    if data.is_dir():
        return Files(_below(data), partial(read_file, data))
    if not data.exists():
        raise InputError(f"{data}: no such folder, zip or CSV")
    try:
        archive = zipfile.ZipFile(data)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{data}: not a folder, a zip or a CSV that can be read") from error
    # Names are only ever looked up in the archive: nothing is unpacked, wherever they point.
    names = {info.filename for info in archive.infolist() if not info.is_dir()}
    return Files(sorted(filter(_visible, names)), partial(_read_member, archive, threading.Lock()))


def read_file(folder: Path, name: str) -> bytes:
    """Raises InputError, in one line."""
    try:
        return (folder / name).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from error


def _below(folder: Path) -> list[str]:
    """Every file below, through links to folders, too, but through no folder twice."""
    names, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        names += [(Path(place) / file).relative_to(folder).as_posix() for file in files]
    return sorted(filter(_visible, names))


def _visible(name: str) -> bool:
    """No hidden file, and none of those that macOS adds to a zip."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _read_member(archive: zipfile.ZipFile, lock: threading.Lock, name: str) -> bytes:
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise InputError(f"{name}: more than {MAX_BYTES >> 20} MB")
    try:
        with lock:  # threads share the archive's one file
            return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError) as error:
        raise InputError(f"{name}: cannot be unpacked: {error}") from error
