"""Photographs on disk: what a file holds beside its pixels, and how it is kept.

A file is read into a Photo, upright 8-bit RGB that the networks see, with what came along: alpha,
16-bit depth, grey, colour profile, EXIF. `write_photo` brings the restored picture back into it.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError

from fhrt.errors import InputError, UsageError
from fhrt.faces import Picture, enlarge

MAX_PIXELS = 178_956_970  # Pillow's own limit for a file that is no bomb: 0.5 GB as RGB
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
}
DEEP = {"PNG", "TIFF"}  # what keeps 16 bits
SAVING: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_lzw"},
}
ALPHA = {"PNG", "TIFF", "WEBP"}  # what keeps transparency
ORIENTATION = 0x0112
# Tags that say how a TIFF lays out its pixels (TIFF 6.0): true of the file read, not of ours.
LAYOUT = {254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320}
LAYOUT |= {322, 323, 324, 325, 330, 332, 336, 338, 339, 347, 529, 530, 531, 532, 34675}
# What Pillow and OpenCV raise for damaged files.
DAMAGED: tuple[type[Exception], ...] = (OSError, ValueError, SyntaxError, TypeError, LookupError)
DAMAGED += (struct.error, zlib.error, EOFError, OverflowError, cv2.error)


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph. picture: uint8 (H, W, 3) RGB, upright. alpha: (H, W) uint8, or uint16 where
    deep, or None. deep: uint16 (H, W, 3) or None. grey: the file holds one channel. format:
    Pillow's name. extras: what Pillow's save takes (exif, icc_profile, dpi)."""

    picture: Picture
    format: str
    alpha: NDArray[Any] | None = None
    deep: NDArray[np.uint16] | None = None
    grey: bool = False
    extras: dict[str, Any] | None = None


