"""One step, in a process of its own: python -m gpu_check.child MODULE:FUNCTION CONTEXT RESULT."""

from __future__ import annotations

import faulthandler
import importlib
import sys
import traceback
from pathlib import Path

from gpu_check.steps import Context, Report


def main() -> int:
    function, context, result = sys.argv[1:]
    faulthandler.enable()  # a segmentation fault leaves its place in the log
    report = Report(Path(result))
    report.save()
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(report, Context.load(context))
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        report.error = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:400]
        report.save()
        return 1
    report.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
