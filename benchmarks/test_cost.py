"""What the main path costs beside its networks, and the networks beside the machine.

    pytest benchmarks/test_cost.py -s

Every figure is a ratio of medians measured in turn in one run; run it on a quiet machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from fhrt.detect import open_detector
from fhrt.models import recipe
from fhrt.restorer import Restorer, to_batch
from fhrt.runtime.onnx import open_graph


def medians(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Seconds of each call, the median over rounds in which they take turns; one round warms up."""
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            if turn:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


@pytest.fixture(scope="module")
def four_faces() -> np.ndarray:
    """1280×720 with four faces of about 110 pixels on a photograph without any."""
    picture = cv2.resize(skimage.data.coffee(), (1280, 720))
    face = skimage.data.astronaut()[0:300, 80:380]
    for x, y in ((30, 20), (420, 380), (700, 30), (960, 400)):
        picture[y : y + 300, x : x + 300] = face
    return picture


def test_the_whole_costs_little_more_than_its_networks(four_faces: np.ndarray) -> None:
    restorer = Restorer(device="cpu")
    faces = restorer.detect(four_faces)
    assert len(faces) == 4
    crops = [restorer._cut(four_faces, 0, face).before for face in faces]
    assert len({crop.shape for crop in crops}) == 1, "the four runs are one batch"
    batch = to_batch(crops)
    whole, detect, networks = medians(
        15,
        lambda: restorer.restore(four_faces),
        lambda: restorer.detect(four_faces),
        lambda: restorer.session(batch),
    )
    ratio = whole / (detect + networks)
    print(
        f"\nwhole {whole * 1e3:.0f} ms, detector {detect * 1e3:.0f} ms, "
        f"four faces of {crops[0].shape[0]} {networks * 1e3:.0f} ms: ratio {ratio:.3f}"
    )
    assert ratio <= 1.3


def test_a_face_runs_at_the_machines_ceiling() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from fhrt.networks import build

    with FlopCounterMode(display=False) as counter:
        build("restore")(torch.zeros(1, 3, 256, 256))
    flops = counter.get_total_flops()
    graph, _ = open_graph(recipe("restore").onnx_path(), "cpu")
    ceiling = open_matrix_product(side := 2048)
    matrix = np.random.default_rng(0).random((side, side), np.float32)
    face = np.random.default_rng(1).random((1, 3, 256, 256), np.float32)
    run, product = medians(
        25,
        lambda: graph.run(None, {"input": face}),
        lambda: ceiling.run(None, {"a": matrix, "b": matrix}),
    )
    rate = 2 * side**3 / product
    ratio = run / (flops / rate)
    print(
        f"\n{flops / 1e9:.2f} GFLOP in {run * 1e3:.1f} ms; a matrix product runs at "
        f"{rate / 1e9:.0f} GFLOP/s: ratio {ratio:.3f}"
    )
    assert ratio <= 1.15


def test_detection_takes_15_ms_at_320_on_one_core() -> None:
    detect = open_detector(device="cpu", threads=1)
    picture = cv2.resize(skimage.data.astronaut(), (320, 320))
    graph, _ = open_graph(recipe("detector").onnx_path(), "cpu", threads=1)
    canvas = np.zeros((1, 3, 320, 320), np.float32)
    one_pass, whole = medians(
        25, lambda: graph.run(None, {"input": canvas}), lambda: detect(picture)
    )
    print(f"\none pass at 320×320 {one_pass * 1e3:.1f} ms; all looks and landmarks of one face "
          f"of a 320×320 picture {whole * 1e3:.1f} ms")  # fmt: skip
    assert one_pass <= 0.015


def open_matrix_product(side: int) -> Any:
    """The product of two square float32 matrices in the same runtime with the same threads."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    shape = [side, side]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "ab"],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    # its threads must not go on spinning while the network has its turn
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model.SerializeToString(), options)
