"""What others do with the same weights, pictures, faces and threads, to stand beside fhrt.

PyTorch, torch.compile and ONNX Runtime are the packages themselves. gfpgan, facexlib and facefusion
do not install beside the torch and NumPy that fhrt runs with: what stands for them is the way that
they take, written anew here, without the parsing network that facexlib adds to every face, and with
the faces already found. Only this file of the package imports torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.bench.cases import Gap
from fhrt.errors import first_line
from fhrt.faces import TEMPLATE, TEMPLATE_SIDE, Face, Matrix, Picture
from fhrt.models import Recipe
from fhrt.runtime.session import parse_device
from fhrt.video.reader import Frame, Reader
from fhrt.video.writer import DEFAULT, Writer

if TYPE_CHECKING:
    from torch import nn

    from fhrt.restorer import Restorer
    from fhrt.video.reader import Packet

Crop = NDArray[np.float32]  # (1, 3, S, S) RGB in [0, 1]
BORDER = (135, 133, 132)  # what facexlib puts around a picture


@dataclass(frozen=True)
class Scene:
    """A picture and faces given in it, all to be restored at crops of `side` pixels."""

    picture: Picture
    faces: Sequence[Face]
    side: int


@dataclass(frozen=True)
class Peer:
    """how: whether a package does it, or which loop stands for it."""

    name: str
    how: str
    call: Callable[[Scene], Picture]


def photo_peers(
    recipe: Recipe, scene: Scene, device: str, threads: int, compiled: bool = True
) -> tuple[list[Peer], list[Gap]]:
    """The peers that can restore this scene. threads: 0 for all. compiled: whether torch.compile is
    to be tried, which takes a minute or more."""
    found, gaps = [], []
    ways: list[tuple[str, str, Callable[[], Callable[[Crop], Crop]], Any]] = [
        (
            "PyTorch eager",
            "gfpgan's loop: one face at a time, pasted on the whole picture",
            lambda: eager(recipe, device, threads),
            paste_soft,
        ),
        (
            "ONNX Runtime, its defaults",
            "facefusion's loop: one face at a time, pasted on the whole picture",
            lambda: plain_onnx(recipe, device, threads),
            paste_box,
        ),
    ]
    if compiled:
        how = "gfpgan's loop around torch.compile"
        ways.append(
            ("torch.compile", how, lambda: eager(recipe, device, threads, True), paste_soft)
        )
    else:
        gaps.append(Gap("torch.compile", "left out by --quick: it compiles for a minute"))
    for name, how, opened, paste in ways:
        try:
            network = opened()
            peer = Peer(name, how, _loop(network, paste))
            peer.call(scene)
        except Exception as error:  # compilers, torch and onnxruntime each raise their own
            gaps.append(Gap(f"{name} ({device})", first_line(error)))
        else:
            found.append(peer)
    return found, gaps


def _loop(
    network: Callable[[Crop], Crop], paste: Callable[[Picture, Picture, Matrix], Picture]
) -> Callable[[Scene], Picture]:
    """One face after the other: cut out, to float, through the network, to bytes; then all are
    pasted, each on the whole picture."""

    def restore(scene: Scene) -> Picture:
        done: list[tuple[Picture, Matrix]] = []
        size = (scene.side, scene.side)
        template = TEMPLATE * (scene.side / TEMPLATE_SIDE)
        for face in scene.faces:
            matrix = cv2.estimateAffinePartial2D(face.landmarks, template, method=cv2.LMEDS)[0]
            cut = cv2.warpAffine(
                scene.picture, matrix, size, borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER
            )
            given = np.ascontiguousarray((cut / 255.0).astype(np.float32).transpose(2, 0, 1)[None])
            made = network(given)[0].transpose(1, 2, 0)
            done.append(((made.clip(0, 1) * 255).round().astype(np.uint8), matrix))
        whole = scene.picture.copy()
        for made, matrix in done:
            whole = paste(whole, made, matrix)
        return whole

    return restore


def paste_soft(whole: Picture, face: Picture, matrix: Matrix) -> Picture:
    """As facexlib does without its parsing network: the face and a white square are warped onto the
    whole picture, the square is eroded and blurred by a share of its size, and everything is
    blended in float."""
    size = (whole.shape[1], whole.shape[0])
    back = cv2.invertAffineTransform(matrix)
    warped = cv2.warpAffine(face, back, size)
    square = cv2.warpAffine(np.ones(face.shape[:2], np.float32), back, size)
    square = cv2.erode(square, np.ones((2, 2), np.uint8))
    edge = max(1, int(float(square.sum()) ** 0.5) // 20)
    soft = cv2.erode(square, np.ones((2 * edge, 2 * edge), np.uint8))
    soft = cv2.GaussianBlur(soft, (2 * edge + 1, 2 * edge + 1), 0)[..., None]
    blended: Picture = (soft * (square[..., None] * warped) + (1 - soft) * whole).astype(np.uint8)
    return blended


def paste_box(whole: Picture, face: Picture, matrix: Matrix) -> Picture:
    """As facefusion does: a square blurred at its edges in the crop, warped with the face onto the
    whole picture, and everything blended in float."""
    side = face.shape[0]
    size = (whole.shape[1], whole.shape[0])
    back = cv2.invertAffineTransform(matrix)
    edge = max(1, round(side * 0.15))
    box = np.zeros((side, side), np.float32)
    box[edge:-edge, edge:-edge] = 1
    box = cv2.GaussianBlur(box, (0, 0), edge / 2)
    mask = cv2.warpAffine(box, back, size).clip(0, 1)[..., None]
    warped = cv2.warpAffine(face, back, size, borderMode=cv2.BORDER_REPLICATE)
    blended: Picture = (mask * warped + (1 - mask) * whole).astype(np.uint8)
    return blended


def eager(
    recipe: Recipe, device: str, threads: int, compiled: bool = False
) -> Callable[[Crop], Crop]:
    """The network of a recipe in PyTorch. Raises as `exporting.to_onnx.network_of`."""
    from fhrt.runtime.session import need

    need("torch", "train")
    import torch

    if threads:
        torch.set_num_threads(threads)
    kind, index = parse_device(device)
    place = torch.device(f"cuda:{index}" if kind == "cuda" else "cpu")
    module: Any = _network(recipe).to(place)
    if compiled:
        module = torch.compile(module)

    def run(crop: Crop) -> Crop:
        with torch.inference_mode():
            made: Crop = module(torch.from_numpy(crop).to(place)).cpu().numpy()
        return made

    return run


def plain_onnx(recipe: Recipe, device: str, threads: int) -> Callable[[Crop], Crop]:
    """The ONNX file of a recipe in an onnxruntime session as others open it."""
    import onnxruntime as ort

    from fhrt.runtime.onnx import PROVIDERS

    kind, index = parse_device(device)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if threads:
        options.intra_op_num_threads = threads
    provider = (PROVIDERS[kind], {"device_id": index} if kind == "cuda" else {})
    session = ort.InferenceSession(recipe.onnx_path(), options, providers=[provider])
    name = session.get_inputs()[0].name

    def run(crop: Crop) -> Crop:
        made: Crop = session.run(None, {name: crop})[0]
        return made

    return run


def decode_all_then_process(source: Path, target: Path, restorer: Restorer) -> None:
    """A film as scripts do it: every frame decoded into a list, then all restored, then all
    encoded; with the same reader, restorer and writer."""
    with Reader(source) as reader, Writer(target, reader, DEFAULT) as writer:
        items: list[Frame | Packet] = list(reader)
        frames = [item for item in items if isinstance(item, Frame)]
        done = iter(list(restorer.frames([frame.picture for frame in frames])))
        for item in items:
            if isinstance(item, Frame):
                writer.frame(item, next(done).picture)
            else:
                writer.packet(item)
        writer.finish()
        writer.commit()


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """torch has one number of threads for all: set back at the end."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seed(recipe: Recipe, folder: Path) -> None:
    """Write the torch weights and the ONNX file of a recipe with the network's own initialisation,
    from seed 0, into `folder`, under the names that the catalogue looks for: for latency alone."""
    import onnx
    import torch

    from fhrt.exporting.to_onnx import trace
    from fhrt.networks import build

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = build(recipe.network, **recipe.options).eval()
    names = [file.file for file in recipe.checkpoint.files] or [f"{recipe.name}.pth"]
    for name in names:
        torch.save(network.state_dict(), folder / name)
    made = folder / f".{recipe.name}.onnx.part"
    onnx.save(trace(network, recipe), str(made))
    made.replace(folder / f"{recipe.name}.onnx")


def _network(recipe: Recipe) -> nn.Module:
    from fhrt.exporting.to_onnx import network_of
    from fhrt.runtime.torch import recipe_weights

    return network_of(recipe, recipe_weights(recipe), recipe.name)
