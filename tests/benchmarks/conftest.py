"""The benchmarks are scripts: their folder is the first on their path, and so it is here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
