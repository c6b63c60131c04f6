"""Call the kernels on device memory.

Arrays are anything with DLPack or `__cuda_array_interface__`: torch, CuPy, PyNvVideoCodec's planes,
pycuda. A picture is uint8 (H, W, 3) RGB, a batch float16 or float32 (N, 3, side, side) RGB in
[0, 1]. Rows of pictures and planes may be padded; anything else is contiguous. All work goes to the
stream of the `Gpu` and is done when that says so; the caller keeps the arrays until then. Raises
UsageError for an array that is not what a function says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.cuda.compile import REMEDY, kernels_for
from fhrt.cuda.plan import LUMA, crop_rows, paste_rows, tile_starts
from fhrt.errors import RuntimeMissing, UsageError
from fhrt.faces import Matrix

BLOCK = (32, 8)
CROP = ("3", "side", "side")
BATCH = ("N", *CROP)


@dataclass(frozen=True)
class View:
    """Where an array lies on the device; strides in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]

    def packed(self, first: int) -> bool:
        """Whether it is contiguous from dimension `first` on."""
        steps = np.cumprod([self.dtype.itemsize, *self.shape[:0:-1]])[::-1]
        each = list(zip(self.shape, self.strides, steps, strict=True))
        return 0 in self.shape or all(
            size == 1 or stride == step for size, stride, step in each[first:]
        )


class Gpu:
    """A GPU with the kernels loaded, and the stream that their work goes to.

    device: its number. stream: a stream of somebody else (`__cuda_stream__`), by default a new one.
    Raises RuntimeMissing without cuda-python, a driver or that GPU.
    """

    def __init__(self, device: int = 0, stream: Any = None) -> None:
        try:
            from cuda import core
        except ImportError as error:
            raise RuntimeMissing(f"cuda-python is not installed; {REMEDY}") from error
        try:
            self._device = core.Device(device)
            self._device.set_current()
        except Exception as error:  # there is a kind of its own for each thing that can be missing
            raise RuntimeMissing(f"cuda:{device} cannot be used: {error}") from error
        self._core = core
        self.stream = self._device.create_stream(stream)
        self._code = core.ObjectCode.from_cubin(kernels_for(f"sm_{self._device.arch}"))

    def view(self, array: Any) -> View:
        """Of an array on this device, after what its own stream still does to it."""
        from cuda.core.utils import StridedMemoryView

        try:
            seen = StridedMemoryView.from_any_interface(array, int(self.stream.handle))
        except (BufferError, RuntimeError) as error:
            raise UsageError(f"{type(array).__name__} is no device array: {error}") from error
        if not seen.is_device_accessible or seen.device_id != self._device.device_id:
            raise UsageError(f"{type(array).__name__} does not lie on {self._device.name}")
        steps = seen.strides or np.cumprod([1, *seen.shape[:0:-1]])[::-1]
        strides = tuple(int(step) * seen.dtype.itemsize for step in steps)
        return View(seen.ptr, seen.shape, strides, seen.dtype)

    def upload(self, array: NDArray[Any]) -> Any:
        """A copy of a host array as an argument of `launch`, freed after it is used there."""
        from cuda.bindings import driver

        buffer = self._device.allocate(array.nbytes, stream=self.stream)
        # From pageable memory: the driver has taken its copy when this returns.
        (status,) = driver.cuMemcpyHtoDAsync(
            int(buffer.handle), array.ctypes.data, array.nbytes, self.stream.handle
        )
        if status != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeMissing(f"copying to {self._device.name} gives {status.name}")
        return buffer

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any
    ) -> None:
        """Arguments: addresses as int, NumPy scalars of the kernel's types, what `upload` gave."""
        config = self._core.LaunchConfig(grid=grid, block=block)
        self._core.launch(self.stream, config, self._code.get_kernel(kernel), *arguments)


def crop_faces(gpu: Gpu, pictures: Sequence[Any], matrices: Sequence[Matrix], batch: Any) -> None:
    """Cut out faces: `faces.crop`, and [0, 1]. pictures: the one of each face. matrices: (2, 3),
    picture to crop. batch: (N, 3, side, side), what is written."""
    out = _planes(gpu, batch, BATCH)
    count, side = out.shape[0], out.shape[2]
    if not len(pictures) == len(matrices) == count:
        raise UsageError(
            f"{len(pictures)} pictures and {len(matrices)} matrices do not fit {out.shape}"
        )
    if not count:
        return
    each = [_picture(gpu, picture) for picture in pictures]
    rows = crop_rows([(view.shape[0], view.shape[1]) for view in each], list(matrices), side)
    rows["picture"] = [view.address for view in each]
    rows["pitch"] = [view.strides[0] for view in each]
    grid = (*_grid(side, side), count)
    gpu.launch("crop_faces", grid, BLOCK, out.address, _fp16(out), gpu.upload(rows), np.int32(side))


