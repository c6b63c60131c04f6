"""`fhrt eval`: score a model on a folder of good pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="A name of `fhrt models`, or an ONNX file.")],
    data: Annotated[
        Path,
        typer.Option("--data", help="A folder of aligned faces; for detection, of photos.csv."),
    ],
    protocol: Annotated[
        str,
        typer.Option("--protocol", help="blind-256, blind-512, clean, sr4-256, …, or detection."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="A contact sheet: input, output and truth of every 16th."),
    ] = None,
    device: Annotated[str, typer.Option(envvar="FHRT_DEVICE", help="auto, cpu, cuda:N.")] = "auto",
    runtime: Annotated[
        str, typer.Option(envvar="FHRT_RUNTIME", help="auto, onnx, torch.")
    ] = "auto",
    detector: Annotated[
        Path | None, typer.Option(help="A YuNet file to score in place of the bundled detector.")
    ] = None,
) -> None:
    """Score a model: PSNR and SSIM of its input and its output against the truth.

    `fhrt eval detector --protocol detection` scores the face detector against photos.csv.
    """
    from fhrt.pictures import write_atomically

    if protocol == "detection":
        result = _detection(model, data, detector, device)
    else:
        result = _restoration(model, data, protocol, device, runtime, sheet)
    text = json.dumps(result, indent=2)
    print(text, flush=True)
    if json_file is not None:
        write_atomically(json_file, (text + "\n").encode())


def _restoration(
    model: str, data: Path, protocol: str, device: str, runtime: str, sheet: Path | None
) -> dict[str, object]:
    import numpy as np

    from fhrt.pictures import encode_picture, write_atomically
    from fhrt.quality.protocols import Case, score
    from fhrt.runtime.session import open_session

    session = open_session(model, device, runtime)
    rows: list[np.ndarray] = []
    seen = 0

    def see(path: Path, case: Case, output: np.ndarray) -> None:
        nonlocal seen
        if sheet is not None and seen % 16 == 0:
            rows.append(np.hstack([case.baseline, output, case.truth]))
        seen += 1

    result = score(session, session.name, data, protocol, see)
    if sheet is not None:
        write_atomically(sheet, encode_picture(np.vstack(rows), sheet))
    return result


def _detection(model: str, data: Path, detector: Path | None, device: str) -> dict[str, object]:
    from fhrt.detect import open_detector
    from fhrt.errors import UsageError
    from fhrt.pictures import read_photo
    from fhrt.quality.detection import score_detector

    if model != "detector":
        raise UsageError("the detection protocol scores `detector` (or --detector FILE)")
    detect = open_detector(detector, device, threshold=0.3)
    scores = score_detector(detect, data, lambda path: read_photo(path).picture)
    threshold = scores.threshold()
    kinds = sorted({face.kind for face in scores.faces})
    return {
        "model": str(detector or model),
        "protocol": "detection",
        "empty_pictures": scores.empty_pictures,
        "threshold_for_one_false_face": threshold,
        "kinds": {
            kind: {
                "recall": scores.recall(kind, threshold),
                "landmark_error": scores.landmark_error(kind, threshold),
                "pooled_landmark_error": scores.pooled_landmark_error(kind, threshold),
            }
            for kind in kinds
        },
        "table": scores.table(threshold),
    }
