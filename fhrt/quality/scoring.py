"""Networks run over a protocol: every figure of every picture, their means, and a curve.

A figure belongs to a side: input (the baseline), output, for occlusions also composite (the output
with the pixels that were not occluded kept as they were given), and truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import InputError
from fhrt.faces import Picture
from fhrt.quality.measures import MASKED, PSNR, SSIM, Measure
from fhrt.quality.metrics import Mean
from fhrt.quality.protocols import Case, case_of, cases, protocol_of

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
See = Callable[[Path, Case, dict[str, Picture]], None]
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True)
class Rating:
    """What one model scored. values: side -> metric -> one value a file, in the files' order."""

    model: str
    protocol: str
    files: list[str]
    values: dict[str, dict[str, list[float]]]

    def summary(self) -> dict[str, Any]:
        """{model, protocol, n, SIDE: {METRIC: {mean, se}}, gain: …}; gain is output − input of each
        picture, so that its error is that of pairs."""
        given, output = self.values["input"], self.values["output"]
        gain = {
            metric: [after - before for before, after in zip(given[metric], values, strict=True)]
            for metric, values in output.items()
        }
        return {
            "model": self.model,
            "protocol": self.protocol,
            "n": len(self.files),
            **{
                side: {metric: asdict(Mean.of(values)) for metric, values in of.items()}
                for side, of in {**self.values, "gain": gain}.items()
            },
        }


@dataclass(frozen=True)
class Curve:
    """Mean PSNR of a protocol's inputs and of each model's outputs over its strengths."""

    protocol: str
    strengths: tuple[float, ...]
    lines: dict[str, list[Mean]]


@dataclass(frozen=True)
class Example:
    """A picture to show, with the PSNR of its input and of its output."""

    label: str
    file: str
    input: Picture
    output: Picture
    truth: Picture
    before: float
    after: float


def restored(network: Network, case: Case, model: str, protocol: str) -> Picture:
    """A network's output, uint8. Raises InputError where it has another size than the truth."""
    batch = case.given.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    values = network(batch)[0].transpose(1, 2, 0)
    output: Picture = np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
    if output.shape != case.truth.shape:
        raise InputError(
            f"{model} gives {output.shape[1]}×{output.shape[0]} on {protocol}, "
            f"whose truth is {case.truth.shape[1]}×{case.truth.shape[0]}"
        )
    return output


def rate(
    networks: Mapping[str, Network],
    folder: Path,
    protocol: str,
    measures: Sequence[Measure] = (PSNR, SSIM),
    see: See | None = None,
) -> list[Rating]:
    """Run every network over a protocol, one picture at a time. `see` is shown each of them, with
    the outputs by model. Raises as `cases` and `restored`."""
    ratings = [Rating(name, protocol, [], {}) for name in networks]
    for path, case in cases(folder, protocol):
        outputs = {
            name: restored(network, case, name, protocol) for name, network in networks.items()
        }
        whole = [*measures] if case.mask is None else [*measures, MASKED]
        given = {m.name: m.of(path, case.baseline, case) for m in whole}
        truth = {m.name: m.of(path, case.truth, case) for m in measures if m.of_truth}
        for rating in ratings:
            output = outputs[rating.model]
            figures = {"input": given, "output": {m.name: m.of(path, output, case) for m in whole}}
            if case.mask is not None:
                kept = np.where(case.mask[..., None], output, case.given)
                figures["composite"] = {m.name: m.of(path, kept, case) for m in measures}
            rating.files.append(path.name)
            for side, of in {**figures, "truth": truth}.items():
                for metric, value in of.items():
                    rating.values.setdefault(side, {}).setdefault(metric, []).append(value)
        if see is not None:
            see(path, case, outputs)
    return ratings


def score(network: Network, model: str, folder: Path, protocol: str) -> dict[str, Any]:
    """The summary (see `Rating`) of one network. Raises as `rate`."""
    return rate({model: network}, folder, protocol)[0].summary()


def curve(
    networks: Mapping[str, Network],
    folder: Path,
    protocol: str,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Curve | None:
    """PSNR over strength; None for a protocol without strengths. Raises as `rate`."""
    if protocol_of(protocol).graded is None:
        return None
    lines: dict[str, list[Mean]] = {"input": [], **{name: [] for name in networks}}
    for strength in strengths:
        ratings = rate(networks, folder, f"{protocol}@{strength:g}", [PSNR])
        lines["input"].append(Mean.of(ratings[0].values["input"]["psnr"]))
        for rating in ratings:
            lines[rating.model].append(Mean.of(rating.values["output"]["psnr"]))
    return Curve(protocol, strengths, lines)


def examples(network: Network, rating: Rating, folder: Path) -> list[Example]:
    """The pictures with the best, the median and the worst output by PSNR. They are made again
    rather than kept, so that no number of pictures fills the memory."""
    before, after = (rating.values[side]["psnr"] for side in ("input", "output"))
    order = np.argsort(after, kind="stable")
    found = []
    for label, place in (("best", -1), ("median", len(order) // 2), ("worst", 0)):
        i = int(order[place])
        case = case_of(folder / rating.files[i], i, rating.protocol)
        output = restored(network, case, rating.model, rating.protocol)
        shown = (case.baseline, output, case.truth)
        found.append(Example(label, rating.files[i], *shown, before[i], after[i]))
    return found