def paste_faces(
    gpu: Gpu,
    picture: Any,
    before: Sequence[Any],
    after: Sequence[Any],
    matrices: Sequence[Matrix],
    scale: int = 1,
    gains: NDArray[np.floating] | None = None,
) -> None:
    """Put faces back, in this order: `faces.paste`. picture: the enlarged one, changed in place.
    before, after: the crop (3, side, side) of each face as cut out and as restored; faces may have
    different sides. matrices: (2, 3), picture at scale 1 to crop. gains: (N, 3), what the channels
    of `after` are multiplied by, to match its colours to the picture's."""
    if not len(before) == len(after) == len(matrices):
        raise UsageError(f"{len(before)}, {len(after)} crops and {len(matrices)} matrices")
    base = _picture(gpu, picture)
    olds, news = ([_planes(gpu, part, CROP) for part in parts] for parts in (before, after))
    if [view.shape for view in olds] != [view.shape for view in news]:
        raise UsageError("a crop and its restored one differ in size")
    if len({view.dtype for view in (*olds, *news)}) > 1:
        raise UsageError("some crops are float16 and some float32")
    height, width = base.shape[:2]
    rows = paste_rows((height, width), list(matrices), [view.shape[1] for view in olds], scale)
    rows["before"] = [view.address for view in olds]
    rows["after"] = [view.address for view in news]
    if gains is not None:
        rows["gain"] = gains
    rows = rows[(rows["left"] < rows["right"]) & (rows["top"] < rows["bottom"])]
    if not len(rows):
        return
    left, top = int(rows["left"].min()), int(rows["top"].min())
    gpu.launch(
        "paste_faces",
        _grid(int(rows["right"].max()) - left, int(rows["bottom"].max()) - top),
        BLOCK,
        base.address,
        np.int64(base.strides[0]),
        gpu.upload(rows),
        np.int32(len(rows)),
        _fp16(olds[0]),
        np.int32(left),
        np.int32(top),
    )


def nv12_to_rgb(
    gpu: Gpu, luma: Any, chroma: Any, picture: Any, matrix: str = "bt709", full: bool = False
) -> None:
    """NV12, or P010 where the planes are uint16, to a picture. luma: (H, W) or (H, W, 1). chroma:
    (H/2, W/2, 2), rounded up. matrix: of LUMA. full: the range of luma is 0 to 255."""
    _convert(gpu, "nv12_to_rgb", luma, chroma, picture, matrix, full)


def rgb_to_nv12(
    gpu: Gpu, picture: Any, luma: Any, chroma: Any, matrix: str = "bt709", full: bool = False
) -> None:
    """A picture to NV12, or to P010 where the planes are uint16; as for `nv12_to_rgb`."""
    _convert(gpu, "rgb_to_nv12", luma, chroma, picture, matrix, full)


def gray_world(gpu: Gpu, picture: Any) -> None:
    """Gives the three channels the same mean, in place (Buchsbaum 1980)."""
    image = _picture(gpu, picture)
    sums = gpu.upload(np.zeros(3, np.uint64))
    gpu.launch("channel_sums", (min(image.shape[0], 1024),), (256,), *_extent(image), sums)
    grid = _grid(image.shape[1], image.shape[0])
    gpu.launch("scale_channels", grid, BLOCK, *_extent(image), sums)


