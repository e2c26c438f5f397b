"""A first load in a process of its own: a file that makes a native library crash ends that process, not this one.

`main` is what that process does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rayplat.artifacts.formats.format import Format
from rayplat.errors import InvalidInput

NATIVE = frozenset({"onnx", "skops", "xgboost", "lightgbm"})
_LIMIT_S = 300.0
_REFUSED = 3
_PROGRAM = "import sys; from rayplat.artifacts.formats import trial; sys.exit(trial.main(sys.argv[1:]))"


def attempt(folder: Path, found: Format) -> None:
    """Load the model and let it answer once, elsewhere. Raises `InvalidInput` where that fails, crashes or hangs."""
    if found.name not in NATIVE:
        return
    path = found.files[0]
    command = [sys.executable, "-c", _PROGRAM, found.name, str(folder), path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as e:
        raise InvalidInput(path, f"it was not loaded within {_LIMIT_S:g} s") from e
    if done.returncode < 0:
        raise InvalidInput(path, f"loading it ends the process ({signal.Signals(-done.returncode).name})")
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason was given"]
        raise InvalidInput(path, lines[-1][:500])


def main(arguments: list[str]) -> int:
    """Load one audited file and answer a row of zeros where the model takes one matrix of known width."""
    import numpy as np

    from rayplat.artifacts.formats.detect import READERS
    from rayplat.errors import RayplatError, SchemaMismatch

    name, folder, path = arguments
    try:
        model: Any = READERS[name].load(Path(folder), path, ())
        width = model.width
        if width:
            model.predict({"rows": np.zeros((2, width), dtype=np.float32)})
    except SchemaMismatch:
        return 0
    except RayplatError as e:
        sys.stderr.write(f"{e}\n")
        return _REFUSED
    return 0
