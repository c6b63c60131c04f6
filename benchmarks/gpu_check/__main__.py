"""Started as a folder, before anything is installed: the package lies beside, not on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from gpu_check.command import main

sys.exit(main())
