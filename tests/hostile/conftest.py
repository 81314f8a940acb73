"""The malicious models that translate are made as in the tests of augmentation."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "augment"))
