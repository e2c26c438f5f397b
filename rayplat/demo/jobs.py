"""What the programs in ``jobs/`` share: their arguments and their output."""

from __future__ import annotations

import argparse
from typing import Any

from pydantic import TypeAdapter

from rayplat.demo.steps import RECIPES, Recipe
from rayplat.errors import NotFound


def arguments(**described: str) -> argparse.Namespace:
    """Positional arguments by name, each with its help."""
    parser = argparse.ArgumentParser()
    for name, text in described.items():
        parser.add_argument(name, help=text)
    return parser.parse_args()


def recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise NotFound("recipe", name, f"there are {', '.join(RECIPES)}")
    return RECIPES[name]


def show(result: Any) -> None:
    """One JSON document on stdout."""
    print(TypeAdapter(Any).dump_json(result, indent=2).decode())  # noqa: T201 - a job's output
