"""Print the N-th fenced shell block of the README, so that CI runs what readers are told to run."""

import re
import sys
from pathlib import Path


def block(number: int) -> str:
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[number - 1].strip()


if __name__ == "__main__":
    print(block(int(sys.argv[1])))
