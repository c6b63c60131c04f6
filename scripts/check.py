"""Check everything, the same way locally and in CI: tests, ruff, mypy, import-linter.

python scripts/check.py [--skip-tests]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ["-m", "pytest", "-q"]
CHECKS = [
    ["-m", "ruff", "check", "."],
    ["-m", "ruff", "format", "--check", "."],
    ["-m", "mypy", "--strict", "fhrt"],
    ["-c", "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"],
]


def main() -> int:
    skip = "--skip-tests" in sys.argv[1:]
    failed = []
    for command in CHECKS if skip else [TESTS, *CHECKS]:
        print("+ python", *command, flush=True)
        if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
            failed.append(command[1])
    if failed:
        print("failed:", ", ".join(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
