"""Photographs in and out: what is kept, against Pillow and OpenCV, and what is refused."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from fhrt.errors import InputError, UsageError
from fhrt.faces import Picture, enlarge
from fhrt.pictures import (
    encode_photo,
    encode_picture,
    format_of,
    read_photo,
    write_atomically,
)
from fhrt.quality.metrics import psnr

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # just another profile
ORIENTATION, MAKE, EXIF_IFD, TAKEN = 0x0112, 0x010F, 0x8769, 0x9003


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def unchanged(data: bytes, format: str | None = None, scale: int = 1) -> bytes:
    """The file after a restoration that changed nothing."""
    photo = read_photo(data)
    return encode_photo(photo, enlarge(photo.picture, scale), scale, format or photo.format)


@pytest.fixture(scope="module")
def small(astronaut: Picture) -> Picture:
    return np.ascontiguousarray(astronaut[40:168, 150:310])  # 128 high, 160 wide


@pytest.fixture(scope="module")
def deep() -> np.ndarray:
    """Noise in which every one of 16 bits matters, (96, 120, 4)."""
    return np.random.default_rng(5).integers(0, 65536, (96, 120, 4), np.uint16)


def deep_file(values: np.ndarray, suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, values)
    assert done
    return data.tobytes()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_eight_bit_pixels_come_back_exactly_in_their_mode(
    mode: str, format: str, small: Picture
) -> None:
    image = Image.fromarray(small).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(np.arange(160, dtype=np.uint8)[None].repeat(128, 0)))
    after = opened(unchanged(saved(image, format)))
    assert after.mode == mode and after.format == format
    assert np.array_equal(np.asarray(after), np.asarray(image))


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_stay_close_and_keep_their_format(format: str, small: Picture) -> None:
    data = saved(Image.fromarray(small), format, quality=92)
    after = opened(unchanged(data))
    assert after.format == format
    assert psnr(np.asarray(after), np.asarray(opened(data).convert("RGB"))) > 40


def test_a_grey_jpeg_stays_grey_and_reads_as_three_equal_channels(small: Picture) -> None:
    data = saved(Image.fromarray(small).convert("L"), "JPEG", quality=95)
    photo = read_photo(data)
    assert photo.grey and photo.picture.shape == (128, 160, 3)
    assert (photo.picture == photo.picture[..., :1]).all()
    assert opened(unchanged(data)).mode == "L"


def test_a_bilevel_png_is_read_as_black_and_white(small: Picture) -> None:
    image = Image.fromarray(small).convert("1")
    photo = read_photo(saved(image, "PNG"))
    assert photo.grey and set(np.unique(photo.picture)) == {0, 255}
    assert np.array_equal(photo.picture[..., 0] > 0, np.asarray(image))


@pytest.mark.parametrize("clear", [None, 7])
def test_a_palette_png_keeps_its_colours_and_its_transparency(
    clear: int | None, small: Picture
) -> None:
    image = Image.fromarray(small).quantize(64)
    options = {} if clear is None else {"transparency": clear}
    data = saved(image, "PNG", **options)
    photo = read_photo(data)
    assert np.array_equal(photo.picture, np.asarray(image.convert("RGB")))
    after = opened(unchanged(data))
    if clear is None:
        assert photo.alpha is None and after.mode == "RGB"
    else:
        assert after.mode == "RGBA"
        assert np.array_equal(np.asarray(after)[..., 3] == 0, np.asarray(image) == clear)


@pytest.mark.parametrize("mode, clear", [("L", 100), ("RGB", (10, 20, 30))])
def test_a_colour_that_stands_for_transparent_becomes_alpha(
    mode: str, clear: Any, small: Picture
) -> None:
    image = Image.fromarray(small).convert(mode)
    image.putpixel((3, 4), clear)
    photo = read_photo(saved(image, "PNG", transparency=clear))
    assert photo.alpha is not None and photo.alpha[4, 3] == 0 and photo.alpha.max() == 255


def test_a_cmyk_jpeg_is_restored_as_the_colours_that_pillow_sees(small: Picture) -> None:
    data = saved(Image.fromarray(small).convert("CMYK"), "JPEG", quality=95)
    photo = read_photo(data)
    assert psnr(photo.picture, np.asarray(opened(data).convert("RGB"))) > 50
    assert psnr(photo.picture, small) > 30
    assert opened(unchanged(data)).mode == "RGB"


def test_a_profile_that_is_none_does_not_stop_a_cmyk_picture(small: Picture) -> None:
    image = Image.fromarray(small).convert("CMYK")
    data = saved(image, "JPEG", quality=95, icc_profile=b"no profile at all")
    assert psnr(read_photo(data).picture, small) > 30
    assert "icc_profile" not in opened(unchanged(data)).info


def test_transparency_grows_with_the_picture(small: Picture) -> None:
    image = Image.fromarray(small)
    image.putalpha(Image.fromarray(np.arange(160, dtype=np.uint8)[None].repeat(128, 0)))
    after = np.asarray(opened(unchanged(saved(image, "PNG"), scale=2)))
    assert after.shape == (256, 320, 4)
    assert np.abs(after[100, 20:300, 3] - np.arange(20, 300) / 2).max() <= 1


def test_alpha_is_dropped_where_the_format_has_none(small: Picture) -> None:
    image = Image.fromarray(small)
    image.putalpha(128)
    assert opened(unchanged(saved(image, "PNG"), "JPEG")).mode == "RGB"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_upright_and_is_not_turned_again(
    orientation: int, format: str, small: Picture
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[MAKE] = "A camera"
    exif.get_ifd(EXIF_IFD)[TAKEN] = "2001:02:03 04:05:06"
    options = {"quality": 98} if format in ("JPEG", "WEBP") else {}
    # what a camera stores so that a viewer, who turns it, shows `small`
    stored = TURNED[orientation](small)
    data = saved(
        Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif.tobytes(), **options
    )
    photo = read_photo(data)
    assert photo.picture.shape == small.shape
    assert psnr(photo.picture, small) > 30
    after = opened(unchanged(data))
    assert after.size == (160, 128)
    assert psnr(np.asarray(after), small) > 30
    kept = after.getexif()
    assert kept.get(ORIENTATION) == 1
    assert kept.get(MAKE) == "A camera"
    assert kept.get_ifd(EXIF_IFD).get(TAKEN) == "2001:02:03 04:05:06"


# The inverses of EXIF's eight: the picture upright -> as it is stored (TIFF 6.0, tag 274).
TURNED: dict[int, Any] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: p.swapaxes(0, 1)[::-1],
    7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
    8: lambda p: p.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_sixteen_bit_tiff_is_upright(orientation: int, deep: np.ndarray) -> None:
    grey = np.ascontiguousarray(deep[..., 0])
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation](grey)))
    data = saved(stored, "TIFF", tiffinfo={ORIENTATION: orientation})
    photo = read_photo(data)
    assert photo.deep is not None and np.array_equal(photo.deep[..., 1], grey)
    after = opened(unchanged(data))
    assert np.array_equal(np.asarray(after), grey)
    assert after.getexif().get(ORIENTATION, 1) == 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_colour_profile_and_the_resolution_are_kept(format: str, small: Picture) -> None:
    data = saved(Image.fromarray(small), format, icc_profile=SRGB, dpi=(300, 300))
    after = opened(unchanged(data))
    assert after.info["icc_profile"] == SRGB
    if format != "WEBP":
        assert after.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    chunk = struct.pack(">I", len(content)) + name + content
    return png[:33] + chunk + struct.pack(">I", zlib.crc32(name + content)) + png[33:]


def test_a_sixteen_bit_png_keeps_its_colour_profile_and_its_exif(deep: np.ndarray) -> None:
    exif = Image.Exif()
    exif[MAKE] = "A camera"
    data = deep_file(deep[..., :3], ".png")
    data = with_chunk(data, b"eXIf", exif.tobytes()[6:])
    data = with_chunk(data, b"iCCP", b"LAB\0\0" + zlib.compress(LAB))
    assert read_photo(data).deep is not None
    after = opened(unchanged(data))
    assert after.info["icc_profile"] == LAB
    assert after.getexif().get(MAKE) == "A camera"
    assert np.array_equal(decoded_deep(unchanged(data)), deep[..., :3])


def test_a_sixteen_bit_tiff_keeps_its_colour_profile_and_its_camera(deep: np.ndarray) -> None:
    stored = Image.fromarray(np.ascontiguousarray(deep[..., 0]))
    data = saved(stored, "TIFF", icc_profile=LAB, tiffinfo={MAKE: "A camera"}, dpi=(300, 300))
    assert read_photo(data).deep is not None
    after = opened(unchanged(data))
    assert np.array_equal(np.asarray(after), deep[..., 0])
    assert after.info["icc_profile"] == LAB
    assert after.getexif().get(MAKE) == "A camera"
    assert after.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def decoded_deep(data: bytes) -> np.ndarray:
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert values.dtype == np.uint16
    return values


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_keep_every_bit_of_what_was_not_changed(
    channels: int, suffix: str, deep: np.ndarray
) -> None:
    values = deep[..., 0] if channels == 1 else deep[..., :channels]
    data = deep_file(values, suffix)
    photo = read_photo(data)
    assert photo.deep is not None and photo.grey == (channels == 1)
    rgb = np.repeat(values[..., None], 3, 2) if channels == 1 else values[..., 2::-1]
    assert np.array_equal(photo.picture, np.round(rgb / 257).astype(np.uint8))
    assert np.array_equal(decoded_deep(encode_photo(photo, photo.picture, 1, photo.format)), values)
    restored = photo.picture.copy()
    restored[20:40, 30:60] = restored[20:40, 30:60] // 2 + 40
    after = decoded_deep(encode_photo(photo, restored, 1, photo.format))
    outside = np.ones(deep.shape[:2], bool)
    outside[20:40, 30:60] = False
    assert np.array_equal(after[outside], values[outside])
    colour = after[..., :3].astype(int) if channels > 1 else after.astype(int)
    wanted = restored[..., ::-1] if channels > 1 else restored[..., 1]
    assert np.abs(colour / 257 - wanted)[20:40, 30:60].max() <= 0.51
    if channels == 4:
        assert np.array_equal(after[..., 3], values[..., 3])


def test_sixteen_bits_grow_with_the_picture_and_become_eight_in_a_jpeg(deep: np.ndarray) -> None:
    smooth = cv2.GaussianBlur(deep[..., :3], (0, 0), 6)
    data = deep_file(smooth, ".png")
    twice = decoded_deep(unchanged(data, scale=2))
    assert twice.shape == (192, 240, 3)
    expected = cv2.resize(smooth, (240, 192), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(twice, expected)
    after = np.asarray(opened(unchanged(data, "JPEG")))
    assert after.dtype == np.uint8
    assert psnr(after, np.round(smooth[..., ::-1] / 257).astype(np.uint8)) > 38


def test_a_grey_sixteen_bit_picture_with_alpha_keeps_it(deep: np.ndarray) -> None:
    values = deep.copy()
    values[..., :3] = values[..., :1]
    data = grey_alpha_png(values[..., 0], values[..., 3])
    photo = read_photo(data)
    assert photo.deep is not None and photo.alpha is not None
    assert np.array_equal(photo.alpha, values[..., 3])
    after = decoded_deep(unchanged(data))
    assert np.array_equal(after[..., 0], values[..., 0])
    assert np.array_equal(after[..., -1], values[..., 3])


def grey_alpha_png(grey: np.ndarray, alpha: np.ndarray) -> bytes:
    rows = np.stack([grey, alpha], 2).astype(">u2")
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    return png_file(grey.shape[1], grey.shape[0], 16, 4, zlib.compress(body))


def png_file(width: int, height: int, depth: int, colour: int, body: bytes) -> bytes:
    """A PNG by hand: signature, IHDR, IDAT, IEND (PNG specification, 5 and 11)."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_tiled_tiff_with_many_tags_is_written_well_in_every_format(small: Picture) -> None:
    large = cv2.resize(small, (640, 512))
    data = saved(
        Image.fromarray(large), "TIFF", compression="tiff_lzw", tiffinfo={278: 1, MAKE: "A camera"}
    )
    for format in ("TIFF", "PNG", "JPEG"):
        after = opened(unchanged(data, format))
        assert psnr(np.asarray(after), large) > 38
        assert after.getexif().get(MAKE) == "A camera"
        if format != "TIFF":  # how the source laid out its rows is not the camera's
            assert 273 not in after.getexif() and 279 not in after.getexif()


