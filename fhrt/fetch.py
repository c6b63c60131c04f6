"""A file from the network, whole or not at all: resumed, tried again, checked, and only then named.

What has come so far lies beside the target as `.NAME.part`, and `.NAME.part.json` says of which
version of which file it is, so that a later call, of this process or another, can go on from there;
`.NAME.lock` is held meanwhile.
Proxies are those of HTTPS_PROXY and HTTP_PROXY (urllib).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import urllib.request
import zipfile
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError

from filelock import FileLock

from fhrt.errors import ModelError

TRIES = 5  # in a row that bring nothing new
PAUSE = 0.5  # seconds before the second of them, and twice as long before each further one
TIMEOUT = 60  # seconds without a byte
BLOCK = 1 << 20  # bytes
WORTH_ANOTHER_TRY = {408, 425, 429}  # and all from 500 on

Progress = Callable[[int, int | None], None]  # bytes that are here, bytes there are


class _Broken(Exception):
    """One try failed. lasting: another would fail as well."""

    def __init__(self, reason: str, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


def fetch(
    url: str, target: Path, sha256: str = "", member: str = "", progress: Progress | None = None
) -> None:
    """Put what is at `url` at `target`; a target that is there is left as it is.

    sha256: what the target must have. member: the one file to take out of the zip at the url.
    Several processes may ask for one target: one fetches, the others wait for it. Raises ModelError
    where it cannot be had whole; then there is no target. What was fetched stays, hidden beside it,
    to go on from, unless it is not what `sha256` says.
    """
    by_hand = f"try again, or fetch {url} by other means and put it at {target}"
    part = _beside(target, "part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_beside(target, "lock")):
            if target.is_file():
                return
            for _ in range(2):
                pieced = _complete(url, part, bool(sha256), progress)
                ready = _unpack(part, member, target) if member else part
                with ready.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest == sha256 or not sha256:
                    ready.replace(target)
                    _forget(part)
                    return
                ready.unlink()
                _forget(part)
                if not pieced:  # else it may be of two versions, put together
                    break
    except _Broken as error:
        raise ModelError(f"{target.name}: {error}; {by_hand}") from error
    except OSError as error:
        reason = error.strerror or error
        raise ModelError(f"{target}: cannot be written: {reason}") from error
    raise ModelError(
        f"{target.name}: what is at {url} has sha256 {digest}, and {sha256} is expected: "
        "another file than it was; nothing was kept"
    )


def _complete(url: str, part: Path, checked: bool, progress: Progress | None) -> bool:
    """Ask until the part is whole. Returns whether it was begun by an earlier answer."""
    most, left = _size(part), TRIES
    while True:
        try:
            return _ask(url, part, checked, progress)
        except _Broken as error:
            left = TRIES if _size(part) > most else left - 1
            most = max(most, _size(part))
            if error.lasting or not left:
                raise
            time.sleep(PAUSE * 2 ** (TRIES - left))


def _ask(url: str, part: Path, checked: bool, progress: Progress | None) -> bool:
    """One request, for what is missing of the part. Returns whether some of it was there before.

    checked: a checksum will be compared. Raises _Broken where another try may do better.
    """
    version, total = _remembered(url, part)
    begun = _size(part) if version else 0
    # as it is, not compressed for the way: lengths and positions are those of the file
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if begun:
        request.add_header("Range", f"bytes={begun}-")
        request.add_header("If-Range", version)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and begun:
            if _range(error.headers)[1] == begun and total in (None, begun):
                return True  # it ended after the last byte, before it was renamed
            _forget(part)
            raise _Broken("the file at the server is not the one that was begun") from error
        lasting = error.code < 500 and error.code not in WORTH_ANOTHER_TRY
        raise _Broken(f"the server says {error.code} {error.reason}", lasting) from error
    except (OSError, HTTPException) as error:
        raise _Broken(f"no answer: {getattr(error, 'reason', error)}") from error
    assert isinstance(answer, HTTPResponse)
    with answer:
        if answer.status == 206:
            # a server may know of ranges and not of If-Range
            same = _version(answer.headers) in ("", version)
            first, length = _range(answer.headers)
            if not same or first != begun or total not in (None, length):
                _forget(part)
                raise _Broken("the file at the server is not the one that was begun")
            total = length
        else:
            begun, total = 0, answer.length
            if total is None and not answer.chunked and not checked:
                raise _Broken("the server does not say how long it is", lasting=True)
            _begin(url, part, _version(answer.headers), total)
        _append(answer, part, begun, total, progress)
    if total is not None and _size(part) != total:
        came = f"{_size(part)} of {total} bytes came"
        if _size(part) > total:
            _forget(part)
            came = f"more came than the {total} bytes that were announced"
        raise _Broken(came)
    if not _size(part):
        raise _Broken("nothing came")
    return begun > 0


def _append(
    answer: HTTPResponse, part: Path, begun: int, total: int | None, progress: Progress | None
) -> None:
    """Write what comes to the end of the part, until no more does."""
    if answer.length is not None:
        answer.length += 1  # http.client would stop where the header says, and hide what follows
    with part.open("ab") as file:
        while True:
            try:
                block = answer.read1(BLOCK)
            except (OSError, HTTPException) as error:
                if total is None:
                    raise _Broken(f"the connection broke: {error}") from error
                break  # the caller counts
            if not block:
                break
            file.write(block)
            begun += len(block)
            if progress is not None:
                progress(begun, total)
        file.flush()
        os.fsync(file.fileno())


def _unpack(archive: Path, member: str, target: Path) -> Path:
    """Take one file out of a zip, to beside the target."""
    path = _beside(target, "member")
    try:
        with (
            zipfile.ZipFile(archive) as files,
            files.open(member) as source,
            path.open("wb") as file,
        ):
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        path.unlink(missing_ok=True)
        _forget(archive)
        reason = "not a zip file" if isinstance(error, zipfile.BadZipFile) else f"no {member} in it"
        raise _Broken(f"what came is damaged: {reason}") from error
    return path


def _begin(url: str, part: Path, version: str, total: int | None) -> None:
    """An empty part, and the note of what it is going to be."""
    part.write_bytes(b"")  # first, so that no note ever stands beside the bytes of another version
    note = {"url": url, "version": version, "total": total}
    _note(part).write_text(json.dumps(note), encoding="utf-8")


def _remembered(url: str, part: Path) -> tuple[str, int | None]:
    """The version and the length of what the part is of; "" where it is not known, or another
    file's: then it cannot be gone on with."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
        return (note["version"], note["total"]) if note["url"] == url else ("", None)
    except (OSError, ValueError, LookupError, TypeError):
        return "", None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _version(headers: Message) -> str:
    """What If-Range may be asked with: a strong ETag, or the date of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _range(headers: Message) -> tuple[int | None, int | None]:
    """Content-Range's first byte and length of the file: `bytes 5-9/10` -> 5, 10; `*` -> None."""
    place, _, length = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first: int | None = None
    total: int | None = None
    with suppress(ValueError):
        total = int(length)
        first = int(place.partition("-")[0])
    return first, total


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}")


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")
