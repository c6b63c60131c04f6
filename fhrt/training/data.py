"""Reading training pictures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from fhrt.errors import InputError
from fhrt.faces import Picture

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def read_picture(path: Path) -> Picture:
    """uint8 (H, W, 3) RGB. Raises InputError where OpenCV cannot decode the file."""
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if values is None:
        raise InputError(f"{path}: not a picture that can be read")
    picture: Picture = cv2.cvtColor(values, cv2.COLOR_BGR2RGB)
    return picture


def read_folder(folder: Path) -> list[Picture]:
    """Every picture of a folder, in the order of the names. Raises InputError on an empty one."""
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{folder}: no pictures to train on")
    with ThreadPoolExecutor() as pool:
        return list(pool.map(read_picture, files))
