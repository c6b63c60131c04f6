"""What each setup gives on the protocol of its recipe, and what it costs beside fp32 in ONNX
Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fhrt.bench.cases import Gap, Setup, open_setup
from fhrt.quality.measures import measures_for
from fhrt.quality.overview import NIQE_SIDE, folder_for
from fhrt.quality.protocols import PROTOCOLS, case_of, files_of
from fhrt.quality.scoring import rate


def score(
    setups: Sequence[Setup],
    data: Path,
    threads: int,
    embedder: Path | None = None,
    niqe: Path | None = None,
) -> tuple[dict[str, dict[str, Any]], list[Gap]]:
    """{setup's key: {protocol, n, side, input_psnr, psnr, psnr_se, ssim, …, psnr_cost, ssim_cost}};
    side is that of the pictures which the network is given, the costs are fp32 in ONNX Runtime on
    the CPU minus this, each picture with itself. data: a folder of aligned faces, or one with the
    folders 256 and 512. Raises InputError without pictures.
    """
    found: dict[str, dict[str, Any]] = {}
    gaps: list[Gap] = []
    for name in dict.fromkeys(setup.name for setup in setups):
        same = [setup for setup in setups if setup.name == name]
        protocol = same[0].recipe.protocol or _usual(same[0])
        if protocol not in PROTOCOLS:
            gaps.append(Gap(f"quality of {name}", "its recipe names no protocol"))
            continue
        folder = folder_for(data, protocol)
        case = case_of(files_of(folder)[0], 0, protocol)
        fits = min(case.truth.shape[:2]) >= NIQE_SIDE
        measures = measures_for(folder, embedder, niqe if fits else None)
        networks = {setup.key: open_setup(setup, threads) for setup in same}
        ratings = {rating.model: rating for rating in rate(networks, folder, protocol, measures)}
        exact = next((r for key, r in ratings.items() if key.endswith(" onnx fp32 cpu")), None)
        for key, rating in ratings.items():
            summary = rating.summary()
            figures: dict[str, Any] = {"protocol": protocol, "n": summary["n"]}
            figures["side"] = case.given.shape[0]
            figures["input_psnr"] = summary["input"]["psnr"]["mean"]
            for metric, mean in summary["output"].items():
                figures |= {metric: mean["mean"], f"{metric}_se": mean["se"]}
            if exact is not None:
                for metric in ("psnr", "ssim"):
                    before, after = (r.values["output"][metric] for r in (exact, rating))
                    figures[f"{metric}_cost"] = float(np.mean(np.subtract(before, after)))
            found[key] = figures
    return found, gaps


def _usual(setup: Setup) -> str:
    """The protocol of a recipe that names none, as those of files and official models: blind faces
    of its own size, where there is such."""
    recipe = setup.recipe
    if recipe.task != "restore" or not recipe.sizes:
        return ""
    return f"blind-{min(recipe.sizes)}"
