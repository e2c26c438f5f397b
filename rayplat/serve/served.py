"""Which aliases are served, kept in the home: Serve itself forgets them with the cluster, `up` brings them back."""

from __future__ import annotations

import json
import os
from pathlib import Path


def remembered(home: Path) -> list[tuple[str, str]]:
    """Every (model, alias) that was served, in a fixed order."""
    file = _file(home)
    return sorted((model, alias) for model, alias in json.loads(file.read_text())) if file.exists() else []


def remember(home: Path, model: str, alias: str) -> None:
    """Serve it again at the next `up`."""
    _write(home, {*remembered(home), (model, alias)})


def forget(home: Path, model: str, alias: str) -> None:
    """It is not served any more."""
    _write(home, set(remembered(home)) - {(model, alias)})


def _file(home: Path) -> Path:
    return home / "endpoints.json"


def _write(home: Path, served: set[tuple[str, str]]) -> None:
    temporary = _file(home).with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(sorted(served)) + "\n")
    os.replace(temporary, _file(home))
