"""What the documentation shows works: the notebook, and the commands of the README."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.e2e.conftest import Live

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def test_the_notebook_runs(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("RAY_", "RAYPLAT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAYPLAT_HOME", str(live.rayplat.home))
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=180, kernel_name="python3").execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert all(outputs)
    assert not [o for cell in outputs for o in cell if o.output_type == "error"]


def readme_commands() -> list[list[str]]:
    """Every `rayplat` line of the README's shell blocks that only reads, ready to run."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    changing = ("up", "down", "promote", "approve", "rollback", "token", "job", "demo")
    found = [shlex.split(line)[1:] for line in lines if line.startswith("rayplat ")]
    return [words for words in found if words[0] not in changing and (words[0] != "serve" or words[1] == "list")]


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_a_command_of_the_readme(live: Live, words: list[str]) -> None:
    done = live.rayplat.run(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
