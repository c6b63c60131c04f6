"""Every model through `fhrt export` to an engine, with times, sizes and parities.

    pytest benchmarks/test_export.py -s

Prints a row of the README's table for each: ONNX fp32, its largest difference from torch over the
range of the output, ONNX FP16, its PSNR to fp32, engine FP16, seconds of the three. Other people's
networks have the seeded weights of ../shared/reference, laid out as they publish them; without it
they are skipped.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fhrt[train] is not installed")
pytest.importorskip("tensorrt_rtx", reason="fhrt[rtx] is not installed")

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "networks"))
from reference import REFERENCE, seeded  # noqa: E402

from fhrt.bench.peers import eager  # noqa: E402
from fhrt.bench.timing import alternate  # noqa: E402
from fhrt.errors import RuntimeMissing  # noqa: E402
from fhrt.exporting.builders import EngineOptions  # noqa: E402
from fhrt.exporting.parity import compare, of_graph, spans  # noqa: E402
from fhrt.exporting.precision import emulate, lower  # noqa: E402
from fhrt.exporting.sources import Network  # noqa: E402
from fhrt.exporting.steps import Wish, export, face_batches  # noqa: E402
from fhrt.models import Conversion, recipe, recipes  # noqa: E402
from fhrt.networks import gfpgan  # noqa: E402
from fhrt.runtime.cpu import usable_cores  # noqa: E402
from fhrt.runtime.session import open_session  # noqa: E402

SEEDED = {  # recipe: the list of keys that its weights are drawn by
    "gfpgan-v1.4": "gfpgan-v1-clean",
    "realesrgan-x4plus": "rrdbnet-x4plus",
    "realesrgan-x2plus": "rrdbnet-x2plus",
    "realesrgan-anime-6b": "rrdbnet-x4plus-anime-6b",
    "realesr-general-x4v3": "srvgg-general-x4v3",
    "realesr-animevideov3": "srvgg-animevideov3",
    "retinaface-resnet50": "retinaface-resnet50",
    "retinaface-mobilenet0.25": "retinaface-mobilenet0.25",
    "parsenet": "parsenet",
    "restoreformer": "restoreformer",
    "facesr-v1": "facesr-v1",
    "facesr-v2": "facesr-v2",
}
OURS = [name for name, found in recipes().items() if found.trained_on or not found.checkpoint.files]
ENGINE = EngineOptions("tensorrt_rtx", compute_capabilities=("75", "80", "86", "89", "120", "121"))
FACES = REFERENCE.parent / "faces" / "test" / "256"
needs_shared = pytest.mark.skipif(not FACES.is_dir(), reason="../shared is not here")


def published(name: str, folder: Path, weights: float = 1.0, styles: float = 1.0) -> Path:
    """Seeded weights as their authors lay them out; of GFPGAN, all tensors of the modulated
    convolutions times `weights`, and the styles that they then make times `styles`."""
    found, state = recipe(name), seeded(SEEDED[name])
    for key in state:
        if "modulated_conv." in key:
            state[key] = state[key] * weights
        if "modulated_conv.modulation." in key:
            state[key] = state[key] * styles
    state = {found.checkpoint.prefix + key: value for key, value in state.items()}
    keys = found.checkpoint.state_keys
    path = folder / f"{name}.pth"
    torch.save({keys[0]: state} if keys else state, path)
    return path


@needs_shared
@pytest.mark.parametrize("name", sorted({*OURS} - {*SEEDED}) + sorted(SEEDED))
def test_from_checkpoint_to_engine(name: str, tmp_path: Path) -> None:
    checkpoint = published(name, tmp_path) if name in SEEDED else None
    facts = export(
        Network(recipe(name), checkpoint), tmp_path / "out", Wish("tensorrt", engine=ENGINE)
    )
    exact, half, _ = facts["steps"]
    (first,), (second,) = exact["parity"].values(), half["parity"].values()
    sizes = [f"{step['bytes'] / 1e6:.1f} MB" for step in facts["steps"]]
    seconds = " + ".join(f"{step['seconds']:.0f}" for step in facts["steps"])
    print(
        f"\n| {name} | {sizes[0]} | {first['largest']:.0e} "
        f"| {sizes[1]} | {second['psnr']:.0f} dB | "
        f"{sizes[2]} | {seconds} |",
        end="",
    )


@needs_shared
def test_gfpgan_takes_any_batch(tmp_path: Path) -> None:
    network = Network(recipe("gfpgan-v1.4"), published("gfpgan-v1.4", tmp_path))
    reference = network.write(tmp_path / "exact.onnx")
    faces = list(face_batches(FACES, network.recipe, 8))
    graph = of_graph(tmp_path / "exact.onnx")
    for batch in (1, 2, 3, 8):
        parity = compare(reference, graph, [np.concatenate(faces[:batch])])
        print(f"\nbatch {batch}: {parity}", end="")
        assert parity.largest <= 1e-4 and not parity.not_finite


@needs_shared
@pytest.mark.parametrize(
    ("weights", "styles", "count"), [(1.0, 1.0, 200), (8.0, 1.0, 20), (8.0, 8.0, 200)]
)
def test_gfpgan_in_fp16_gives_the_same_faces(
    weights: float, styles: float, count: int, tmp_path: Path
) -> None:
    found = recipe("gfpgan-v1.4")
    exact, half, shown = (tmp_path / f"{name}.onnx" for name in ("exact", "half", "shown"))
    Network(found, published("gfpgan-v1.4", tmp_path, weights, styles)).write(exact)
    lower(exact, found, "fp16", half)
    emulate(half, shown)
    in_fp32, in_fp16 = of_graph(exact), of_graph(shown)
    found_psnr = []
    for number, face in enumerate(face_batches(FACES, found, count)):
        parity = compare(in_fp32, in_fp16, [face])
        found_psnr.append(parity.psnr)
        print(f"\n{weights:g} and {styles:g} times, face {number}: {parity}", end="", flush=True)
        assert parity.psnr >= 55 and not parity.not_finite
    assert len(found_psnr) == count
    mean = sum(found_psnr) / count
    print(
        f"\nweights {weights:g} times, their styles {styles:g} times more, {count} faces: "
        f"{min(found_psnr):.1f} dB at least, {mean:.1f} mean"
    )


@needs_shared
def test_gfpgan_is_faster_than_pytorch_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `--runtime auto` takes here, and bf16 where the processor multiplies it, beside PyTorch
    eager in fp32, with all cores each. With these drawn weights bf16 is too coarse for auto."""
    faster_than = {"auto": 1.3, "openvino-bf16x2": 1.9, "openvino-bf16": 1.9}
    found, name = recipe("gfpgan-v1.4"), "gfpgan-v1.4"
    checkpoint = tmp_path / found.checkpoint.files[0].file
    published(name, tmp_path).rename(checkpoint)
    Network(found, checkpoint).write(tmp_path / f"{name}.onnx")
    monkeypatch.setenv("FHRT_WEIGHTS", str(tmp_path))
    sessions = {}
    for runtime in faster_than:
        with suppress(RuntimeMissing):
            sessions[runtime] = open_session(name, "cpu", runtime)
    exact = eager(found, "cpu", usable_cores())
    faces = list(face_batches(FACES, found, 20))
    calls = {word: partial(session, faces[0]) for word, session in sessions.items()}
    times = alternate({**calls, "eager": partial(exact, faces[0])}, 16, beside="eager")
    expected = [exact(face) for face in faces]
    for word, session in sessions.items():
        faster = 1 / times[word].over()
        errors = [one - session(face) for one, face in zip(expected, faces, strict=True)]
        ranged = [error / spans(one) for error, one in zip(errors, expected, strict=True)]
        own, one = (
            [-10 * np.log10(np.mean(error**2)) for error in kind] for kind in (ranged, errors)
        )
        print(
            f"\n{word}, {session.runtime}: {np.median(times[word].wall):.2f} s a face, "
            f"{faster:.2f} times as fast as eager; over the range of the output "
            f"{min(own):.1f} dB at least, {np.mean(own):.1f} mean, over 1 {min(one):.1f} and "
            f"{np.mean(one):.1f}"
        )
        assert faster >= faster_than[word]
        # plain bf16 keeps it on the mean of the faces only: bf16x2 is there for that
        kept = {"auto": min(one), "openvino-bf16x2": min(own), "openvino-bf16": np.mean(own)}
        assert kept[word] >= 45 and min(own) >= 40


