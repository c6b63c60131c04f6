"""How well two runs of `fhrt bench` on one machine agree.

    fhrt bench -o one && fhrt bench -o two
    python benchmarks/run_agreement.py one/MACHINE two/MACHINE

Prints every ratio that both have, furthest apart first: shares of the ceilings, times of the peers
over ours, what the gate compares, and how time grows where an axis doubles. Exits with 1 where two
are further apart than a tenth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fhrt.bench.results import read
from fhrt.errors import FhrtError

MOST = 1.10
RATIOS = ("ratio", "share", "share detect", "share restore", "times_fhrt")


def ratios(results: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for row in results["rows"]:
        for name in RATIOS:
            if row.get(name, 1) != 1:  # 1: what the others are set over
                yield f"{row['key']}: {name}", row[name]
    for name, curve in results.get("scaling", {}).items():
        yield f"growth over {name}", 2 ** curve["slope"]


def main(one: Path, two: Path) -> int:
    old, new = dict(ratios(read(one))), dict(ratios(read(two)))
    apart = {key: max(old[key] / new[key], new[key] / old[key]) for key in old if key in new}
    if not apart:
        print("the two have no ratio in common", file=sys.stderr)
        return 1
    for key in sorted(apart, key=lambda key: -apart[key]):
        print(f"{apart[key]:.3f}  {old[key]:8.3f} {new[key]:8.3f}  {key}")
    within = sum(factor <= MOST for factor in apart.values())
    print(f"{within} of {len(apart)} ratios agree within {MOST - 1:.0%}")
    return 0 if within == len(apart) else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
    except FhrtError as error:
        sys.exit(str(error))
