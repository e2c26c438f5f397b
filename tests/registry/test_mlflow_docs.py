"""The snippets of docs/mlflow.md run, in order, as they stand there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from rayplat.registry.record import versions
from rayplat.registry.record.database import Record
from tests.registry.desk import Desk

PAGE = Path(__file__).parents[2] / "docs" / "mlflow.md"


def test_the_snippets_of_the_page_run(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    for name in ("mlflow.db", "rayplat.db"):
        shutil.copy(empty_database, tmp_path / name)
    desk = Desk(Record("sqlite:///mlflow.db"))
    for n in (1, 2, 3):
        desk.register(n)
    desk.move(2)
    desk.record.close()
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) == 3
    try:
        for snippet in snippets:
            exec(compile(snippet.replace("/tmp/rayplat-store", str(tmp_path / "store")), str(PAGE), "exec"), {})
    finally:
        mlflow.set_tracking_uri("")
    printed = capsys.readouterr().out
    assert printed.startswith("hello\n")
    assert "flight-delay@champion is protected" in printed
    assert "flight-delay 0 versions, 0 aliases" in printed, "its bytes were never stored, which is reported"
    record = Record("sqlite:///rayplat.db")
    assert record.read(versions.models) == []
    record.close()
