"""The documentation names what exists: every command, every setting's group, and the README's two commands."""

from __future__ import annotations

import re
from pathlib import Path

from typer.main import get_command

from rayplat.cli.main import app

ROOT = Path(__file__).parents[1]


def commands() -> set[str]:
    root = get_command(app)
    return set(root.commands)  # type: ignore[attr-defined]


def test_the_readme_shows_every_group_of_commands() -> None:
    readme = (ROOT / "README.md").read_text() + (ROOT / "docs" / "cli.md").read_text()
    for name in commands():
        assert re.search(rf"rayplat {name}\b", readme), f"`rayplat {name}` is not documented"


def test_the_readme_shows_no_command_that_does_not_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in re.findall(r"^rayplat (\w+)", readme, re.MULTILINE):
        assert name in commands()


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
