"""`fhrt eval`: score models on a folder of good pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fhrt.faces import Picture
    from fhrt.quality.protocols import Case
    from fhrt.runtime.session import Session


def evaluate(
    data: Annotated[
        Path,
        typer.Option("--data", help="A folder of aligned faces; for detection, of photos.csv."),
    ],
    model: Annotated[
        list[str] | None, typer.Argument(help="Names of `fhrt models`, or ONNX files.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="blind-256, blind-256@0.5 (half as strong), blind-512, clean, sr4-256, sr4-128, "
            "sr8-128, thermal-256, occlusion-256, or detection.",
        ),
    ] = "",
    every: Annotated[
        bool,
        typer.Option("--all", help="Every bundled system, each on the protocol of its recipe."),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here.")
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", help="A contact sheet: input, outputs and truth of every 16th."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="A folder for tables, figures and a page; needs fhrt[eval]."),
    ] = None,
    embedder: Annotated[
        Path | None, typer.Option(help="A face recognition ONNX file: adds identity to the truth.")
    ] = None,
    niqe: Annotated[
        Path | None, typer.Option(help="NIQE's parameters, niqe_pris_params.npz: adds NIQE.")
    ] = None,
    device: Annotated[str, typer.Option(envvar="FHRT_DEVICE", help="auto, cpu, cuda:N.")] = "auto",
    runtime: Annotated[
        str,
        typer.Option(
            envvar="FHRT_RUNTIME",
            help="auto, onnx, openvino, openvino-bf16, openvino-bf16x2, torch.",
        ),
    ] = "auto",
    detector: Annotated[
        Path | None, typer.Option(help="A YuNet file to score in place of the bundled detector.")
    ] = None,
) -> None:
    """Score models: PSNR and SSIM of their inputs and their outputs against the truth.

    One model prints its figures as JSON, several a list of them under "models".
    `fhrt eval --all --data faces/test --report DIR` prints one table of all bundled systems.
    `fhrt eval detector --protocol detection` scores the face detector against photos.csv.
    """
    from fhrt.errors import UsageError
    from fhrt.pictures import write_atomically

    names = model or []
    if every and (names or protocol or sheet):
        raise UsageError("--all takes no model, --protocol or --sheet: it scores every system")
    if not every and not (names and protocol):
        raise UsageError("name a model and a --protocol, or score every system with --all")
    if every:
        result = _overview(data, report, embedder, niqe, device, runtime)
    elif protocol == "detection":
        result = _detection(names, data, detector, device)
    else:
        networks = partial(_open, names, device, runtime)
        result = _restoration(networks, data, protocol, sheet, report, embedder, niqe)
    text = json.dumps(result, indent=2)
    if not every:
        print(text, flush=True)
    if json_file is not None:
        write_atomically(json_file, (text + "\n").encode())


def _restoration(
    open_networks: Callable[[], dict[str, Session]],
    data: Path,
    protocol: str,
    sheet: Path | None,
    report: Path | None,
    embedder: Path | None,
    niqe: Path | None,
) -> dict[str, Any]:
    import numpy as np

    from fhrt.pictures import encode_picture, write_atomically
    from fhrt.quality.measures import measures_for
    from fhrt.quality.protocols import files_of, protocol_of
    from fhrt.quality.report import write_files, write_report
    from fhrt.quality.scoring import curve, examples, rate
    from fhrt.runtime.session import need

    # what is wrong is said before a network is opened, and long before the scores are lost
    protocol_of(protocol)
    files_of(data)
    if report is not None:
        need("matplotlib", "eval")
        write_files(report, {})
    measures = measures_for(data, embedder, niqe)
    networks = open_networks()
    rows: list[Picture] = []
    seen = 0

    def see(path: Path, case: Case, outputs: dict[str, Picture]) -> None:
        nonlocal seen
        if sheet is not None and seen % 16 == 0:
            rows.append(np.hstack([case.baseline, *outputs.values(), case.truth]))
        seen += 1

    ratings = rate(networks, data, protocol, measures, see)
    if sheet is not None:
        write_atomically(sheet, encode_picture(np.vstack(rows), sheet))
    if report is not None:
        shown = {r.model: examples(networks[r.model], r, data) for r in ratings}
        write_report(report, ratings, curve(networks, data, protocol), shown)
    summaries = [rating.summary() for rating in ratings]
    return summaries[0] if len(summaries) == 1 else {"models": summaries}


def _open(names: list[str], device: str, runtime: str) -> dict[str, Session]:
    """The models by what to call them: the recipe's name, or the path where two share that."""
    from fhrt.errors import UsageError
    from fhrt.exporting.engine_cache import open_fitting

    networks: dict[str, Session] = {}
    for name in names:
        session = open_fitting(name, device, runtime)
        shown = name if session.name in networks else session.name
        if shown in networks:
            raise UsageError(f"{name} is named twice")
        networks[shown] = session
    return networks


def _overview(
    data: Path,
    report: Path | None,
    embedder: Path | None,
    niqe: Path | None,
    device: str,
    runtime: str,
) -> dict[str, Any]:
    """Prints the table of all systems; with a folder, writes it there with a contact sheet."""
    from fhrt.exporting.engine_cache import open_fitting
    from fhrt.pictures import encode_picture
    from fhrt.quality import overview, tables
    from fhrt.quality.report import write_files

    if report is not None:
        write_files(report, {})  # a folder that cannot be made is said before minutes of scoring
    scored = overview.score_systems(
        data, lambda recipe: open_fitting(recipe, device, runtime), embedder, niqe
    )
    table = tables.markdown(overview.cells(scored))
    print(table, end="", flush=True)
    result = {"models": [system.summary for system in scored]}
    if report is not None:
        sheet = overview.contact_sheet(scored, data)
        files = {
            "table.md": table.encode(),
            "results.json": (json.dumps(result, indent=1) + "\n").encode(),
            "systems.png": encode_picture(sheet, report / "systems.png"),
        }
        write_files(report, files)
    return result


def _detection(names: list[str], data: Path, detector: Path | None, device: str) -> dict[str, Any]:
    from fhrt.detect import open_detector
    from fhrt.errors import UsageError
    from fhrt.pictures import read_photo
    from fhrt.quality.detection import score_detector

    if names != ["detector"]:
        raise UsageError("the detection protocol scores `detector` (or --detector FILE)")
    detect = open_detector(detector, device, threshold=0.3)
    scores = score_detector(detect, data, lambda path: read_photo(path).picture)
    threshold = scores.threshold()
    kinds = sorted({face.kind for face in scores.faces})
    return {
        "model": str(detector or names[0]),
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
