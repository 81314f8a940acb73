"""The cases take the made-up comparison of the reports."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "reports"))
