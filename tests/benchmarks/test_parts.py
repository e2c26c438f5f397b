"""A benchmark of parts: each in a process of its own, and the rows of those that were not run stay."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import parts, rows

MAIN = 'import sys\nfrom benchmarks import parts\nsys.exit(parts.main("toy", ("one", "two", "dies"), ""))\n'
PART = """
import os
from benchmarks.rows import row

def measure(work, quick):
    print("chatter")
    return [row("{0}", {1} + quick, "s", "<= 2", "x")], {{"pid": os.getpid(), "folder": str(work)}}
"""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark `toy` beside the real ones, and where its results go."""
    toy = tmp_path / "code" / "benchmarks" / "toy"
    toy.mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "__main__": MAIN,
        "one": PART.format("one", 1),
        "two": PART.format("two", 2),
    }.items():
        (toy / f"{name}.py").write_text(text)
    (toy / "dies.py").write_text("def measure(work, quick):\n    raise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def run(*arguments: str) -> int:
    return parts.main("toy", ("one", "two", "dies"), "", arguments)


def test_parts_run_apart_and_only_theirs_are_replaced(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("one") == 0
    first = json.loads((results / "toy.raw.json").read_text())
    assert run("two", "--quick") == 1  # 3 s: the row fails, and nothing is written
    assert "MISS two" in capsys.readouterr().out
    assert json.loads((results / "toy.raw.json").read_text()) == first
    assert run("two") == 0
    both = json.loads((results / "toy.raw.json").read_text())["parts"]
    assert both["one"] == first["parts"]["one"]
    assert len({os.getpid(), *(part["raw"]["pid"] for part in both.values())}) == 3
    assert not Path(both["two"]["raw"]["folder"]).exists()
    assert [one["metric"] for one in json.loads((results / "toy.json").read_text())] == ["one", "two"]


def test_a_part_that_fails_and_one_that_is_not_there_write_nothing(results: Path) -> None:
    with pytest.raises(SystemExit, match="part dies failed with exit code 3"):
        run("one", "dies")
    with pytest.raises(SystemExit):
        run("three")
    assert not results.exists()
