"""The documentation names what exists: every command, every setting's group, and the README's two commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from rayplat.cli.main import app

ROOT = Path(__file__).parents[1]
COMMAND = get_command(app)  # made once: it takes a tenth of a second


def commands() -> set[str]:
    return set(COMMAND.commands)  # type: ignore[attr-defined]


def test_the_readme_shows_every_group_of_commands() -> None:
    readme = (ROOT / "README.md").read_text() + (ROOT / "docs" / "cli.md").read_text()
    for name in commands():
        assert re.search(rf"rayplat {name}\b", readme), f"`rayplat {name}` is not documented"


def test_the_readme_shows_no_command_that_does_not_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in re.findall(r"^rayplat (\w+)", readme, re.MULTILINE):
        assert name in commands()


def shown_commands() -> list[list[str]]:
    """Every `rayplat` line in the README's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("rayplat ")]


@pytest.mark.parametrize("words", shown_commands(), ids=" ".join)
def test_a_command_of_the_readme_can_be_parsed(words: list[str]) -> None:
    command, name = COMMAND, "rayplat"
    while hasattr(command, "commands"):
        name, words = words[0], words[1:]
        command = command.commands[name]
    command.make_context(name, words)  # raises UsageError for what the command does not take


def test_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "check", "bench", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    ci = (ROOT / ".ci" / "run").read_text()
    assert "make check" in ci
    assert "make test" in ci


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