def test_encode_picture_writes_what_the_suffix_says(small: Picture) -> None:
    for suffix, format in ((".png", "PNG"), (".JPG", "JPEG"), (".webp", "WEBP"), (".bmp", "BMP")):
        after = opened(encode_picture(small, Path(f"x{suffix}")))
        assert after.format == format
        assert psnr(np.asarray(after.convert("RGB")), small) > 35


def test_an_unknown_suffix_is_a_usage_error() -> None:
    for name in ("x.xyz", "x"):
        with pytest.raises(UsageError, match="no picture format"):
            format_of(Path(name))


def jpeg(picture: Picture) -> bytes:
    return saved(Image.fromarray(picture), "JPEG", quality=90)


def bad_files(picture: Picture) -> dict[str, bytes]:
    photo, png = jpeg(picture), saved(Image.fromarray(picture), "PNG")
    values = np.random.default_rng(0).integers(0, 65536, (64, 80, 3), np.uint16)
    deep_png, deep_tiff = deep_file(values, ".png"), deep_file(values, ".tiff")
    return {
        "text.jpg": b"Dear diary, today I took no photograph.\n" * 20,
        "empty.jpg": b"",
        "half.jpg": photo[: len(photo) // 2],
        "nearly_whole.jpg": photo[: len(photo) * 9 // 10],
        "header_only.jpg": photo[:200],
        "half.png": png[: len(png) // 2],
        "nearly_whole.png": png[:-30],
        "half_deep.png": deep_png[: len(deep_png) // 2],
        "nearly_whole_deep.png": deep_png[: len(deep_png) * 9 // 10],
        "half_deep.tiff": deep_tiff[: len(deep_tiff) // 2],
        "nearly_whole_deep.tiff": deep_tiff[: len(deep_tiff) * 9 // 10],
        "huge.png": png_file(30_000, 30_000, 1, 0, zlib.compress(bytes(3751 * 300))),
        "wide.png": png_file(200_000_000, 1, 8, 2, zlib.compress(b"0")),
    }


BAD = list(bad_files(np.zeros((32, 32, 3), np.uint8)))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_that_names_it(
    name: str, astronaut: Picture, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(bad_files(astronaut)[name])
    with pytest.raises(InputError) as raised:
        read_photo(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    if name in ("huge.png", "wide.png"):
        assert "megapixels" in str(raised.value)


def test_a_real_picture_of_thirty_thousand_squared_is_refused_without_being_decoded(
    tmp_path: Path,
) -> None:
    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(3751 * 1000)) for _ in range(30)) + rows.flush()
    path = tmp_path / "square.png"
    path.write_bytes(png_file(30_000, 30_000, 1, 0, body))
    with pytest.raises(InputError, match="megapixels; cut or shrink it first"):
        read_photo(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP"])
def test_damaged_bytes_are_read_or_refused_but_raise_nothing_else(
    format: str, small: Picture
) -> None:
    rng = np.random.default_rng(3)
    good = saved(Image.fromarray(small), format)
    for _ in range(60):
        data = bytearray(good)
        for at in rng.integers(0, min(len(data), 400), 3):
            data[at] = rng.integers(256)
        try:
            photo = read_photo(bytes(data), "photo")
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert photo.picture.dtype == np.uint8 and photo.picture.shape[2] == 3


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jpg: No such file"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="directory"):
        read_photo(tmp_path)


def test_a_picture_of_one_pixel_is_read_and_written() -> None:
    data = saved(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG")
    assert opened(unchanged(data)).getpixel((0, 0)) == (9, 99, 199)
    assert opened(unchanged(data, scale=4)).size == (4, 4)


def test_a_picture_that_a_format_cannot_hold_is_an_input_error() -> None:
    wide = np.zeros((1, 70_000, 3), np.uint8)
    with pytest.raises(InputError, match="cannot be written as JPEG"):
        encode_picture(wide, Path("wide.jpg"))


def test_a_file_is_written_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    write_atomically(target, b"old")
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert target.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("old", [None, b"the photo of yesterday"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_and_keeps_the_old_file(
    step: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.png"
    if old is not None:
        target.write_bytes(old)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)
    with pytest.raises(InputError, match=r"out\.png: cannot be written: No space left.*full"):
        write_atomically(target, b"new" * 1000)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ([] if old is None else ["out.png"])
    assert old is None or target.read_bytes() == old


def test_an_interrupt_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "out.png", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_cannot_be_written_into(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"out\.png: cannot be written: Not a directory"):
        write_atomically(tmp_path / "file" / "out.png", b"new")