def clahe(gpu: Gpu, plane: Any, clip: float = 2.0, tiles: tuple[int, int] = (8, 8)) -> None:
    """cv2.createCLAHE(clip, tiles) on a uint8 (H, W) plane, in place. tiles: across and down."""
    view = gpu.view(plane)
    if view.dtype != np.uint8 or len(view.shape) != 2 or 0 in view.shape or not view.packed(1):
        raise UsageError(f"a plane is uint8 (H, W); this one is {view.dtype} {view.shape}")
    height, width = view.shape
    if height % tiles[1] or width % tiles[0]:  # OpenCV adds a whole tile's worth where one divides
        height, width = height + tiles[1] - height % tiles[1], width + tiles[0] - width % tiles[0]
    tile = (width // tiles[0], height // tiles[1])
    limit = max(int(clip * tile[0] * tile[1] / 256), 1) if clip > 0 else 0
    tables = gpu.upload(np.zeros((tiles[1], tiles[0], 256), np.uint8))
    shape = (*_extent(view), np.int32(tile[0]), np.int32(tile[1]))
    gpu.launch("clahe_tables", tiles, (256,), *shape, np.int32(limit), tables)
    grid = _grid(view.shape[1], view.shape[0])
    gpu.launch("clahe_apply", grid, BLOCK, *shape, np.int32(tiles[0]), np.int32(tiles[1]), tables)


def cut_tiles(gpu: Gpu, picture: Any, tiles: Any, overlap: int) -> None:
    """A picture to (N, 3, tile, tile), row by row; N is the product of the numbers of
    `plan.tile_starts` across and down. What a smaller picture lacks is mirrored."""
    image, out = _picture(gpu, picture), _planes(gpu, tiles, BATCH)
    across, down = _starts(image, out, 1, overlap)
    tile = out.shape[2]
    gpu.launch(
        "cut_tiles",
        (*_grid(tile, tile), out.shape[0]),
        BLOCK,
        out.address,
        _fp16(out),
        *_extent(image),
        gpu.upload(np.concatenate([across, down])),
        np.int32(len(across)),
        np.int32(tile),
    )


def blend_tiles(gpu: Gpu, tiles: Any, picture: Any, scale: int, overlap: int) -> None:
    """The tiles of `cut_tiles`, `scale` times enlarged, to the enlarged picture: each fades into
    its neighbours. overlap: that of `cut_tiles`."""
    image, source = _picture(gpu, picture), _planes(gpu, tiles, BATCH)
    across, down = _starts(image, source, scale, overlap)
    gpu.launch(
        "blend_tiles",
        _grid(image.shape[1], image.shape[0]),
        BLOCK,
        *_extent(image),
        source.address,
        _fp16(source),
        gpu.upload(np.concatenate([across, down]) * np.int32(scale)),
        np.int32(len(across)),
        np.int32(len(down)),
        np.int32(source.shape[2]),
        np.int32(overlap * scale),
    )


def _convert(
    gpu: Gpu, kernel: str, luma: Any, chroma: Any, picture: Any, matrix: str, full: bool
) -> None:
    if matrix not in LUMA:
        raise UsageError(f"matrix {matrix!r} is not one of {', '.join(LUMA)}")
    image, grey, colour = _picture(gpu, picture), gpu.view(luma), gpu.view(chroma)
    height, width = image.shape[:2]
    half = ((height + 1) // 2, (width + 1) // 2)
    if (
        grey.dtype not in (np.uint8, np.uint16)
        or colour.dtype != grey.dtype
        or grey.shape not in ((height, width), (height, width, 1))
        or colour.shape != (*half, 2)
        or not (grey.packed(1) and colour.packed(1))
    ):
        raise UsageError(
            f"planes {grey.dtype} {grey.shape} and {colour.dtype} {colour.shape} are no NV12 or "
            f"P010 of {width}×{height}"
        )
    gpu.launch(
        kernel,
        _grid(half[1], half[0]),
        BLOCK,
        image.address,
        np.int64(image.strides[0]),
        grey.address,
        np.int64(grey.strides[0]),
        colour.address,
        np.int64(colour.strides[0]),
        np.int32(width),
        np.int32(height),
        np.int32(8 if grey.dtype == np.uint8 else 10),
        np.int32(full),
        *(np.float32(weight) for weight in LUMA[matrix]),
    )


def _starts(image: View, tiles: View, scale: int, overlap: int) -> list[NDArray[np.int32]]:
    """Where the tiles begin across and down, in pixels of the picture at scale 1."""
    tile, (height, width) = tiles.shape[2] // scale, image.shape[:2]
    if any(side % scale for side in (*tiles.shape[2:], height, width)) or not 0 <= overlap < tile:
        raise UsageError(
            f"tiles {tiles.shape} that overlap by {overlap} do not fit {width}×{height} at "
            f"scale {scale}"
        )
    starts = [tile_starts(side // scale, tile, overlap) for side in (width, height)]
    if tiles.shape[0] != len(starts[0]) * len(starts[1]):
        raise UsageError(
            f"{tiles.shape[0]} tiles, and {len(starts[0])} × {len(starts[1])} are needed"
        )
    return starts


def _picture(gpu: Gpu, array: Any) -> View:
    view = gpu.view(array)
    if (
        view.dtype != np.uint8
        or len(view.shape) != 3
        or view.shape[2] != 3
        or 0 in view.shape
        or not view.packed(1)
    ):
        raise UsageError(f"a picture is uint8 (H, W, 3); this one is {view.dtype} {view.shape}")
    return view


def _planes(gpu: Gpu, array: Any, shape: tuple[str, ...]) -> View:
    """A crop (3, side, side), or a batch of such, whose shape is described by `shape`."""
    view = gpu.view(array)
    ok = len(view.shape) == len(shape) and view.shape[-3] == 3 and view.shape[-1] == view.shape[-2]
    if not ok or view.dtype not in (np.float16, np.float32) or not view.packed(0):
        raise UsageError(
            f"float16 or float32 ({', '.join(shape)}), contiguous, is wanted; this one is "
            f"{view.dtype} {view.shape}"
        )
    return view


def _extent(view: View) -> tuple[Any, ...]:
    """A picture or plane as the kernels take it: address, pitch, width, height."""
    height, width = view.shape[:2]
    return view.address, np.int64(view.strides[0]), np.int32(width), np.int32(height)


def _fp16(view: View) -> np.int32:
    return np.int32(view.dtype == np.float16)


def _grid(width: int, height: int) -> tuple[int, int]:
    return -(-width // BLOCK[0]), -(-height // BLOCK[1])
