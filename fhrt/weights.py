"""Weight files: where they lie, how those of other people come here, and what their licences allow.

A file is looked for in FHRT_WEIGHTS, among the bundled ones, and in the cache. What is fetched goes
to FHRT_WEIGHTS where that is set, else to the cache; beside it lie the checksums that were recorded
on first use (`FILE.sha256`) and the licences that were accepted.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fhrt.errors import ModelError, UsageError

if TYPE_CHECKING:
    from fhrt.fetch import Progress

PACKAGE = Path(__file__).resolve().parent
ACCEPTED = "accepted-licences.txt"  # one line each: name, tabulator, licence


@dataclass(frozen=True)
class WeightFile:
    """A file, by its name here. url: "" where none is known to be its own. sha256: "" where nobody
    states it; then it is recorded on first use. member: the one file that is taken out of the zip
    at the url."""

    file: str
    url: str = ""
    sha256: str = ""
    member: str = ""


@dataclass(frozen=True)
class Published:
    """What somebody gives to others under a licence. commercial: whether it allows such use."""

    name: str
    about: str
    licence: str
    commercial: bool
    files: tuple[WeightFile, ...]

    def here(self) -> list[Path]:
        """The files, where all of them are here, whether they may be used or not."""
        paths = [path for file in self.files if (path := locate(file.file)) is not None]
        return paths if len(paths) == len(self.files) else []


def data_folder(name: str) -> Path:
    """`export` or `weights`: at the top of a checkout, inside the package in a wheel."""
    inside = PACKAGE / "_data" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def cache_folder() -> Path:
    """FHRT_WEIGHTS, or `fhrt/weights` in the cache folder of the platform's users."""
    if own := os.environ.get("FHRT_WEIGHTS"):
        return Path(own)
    return _users_cache() / "fhrt" / "weights"


def folders() -> list[Path]:
    """Where weights are looked for, the first one first."""
    every = [cache_folder(), data_folder("weights"), _users_cache() / "fhrt" / "weights"]
    return list(dict.fromkeys(every if os.environ.get("FHRT_WEIGHTS") else every[1:]))


def locate(file: str) -> Path | None:
    """The path of a weight file by its name; None where it is not here."""
    places = (folder / file for folder in folders())
    return next((path for path in places if path.is_file()), None)


def need(file: str, remedy: str) -> Path:
    """The path of a weight file. Raises ModelError, which ends with the remedy, without it."""
    path = locate(file)
    if path is None:
        raise ModelError(f"{file} is in none of: {', '.join(map(str, folders()))}; {remedy}")
    return path


def check_licence(published: Published) -> None:
    """Raises UsageError where the licence rules out commercial use, and nobody has said with
    --accept-licence that the use here is another."""
    if published.commercial or _acceptance(published) in _accepted():
        return
    raise UsageError(
        f"{published.name} is not for commercial use (licence: {published.licence}); once, "
        f"`fhrt models pull {published.name} --accept-licence` says that yours is none"
    )


def pull(
    published: Published,
    accept_licence: bool = False,
    offline: bool = False,
    progress: Callable[[str], Progress] | None = None,
) -> list[Path]:
    """Fetch the files that are not here, and check them all; returns their paths.

    offline, or FHRT_OFFLINE in the environment: fetch nothing. progress: from a file's name to what
    is to be told its bytes. Raises UsageError for a licence that is not accepted, ModelError where
    a file cannot be had or is another one than it should be.
    """
    from fhrt.fetch import fetch  # urllib takes a tenth of a second, and most calls fetch nothing

    if accept_licence and not published.commercial:
        _accept(published)
    check_licence(published)
    offline = offline or os.environ.get("FHRT_OFFLINE", "0") not in ("", "0")
    paths = []
    for file in published.files:
        path = locate(file.file)
        if path is None:
            path = cache_folder() / file.file
            if not file.url:
                raise ModelError(f"{file.file}: no address is known for it; put yours at {path}")
            if offline:
                raise ModelError(f"{file.file} is not here; offline, put {file.url} at {path}")
            told = progress(file.file) if progress is not None else None
            fetch(file.url, path, _expected(file, path), file.member, told)
        check(file)
        paths.append(path)
    return paths


def verify(file: WeightFile) -> tuple[str, str, Path]:
    """Compare a file that is here with what is known of it: "ok", "changed" or "unknown" (no
    checksum is stated, and none was recorded); its sha256; its path. Raises ModelError where it is
    not here or cannot be read."""
    path = need(file.file, "there is nothing to verify")
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    known = _expected(file, path)
    return ("unknown" if not known else "ok" if digest == known else "changed"), digest, path


def check(file: WeightFile) -> None:
    """Raises ModelError where a file is missing or not what it should be; records what it is on
    first use."""
    state, digest, path = verify(file)
    if state == "changed":
        raise ModelError(
            f"{path} has sha256 {digest}, and {_expected(file, path)} is expected: it is damaged "
            "or another file; remove it, and pull again"
        )
    if state == "unknown":
        try:
            _record(path).write_text(f"{digest}  {path.name}\n", encoding="utf-8")
        except OSError as error:
            raise ModelError(f"{_record(path)}: cannot be written: {error.strerror}") from error


def _expected(file: WeightFile, path: Path) -> str:
    """The sha256 that is stated, or that was recorded beside the path; "" where there is none."""
    if file.sha256 or not _record(path).is_file():
        return file.sha256
    words = _record(path).read_text(encoding="utf-8").split()
    return words[0] if words else ""


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _accept(published: Published) -> None:
    if _acceptance(published) in _accepted():
        return
    path = cache_folder() / ACCEPTED
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(_acceptance(published) + "\n")
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error


def _accepted() -> list[str]:
    path = cache_folder() / ACCEPTED
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _acceptance(published: Published) -> str:
    """With the licence's own words: another licence is to be accepted anew."""
    return f"{published.name}\t{published.licence}"


def _users_cache() -> Path:
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
