"""What a run tells of itself: log.csv, TensorBoard events, and grids of pictures."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fhrt.pictures import encode_picture, write_atomically


@dataclass(frozen=True)
class Reports:
    """What a run tells its caller: figures every `log_every` steps; each step done, and of how
    many; lines that a user should read."""

    figures: Callable[[int, dict[str, float]], None] = lambda step, figures: None
    progress: Callable[[int, int], None] = lambda step, steps: None
    say: Callable[[str], None] = lambda line: None


class Log:
    """Means of the figures since the last line, to log.csv, to TensorBoard and to a callback.

    `waiting` is the share of the time that went into waiting for data. Only a process with a
    callback writes. Lines of steps after `first`, of a run that was killed, are dropped.
    """

    def __init__(
        self, folder: Path, first: int, report: Callable[[int, dict[str, float]], None] | None
    ) -> None:
        self.report, self.path = report, folder / "log.csv"
        self.events = SummaryWriter(str(folder), purge_step=first) if report else None
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.spent = {"waiting": 0.0, "working": 0.0}
        self.steps = 0
        self.lines = [row for row in _read(self.path) if int(row["step"]) <= first]

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Counts the time inside as `waiting` or `working`."""
        begun = time.monotonic()
        yield
        self.spent[what] += time.monotonic() - begun
        self.steps += what == "working"

    def add(self, **figures: float) -> None:
        for key, value in figures.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
            self.counts[key] = self.counts.get(key, 0) + 1

    def write(self, step: int, **extra: float) -> None:
        """End a line: the means of what was added, and `extra`."""
        line = {key: value / self.counts[key] for key, value in self.sums.items()} | extra
        total = sum(self.spent.values())
        line["seconds_a_step"] = total / max(self.steps, 1)
        line["waiting"] = self.spent["waiting"] / max(total, 1e-9)
        self.sums, self.counts, self.steps = {}, {}, 0
        self.spent = dict.fromkeys(self.spent, 0.0)
        if self.report is None or self.events is None:
            return
        self.lines.append({"step": str(step)} | {k: f"{v:.6g}" for k, v in line.items()})
        self._write_csv()
        for key, value in line.items():
            self.events.add_scalar(key, value, step)
        self.report(step, line)

    def close(self) -> None:
        if self.events is not None:
            self.events.close()

    def _write_csv(self) -> None:
        """All lines again: a figure that comes later, as validation's, is a further column."""
        columns = list(dict.fromkeys(key for line in self.lines for key in line))
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.lines)


def write_grid(path: Path, given: Tensor, output: Tensor, truth: Tensor) -> None:
    """A picture, a row a face: given | output | truth. given and truth: uint8 (N, 3, H, W); output:
    the same as float in [0, 1]. What is given is enlarged by repeating its pixels."""
    rows = []
    for columns in zip(given, (output.clamp(0, 1) * 255).round(), truth, strict=True):
        side = int(truth.shape[-1])
        pictures = [c.cpu().numpy().transpose(1, 2, 0).astype(np.uint8) for c in columns]
        rows.append(
            np.hstack(
                [cv2.resize(p, (side, side), interpolation=cv2.INTER_NEAREST) for p in pictures]
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encode_picture(np.vstack(rows), path))


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
