"""The `detector` system: mosaics of photographs, aligned faces and face-free pieces."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fhrt.faces import Picture
from fhrt.networks.detector import STRIDES, Detector
from fhrt.training.config import Config
from fhrt.training.data import Dropped
from fhrt.training.labelled import Labelled, Sources, read_sources, spoil, warp, warp_faces

# Face sizes, the root of the box's area in pixels, that the cells of a stride answer for.
SIZES = {8: (0.0, 44.0), 16: (32.0, 112.0), 32: (80.0, 1e9)}
SMALLEST = 11.0  # pixels; smaller faces are neither asked for nor punished


class DetectorSystem:
    """Data, network and loss of the detector."""

    def __init__(self, data: Path, config: Config) -> None:
        self.side, self.size = int(config.options["side"]), int(config.options["batch"])
        self.sources: Sources = read_sources(data)
        self.dropped: tuple[Dropped, ...] = ()
        self.cells = cell_centres(self.side)

    def build(self) -> nn.Module:
        return Detector()

    def batch_size(self, step: int) -> int:
        return self.size

    def validation(self) -> None:
        """None: `fhrt eval detector` scores it on pictures of its own."""

    def sample(self, step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        picture, *faces = mosaic(self.sources, self.side, rng)
        planes = np.ascontiguousarray(picture.transpose(2, 0, 1))
        return {"picture": planes} | assign(self.cells, *faces)

    def output(self, network: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
        values = (batch["picture"].float() / 255).contiguous(memory_format=torch.channels_last)
        maps: list[Tensor] = network(values)
        return maps

    def loss(self, maps: list[Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Quality focal loss (Li et al. 2020) for the score, whose target is the box's IoU; GIoU
        (Rezatofighi et al. 2019) for the box; smooth L1 of the landmarks over the face's size."""
        out = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)  # (N, cells, 15)
        centres = torch.from_numpy(self.cells).to(out)
        stride = centres[:, 2:]
        positive = batch["positive"] > 0
        found = out[positive]
        at = centres[:, :2].expand(len(out), -1, -1)[positive]
        unit = stride.expand(len(out), -1, -1)[positive]
        boxes = torch.cat([at - found[:, 1:3] * unit, at + found[:, 3:5] * unit], 1)
        wanted = batch["boxes"][positive]
        overlap, generalised = giou(boxes, wanted)
        target = torch.zeros(out.shape[:2], device=out.device)
        target[positive] = overlap.detach().clamp(0, 1)
        count = max(1, len(found))
        logits = out[..., 0]
        focal = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        focal = focal * (torch.sigmoid(logits) - target).abs() ** 2
        score_loss = (focal * (batch["ignore"] == 0)).sum() / count
        box_loss = (1 - generalised).sum() / count
        size = (wanted[:, 2:] - wanted[:, :2]).prod(1).sqrt()[:, None]
        places = found[:, 5:] * unit + at.repeat(1, 5)
        landmark_loss = F.smooth_l1_loss(
            places / size, batch["landmarks"][positive].flatten(1) / size, beta=0.05
        )
        loss = 2.0 * score_loss + 1.5 * box_loss + 4.0 * landmark_loss
        return loss, {
            "score": float(score_loss.detach()),
            "box": float(box_loss.detach()),
            "landmarks": float(landmark_loss.detach()),
            "iou": float(overlap.detach().mean()) if len(found) else 0.0,
        }


