"""Importing the package loads no backend; its public names are what `__all__` says."""

from __future__ import annotations

import json
import subprocess
import sys

import rayplat

BACKENDS = ("ray", "torch", "mlflow", "feast", "whylogs", "deltalake", "pandas", "pyarrow", "fastapi", "sqlalchemy")


def loaded_by(statement: str) -> set[str]:
    code = f"import json, sys; {statement}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_loads_no_backend() -> None:
    assert loaded_by("import rayplat").isdisjoint(BACKENDS)


def test_the_command_line_loads_no_heavy_backend() -> None:
    heavy = {"ray", "torch", "mlflow", "feast", "whylogs"}
    assert loaded_by("import rayplat.cli.main").isdisjoint(heavy)


def test_public_names_exist() -> None:
    for name in rayplat.__all__:
        assert getattr(rayplat, name) is not None
    assert "Platform" in rayplat.__all__
