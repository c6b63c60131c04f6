"""fhrt restores faces in photographs and films.

>>> import fhrt
>>> fhrt.__version__
'0.1.0'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Face", "FhrtError", "Restored", "Restorer", "__version__", "restore"]

if TYPE_CHECKING:
    from fhrt.errors import FhrtError
    from fhrt.faces import Face
    from fhrt.restorer import Restored, Restorer, restore

_HOMES = {
    "Face": "fhrt.faces",
    "FhrtError": "fhrt.errors",
    "Restored": "fhrt.restorer",
    "Restorer": "fhrt.restorer",
    "restore": "fhrt.restorer",
}


def __getattr__(name: str) -> object:
    """Public names are imported when first used: `fhrt --help` must not wait for OpenCV."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fhrt' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
