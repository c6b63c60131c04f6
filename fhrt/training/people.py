"""Who is who among found faces, and who is trained on and who is kept for testing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.training.layouts import Source

SAME_PERSON = 0.5  # cosine of embeddings


@dataclass(frozen=True, eq=False)
class Found:
    """A usable face. landmarks: (5, 2) in the picture. digest: SHA-256 of the picture's pixels.
    sizes: crop sides that it fills, ascending. vector: (d,) embedding of length 1, or None."""

    source: Source
    landmarks: NDArray[np.floating[Any]]
    digest: str
    sizes: list[int]
    vector: NDArray[np.float32] | None

    @property
    def key(self) -> str:
        """Who it is, as far as the data say: independent of the order of the files."""
        return self.source.identity or self.digest


def people(found: Sequence[Found]) -> list[list[Found]]:
    """Groups that share a name or, over any chain of pictures, an embedding's cosine above 0.5;
    sorted by key, and their members by digest."""
    parent = list(range(len(found)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    for i, face in enumerate(found):
        parent[root(i)] = root(first.setdefault(face.key, i))
    known = {i: face.vector for i, face in enumerate(found) if face.vector is not None}
    at, vectors = list(known), np.array(list(known.values()))
    for start in range(0, len(at), 1024):  # not all cosines at once: 70,000 faces would be 20 GB
        alike = vectors[start : start + 1024] @ vectors.T > SAME_PERSON
        for a, b in zip(*np.nonzero(np.triu(alike, start + 1)), strict=True):
            parent[root(at[start + a])] = root(at[b])
    groups: dict[int, list[Found]] = defaultdict(list)
    for i, face in enumerate(found):
        groups[root(i)].append(face)
    ordered = [sorted(group, key=lambda face: face.digest) for group in groups.values()]
    return sorted(ordered, key=_group_key)


def partition(groups: Sequence[Sequence[Found]], test_share: float, seed: int) -> list[str]:
    """train or test for each person. Splits of the data's own are kept: who is anywhere but in
    train is for testing. Else a share of the people, chosen by a hash of seed and key."""
    own = [any(face.source.split != "train" for face in group) for group in groups]
    if any(own):
        return ["test" if held else "train" for held in own]

    def lot(i: int) -> str:
        return hashlib.sha256(f"{seed}/{_group_key(groups[i])}".encode()).hexdigest()

    # Somebody for testing where a share is wanted, and somebody for training in any case.
    count = min(max(round(test_share * len(groups)), int(test_share > 0)), len(groups) - 1)
    chosen = set(sorted(range(len(groups)), key=lot)[:count])
    return ["test" if i in chosen else "train" for i in range(len(groups))]


def grouping(found: Sequence[Found]) -> str:
    """How it was told who is who, for the user."""
    if all(face.source.identity for face in found):
        return "people as the data name them"
    if any(face.vector is not None for face in found):
        return f"people by embedding, cosine above {SAME_PERSON}"
    return "no names and no --embedder: each unnamed picture counts as a person of its own"


def _group_key(group: Sequence[Found]) -> str:
    return min(face.key for face in group)