def cell_centres(side: int) -> np.ndarray:
    """(cells, 3) float32: x, y of each cell's centre in pixels and its stride, finest first."""
    parts = []
    for stride in STRIDES:
        line = (np.arange(side // stride) + 0.5) * stride - 0.5
        x, y = np.meshgrid(line, line)
        parts.append(np.stack([x.ravel(), y.ravel(), np.full(x.size, stride)], 1))
    return np.concatenate(parts).astype(np.float32)


def assign(
    cells: np.ndarray, boxes: np.ndarray, landmarks: np.ndarray, ignore: np.ndarray
) -> dict[str, np.ndarray]:
    """What each cell is asked for: the cells around a face's centre answer, smaller faces first.

    positive (cells,); boxes (cells, 4) and landmarks (cells, 5, 2) where positive; ignore (cells,).
    """
    count = len(cells)
    positive, skipped = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    box_of = np.zeros((count, 4), np.float32)
    landmarks_of = np.zeros((count, 5, 2), np.float32)
    x, y, stride = cells.T
    sizes = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    for i in np.argsort(-sizes):  # a smaller face overwrites a larger one
        x0, y0, x1, y1 = boxes[i]
        if ignore[i] or sizes[i] < SMALLEST:
            skipped |= ((x > x0 - 2) & (x < x1 + 2) & (y > y0 - 2) & (y < y1 + 2)).astype(np.uint8)
            continue
        for level in STRIDES:
            low, high = SIZES[level]
            if low <= sizes[i] < high:
                reach = 1.25 * level
                near = (abs(x - (x0 + x1) / 2) < reach) & (abs(y - (y0 + y1) / 2) < reach)
                near &= stride == level
                positive[near] = 1
                box_of[near], landmarks_of[near] = boxes[i], landmarks[i]
    skipped[positive > 0] = 0
    return {"positive": positive, "boxes": box_of, "landmarks": landmarks_of, "ignore": skipped}


def mosaic(
    sources: Sources, side: int, rng: np.random.Generator
) -> tuple[Picture, np.ndarray, np.ndarray, np.ndarray]:
    """A square picture of side² pixels, its boxes, landmarks and which faces do not count."""
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = rng.integers(0, 256, 3)
    backdrop = sources.empty[rng.integers(len(sources.empty))]
    height, width = backdrop.mips[0].shape[:2]
    zoom = side / min(height, width) * rng.uniform(1.0, 1.6)
    slack = np.array([width, height]) * zoom - side
    move = -rng.random(2) * np.maximum(slack, 0)
    warp(backdrop, np.array([[zoom, 0, move[0]], [0, zoom, move[1]]]), picture)

    grid = int(rng.choice([1, 2, 3, 4, 6], p=[0.5, 0.22, 0.14, 0.09, 0.05]))
    lines = np.round(np.linspace(0, side, grid + 1)).astype(int)
    boxes, landmarks, ignore = [np.zeros((0, 4))], [np.zeros((0, 5, 2))], [np.zeros(0, bool)]
    for top, bottom in pairwise(lines):
        for left, right in pairwise(lines):
            source = _choose(sources, grid, rng)
            if source is None:
                continue
            tile = picture[top:bottom, left:right]
            faces = _draw(source, tile, rng)
            offset = np.array([left, top])
            boxes.append(faces[0] + np.tile(offset, 2))
            landmarks.append(faces[1] + offset)
            ignore.append(faces[2])
    return (
        spoil(picture, rng),
        np.concatenate(boxes),
        np.concatenate(landmarks),
        np.concatenate(ignore),
    )


def _choose(sources: Sources, grid: int, rng: np.random.Generator) -> Labelled | None:
    """A picture for one tile; None leaves the backdrop."""
    wild = 0.66 if grid == 1 else 0.25
    rest = 1 - wild
    kinds = ["in_the_wild", "portraits", "old", "face", "empty", ""]
    shares = np.array([wild, 0.18 * rest, 0.14 * rest, 0.4 * rest, 0.2 * rest, 0.08 * rest])
    kind = str(rng.choice(kinds, p=shares))
    if not kind:
        return None
    pool = {"face": sources.faces, "empty": sources.empty}.get(kind) or sources.photos[kind]
    return pool[rng.integers(len(pool))]


def _draw(
    source: Labelled, tile: Picture, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a turned, scaled and shifted piece of `source` into the tile; its faces, in the tile."""
    rows, columns = tile.shape[:2]
    height, width = source.mips[0].shape[:2]
    angle = rng.uniform(-45, 45) if rng.random() < 0.4 else rng.normal(0, 6)
    sure = np.flatnonzero(~source.ignore)
    if len(sure):
        # One face decides the scale; small faces are what is hard, so sizes are log-uniform.
        chosen = source.boxes[rng.choice(sure)]
        size = float(np.sqrt(np.prod(chosen[2:] - chosen[:2])))
        smallest, largest = max(13.0, 0.05 * rows), 0.95 * rows
        wanted = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
        limit = 2.0 if size > 40 else 1.4  # around enlarged small faces lie unlabelled ones
        zoom = min(wanted / size, limit)
        centre = (chosen[:2] + chosen[2:]) / 2
    else:
        zoom = rng.uniform(0.4, 1.5)
        centre = rng.random(2) * [width, height]
    radians = np.radians(angle)
    turn = zoom * np.array(
        [[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]]
    )
    if rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0])
    place = rng.uniform(0.12, 0.88, 2) * [columns, rows]
    if np.sqrt(abs(np.linalg.det(turn))) * max(height, width) < 1.3 * rows or rng.random() < 0.3:
        # A picture about as large as the tile is centred, so that little of it is cut off.
        centre, place = np.array([width, height]) / 2, np.array([columns, rows]) / 2
        if len(sure):
            centre = 0.5 * centre + 0.5 * (chosen[:2] + chosen[2:]) / 2
    matrix = np.concatenate([turn, (place - turn @ centre)[:, None]], 1)
    warp(source, matrix, tile)
    boxes, landmarks = warp_faces(matrix, source.boxes, source.landmarks)
    clipped = np.clip(boxes, 0, [columns, rows, columns, rows])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    visible = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1) / np.maximum(area, 1e-6)
    seen = visible > 0.05
    ignore = source.ignore | (visible < 0.65)
    return np.where(ignore[:, None], clipped, boxes)[seen], landmarks[seen], ignore[seen]


def giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes (n, 4) against boxes (n, 4)."""
    corner0, corner1 = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    common = (corner1 - corner0).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - common
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    overlap = common / union.clamp(min=1e-6)
    return overlap, overlap - (hull - union) / hull.clamp(min=1e-6)
