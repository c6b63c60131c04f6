"""What the main path costs beside its networks, and the networks beside the machine.

    pytest benchmarks/test_cost.py -s

Every figure is a ratio measured in turn in one run; run it on a quiet machine.
"""

from __future__ import annotations

from functools import partial
from statistics import median

import cv2
import numpy as np
import pytest
import skimage.data

from fhrt.bench import scenes
from fhrt.bench.cases import batch_of, plan
from fhrt.bench.ceiling import fastest_product
from fhrt.bench.counts import count_graph
from fhrt.bench.timing import alternate
from fhrt.bench.whole import photo_rows
from fhrt.detect import open_detector
from fhrt.errors import RuntimeMissing
from fhrt.faces import choose_side
from fhrt.models import recipe
from fhrt.restorer import Restorer
from fhrt.runtime.onnx import open_graph
from fhrt.runtime.session import open_session


def test_the_whole_costs_little_more_than_its_networks() -> None:
    picture = scenes.four_faces()
    restorer = Restorer(device="cpu", runtime="onnx")
    faces = restorer.detect(picture)
    assert len(faces) == 4
    (side,) = {choose_side(face.landmarks, 1, restorer.session.sizes) for face in faces}
    batch = batch_of(4, side)
    times = alternate(
        {
            "whole": lambda: restorer.restore(picture),
            "detect": lambda: restorer.detect(picture),
            "networks": lambda: restorer.session(batch),
        },
        15,
    )
    whole, detect, networks = (median(taken.wall) for taken in times.values())
    found = whole / (detect + networks)
    print(
        f"\nwhole {whole * 1e3:.0f} ms, detector {detect * 1e3:.0f} ms, "
        f"four faces of {side} {networks * 1e3:.0f} ms: ratio {found:.3f}"
    )
    assert found <= 1.3


@pytest.mark.parametrize(
    ("runtime", "least"), [("openvino", 0.9), ("onnx", 0.8), ("openvino-bf16", 0.75)]
)
def test_a_face_runs_near_the_machines_ceiling(runtime: str, least: float) -> None:
    """Of a product of matrices at the same precision."""
    model, faces = recipe("restore"), batch_of(4, 256)
    try:
        session = open_session(model, "cpu", runtime)
    except RuntimeMissing as error:
        pytest.skip(str(error))
    product = fastest_product(precision=session.precision)
    work = count_graph(model.onnx_path(), faces.shape)
    calls = {"product": product.call, "faces": partial(session, faces)}
    times = alternate(calls, 25, beside="product")
    share = work.flops / product.work / times["faces"].over()
    rate = product.work / median(times["product"].wall)
    print(
        f"\na matrix product in {session.precision} runs at {rate / 1e9:.0f} GFLOP/s; "
        f"of it, four faces reach {share:.2f} in {runtime}"
    )
    assert share >= least


def test_the_whole_runs_at_seven_tenths_of_the_machines_ceiling() -> None:
    setups, _ = plan(["restore"], ["onnx", "openvino", "openvino-bf16"], ["fp32"], ["cpu"])
    rows = photo_rows(setups, 0, 20, 30.0)
    print()
    for row in rows:
        print(
            f"{row['key']}: {row['share']:.2f} of the ceiling, its detection "
            f"{row['share detect']:.2f}, its restoration {row['share restore']:.2f}"
        )
    assert max(row["share"] for row in rows) >= 0.7


def test_detection_takes_15_ms_at_320_on_one_core() -> None:
    detect = open_detector(device="cpu", threads=1)
    picture = cv2.resize(skimage.data.astronaut(), (320, 320))
    graph, _ = open_graph(recipe("detector").onnx_path(), "cpu", threads=1)
    canvas = np.zeros((1, 3, 320, 320), np.float32)
    times = alternate(
        {
            "one pass": lambda: graph.run(None, {"input": canvas}),
            "whole": lambda: detect(picture),
        },
        25,
    )
    one_pass, whole = (median(taken.wall) for taken in times.values())
    print(f"\none pass at 320×320 {one_pass * 1e3:.1f} ms; all looks and landmarks of one face "
          f"of a 320×320 picture {whole * 1e3:.1f} ms")  # fmt: skip
    assert one_pass <= 0.015