def read_photo(source: Path | bytes, name: str = "") -> Photo:
    """Read a file, or its bytes. Raises InputError, in one line, for whatever cannot be read."""
    name = name or (str(source) if isinstance(source, Path) else "-")
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    if not data:
        raise InputError(f"{name}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"{name}: {width}×{height} is more than {MAX_PIXELS // 10**6} megapixels; "
                    "cut or shrink it first"
                )
            return _decode(image, data)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name}: more than {MAX_PIXELS // 10**6} megapixels; cut or shrink it first"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not a picture in a format that can be read") from error
    except DAMAGED as error:
        raise InputError(f"{name}: damaged or cut short: {_line(error)}") from error


def encode_photo(photo: Photo, restored: Picture, scale: int, format: str) -> bytes:
    """The restored picture, uint8 (H·scale, W·scale, 3), as the content of a file of `format`.

    Alpha, 16-bit depth and grey are kept where the format has them. Raises InputError where the
    format cannot hold the picture.
    """
    extras = dict(photo.extras or {})
    alpha = None
    if photo.alpha is not None and format in ALPHA:
        alpha = enlarge(photo.alpha, scale)
    if photo.deep is not None and format in DEEP:
        return _encode_deep(photo.deep, photo, restored, alpha, scale, format)
    if alpha is not None and alpha.dtype == np.uint16:
        alpha = (alpha // 257).astype(np.uint8)
    if photo.grey:
        grey = Image.fromarray(cv2.cvtColor(restored, cv2.COLOR_RGB2GRAY))
        image = grey if alpha is None else Image.merge("LA", (grey, Image.fromarray(alpha)))
        if format == "WEBP":
            image = image.convert("RGB" if alpha is None else "RGBA")
    else:
        image = Image.fromarray(restored)
        if alpha is not None:
            image.putalpha(Image.fromarray(alpha))
    buffer = io.BytesIO()
    options = SAVING.get(format, {})
    try:
        if format == "TIFF":  # libtiff, to which Pillow gives compressed ones, refuses much EXIF
            image.save(buffer, format, **options)
            return _tiff_with(buffer.getvalue(), extras)
        image.save(buffer, format, **options, **extras)
    except DAMAGED as error:
        raise InputError(f"cannot be written as {format}: {_line(error)}") from error
    return buffer.getvalue()


def encode_picture(picture: Picture, path: Path) -> bytes:
    """A picture, uint8 (H, W, 3) RGB, as the content of a file with this path's suffix."""
    return encode_photo(Photo(picture, "PNG"), picture, 1, format_of(path))


def format_of(path: Path) -> str:
    """Pillow's name of the format of an output path. Raises UsageError for an unknown suffix."""
    if path.suffix.lower() not in FORMATS:
        known = " ".join(FORMATS)
        raise UsageError(
            f"{path}: no picture format for {path.suffix or 'no suffix'!r}; use {known}"
        )
    return FORMATS[path.suffix.lower()]


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, rename. Raises InputError; then nothing is left."""
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o666 & ~_umask())
        Path(beside).replace(path)
    except BaseException as error:
        Path(beside).unlink(missing_ok=True)
        if isinstance(error, OSError):
            full = " (the disk is full)" if error.errno == errno.ENOSPC else ""
            raise InputError(f"{path}: cannot be written: {error.strerror}{full}") from error
        raise


def _decode(image: Image.Image, data: bytes) -> Photo:
    format = image.format or "PNG"
    extras: dict[str, Any] = {}
    deep_mode = image.mode in ("I;16", "I;16B", "I;16L", "I") or _is_deep_colour(image, data)
    turn, exif = _exif(image)
    if exif:
        extras["exif"] = exif
    profile = image.info.get("icc_profile")
    if "dpi" in image.info:
        extras["dpi"] = tuple(float(v) for v in image.info["dpi"])
    if deep_mode:
        image.load()  # finds damage, of which OpenCV's libraries would print lines of their own
        values = _read_deep(data)
        if values is not None:
            if profile:
                extras["icc_profile"] = profile
            # of TIFF alone OpenCV turns the pixels itself
            upright = values if format == "TIFF" else _turned(values, turn)
            return _deep_photo(upright, format, extras)
    if image.mode == "CMYK":
        image = _from_cmyk(image, profile)
        profile = None
    if profile:
        extras["icc_profile"] = profile
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "P" or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    grey = image.mode in ("1", "L", "LA", "La")
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    return Photo(np.array(image.convert("RGB")), format, alpha, None, grey, extras)


def _deep_photo(values: NDArray[np.uint16], format: str, extras: dict[str, Any]) -> Photo:
    grey = values.ndim == 2
    if grey:
        values = values[..., None]
    alpha = values[..., -1].copy() if values.shape[2] in (2, 4) else None
    colour = values[..., : 1 if grey else 3]
    deep = np.ascontiguousarray(np.repeat(colour, 3, 2) if grey else colour[..., ::-1])
    picture = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Photo(picture, format, alpha, deep, grey, extras)


def _encode_deep(
    deep: NDArray[np.uint16],
    photo: Photo,
    restored: Picture,
    alpha: NDArray[Any] | None,
    scale: int,
    format: str,
) -> bytes:
    """16 bits: what restoration changed in the 8-bit picture is added to the deep one, so that
    untouched parts keep every bit."""
    change = restored.astype(np.int32) - enlarge(photo.picture, scale).astype(np.int32)
    values = enlarge(deep, scale).astype(np.int32) + 257 * change
    result = np.clip(values, 0, 65535).astype(np.uint16)
    channels = [result[..., 1]] if photo.grey else [result[..., 2], result[..., 1], result[..., 0]]
    if alpha is not None and not photo.grey:
        channels.append(alpha)
    content = np.stack(channels, 2) if len(channels) > 1 else channels[0]
    done, buffer = cv2.imencode(".png" if format == "PNG" else ".tiff", content)
    if not done:
        raise InputError(f"cannot be written as 16-bit {format}")
    extras = photo.extras or {}
    return (_png_with if format == "PNG" else _tiff_with)(buffer.tobytes(), extras)


def _png_with(data: bytes, extras: dict[str, Any]) -> bytes:
    """The PNG with profile, resolution and EXIF as chunks behind its header (PNG 3, 11.3)."""
    chunks = []
    if "icc_profile" in extras:
        chunks.append((b"iCCP", b"icc\0\0" + zlib.compress(extras["icc_profile"])))
    if "dpi" in extras:
        metre = [round(dots / 0.0254) for dots in extras["dpi"]]
        chunks.append((b"pHYs", struct.pack(">IIB", *metre, 1)))
    if "exif" in extras:
        chunks.append((b"eXIf", extras["exif"].removeprefix(b"Exif\0\0")))
    packed = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    header = 8 + 25  # signature, IHDR
    return data[:header] + b"".join(packed) + data[header:]


def _tiff_with(data: bytes, extras: dict[str, Any]) -> bytes:
    """The TIFF with profile, resolution and EXIF in a new directory."""
    first = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    file = io.BytesIO(data)
    file.seek(first.next)
    first.load(file)
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    for tag in first:
        directory[tag] = first[tag]
    exif = Image.Exif()
    exif.load(extras.get("exif", b""))
    for tag in exif:
        directory[tag] = exif.get_ifd(tag) or exif[tag]
    if "icc_profile" in extras:
        directory[34675] = extras["icc_profile"]
    if "dpi" in extras:
        directory[282], directory[283] = extras["dpi"]
        directory[296] = 2  # inches
    # Pillow counts the places of the pixels from the end of the directory: the file goes there
    start = data[:4] + struct.pack("<I" if data[:2] == b"II" else ">I", 8)
    return start + directory.tobytes(8) + data


def _exif(image: Image.Image) -> tuple[int, bytes]:
    """How the pixels are turned, and the EXIF of the upright picture; 1 and nothing where there is
    none or it is damaged: a photograph is worth more than its notes."""
    try:
        exif = image.getexif()
        turn = int(exif.get(ORIENTATION, 1))
        if not len(exif):
            return turn, b""
        kept = Image.Exif()
        kept.load(exif.tobytes())
        for tag in LAYOUT & set(kept):
            del kept[tag]
        kept[ORIENTATION] = 1
        return turn, kept.tobytes()
    except DAMAGED:
        return 1, b""


def _read_deep(data: bytes) -> NDArray[np.uint16] | None:
    values: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return values if values is not None and values.dtype == np.uint16 else None


def _is_deep_colour(image: Image.Image, data: bytes) -> bool:
    """16-bit colour, which Pillow would silently read as 8: PNG's IHDR, TIFF's BitsPerSample."""
    if image.format == "PNG":
        return data[24] == 16
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, (8,))
        return 16 in (bits if isinstance(bits, tuple) else (bits,))
    return False


def _turned(values: NDArray[np.uint16], orientation: int) -> NDArray[np.uint16]:
    """The pixels upright; the eight EXIF orientations are flips and a transposition."""
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def _from_cmyk(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB by the embedded profile where there is one: the plain formula is far off for print."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            turned = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if turned is not None:
                turned.info = {k: v for k, v in image.info.items() if k != "icc_profile"}
                return turned
        except (ImageCms.PyCMSError, OSError):
            pass  # an unusable profile is common in old files; the formula is better than nothing
    return image.convert("RGB")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