@needs_shared
def test_plain_fp16_overflows_where_ours_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain: weights times style, and the sum of their squares, all in fp16, as GFPGAN's own code
    under autocast or `.half()` computes them (Karras et al. 2020, equation 3). A sum of squares
    grows with (weight · style)². With weights times 8, those of the layers that make the styles
    among them, it is 8,249 at most on a test face and fits; with the styles 8 times larger once
    more it does not (fp16 ends at 65,504)."""

    def plain(self, x, style, enlarge=False):  # type: ignore[no-untyped-def]
        scale = self.modulation(style)
        if self.demodulate:
            squares = self.weight[0].square().sum((2, 3))
            gain = 2**0.5 * torch.rsqrt(scale.square() @ squares.T + 1e-8)
        x = x * scale[:, :, None, None]
        x = gfpgan._doubled(x) if enlarge else x
        x = torch.nn.functional.conv2d(x, self.weight[0], padding=self.weight.shape[-1] // 2)
        return x * gain[:, :, None, None] if self.demodulate else x

    found = recipe("gfpgan-v1.4")
    ours = Network(found, published("gfpgan-v1.4", tmp_path, 8.0, 8.0))
    monkeypatch.setattr(gfpgan.ModulatedConv, "forward", plain)
    network = Network(found, tmp_path / "gfpgan-v1.4.pth")
    face = next(iter(face_batches(FACES, found, 1)))
    network.write(tmp_path / "plain.onnx")
    monkeypatch.undo()
    exact = ours.write(tmp_path / "exact.onnx")
    in_fp32 = compare(exact, of_graph(tmp_path / "plain.onnx"), [face])
    assert in_fp32.psnr > 80, "the same function, in fp32"
    everything = replace(found, export=Conversion())  # nothing stays fp32
    lower(tmp_path / "plain.onnx", everything, "fp16", tmp_path / "half.onnx")
    emulate(tmp_path / "half.onnx", tmp_path / "shown.onnx")
    in_fp16 = compare(exact, of_graph(tmp_path / "shown.onnx"), [face])
    print(f"\nplain in fp32: {in_fp32}; plain in fp16: {in_fp16}")
    # what overflows is a sum of squares, and the gain that it gives is 0: finite, and wrong
    assert in_fp16.psnr < 40 or in_fp16.not_finite
