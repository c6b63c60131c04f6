"""The errors that fhrt raises, and the exit code of each.

    FhrtError            1  something failed
    ├── UsageError       2  the call itself is wrong (option, argument, combination)
    ├── InputError       1  a picture, film or folder that cannot be read or written
    ├── RuntimeMissing   1  a device, runtime or package that was asked for is not here
    │   └── DeviceLost   1  a device that was here has failed
    └── ModelError       1  a model file that is missing, broken, or not what it should be
        └── EngineMisfit 1  an engine for another GPU, driver or release than are here

A message is one line: what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FhrtError(Exception):
    """Anything that fhrt reports to its user in one line."""

    exit_code = 1


class UsageError(FhrtError):
    """The call is wrong: an unknown option, or options that exclude each other."""

    exit_code = 2


class InputError(FhrtError):
    """A file that cannot be read or written, or whose content is not what it says."""


class RuntimeMissing(FhrtError):
    """A device, runtime or package that was asked for cannot be had here."""


class DeviceLost(RuntimeMissing):
    """A device has failed in the middle of the work; what was finished by then is good."""


class ModelError(FhrtError):
    """A model or weight file that is missing, damaged or does not fit its recipe."""


class EngineMisfit(ModelError):
    """An engine that was built for another GPU, driver or release than are here, or is refused by
    the library. reason: that alone, without the file and what to do."""

    def __init__(self, engine: object, reason: str, remedy: str) -> None:
        super().__init__(f"{engine}: {reason}; {remedy}")
        self.reason = reason


def known_names(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them.

    >>> known_names("detecter", ["detector", "restore"])
    "; did you mean 'detector'?"
    """
    names = list(known)
    near = difflib.get_close_matches(word, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """What another library says of its error, as part of a message of one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
