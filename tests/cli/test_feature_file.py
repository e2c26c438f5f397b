"""`rayplat features apply FILE.py`: what a file declares, and what is said of one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rayplat.cli.feature_file import collect
from rayplat.data.features import Entity, FeatureService, View
from rayplat.errors import InvalidInput, NotFound
from rayplat.services.declarations import Declared
from rayplat.types import FeatureViewInfo

FILE = """
from datetime import timedelta
from neighbour import SHOP
from rayplat.data.features import *
from rayplat.data.features import Derived, Entity, FeatureService, FeatureView, Field, OnRequestView, Window, col

sizes = FeatureView("sizes", SHOP, "shops", "at", fields=(Field("size", "double"),))
SALES = tuple(
    FeatureView(f"sales_{n}d", SHOP, "sales", "at", windows=(Window(f"sold_{n}d", "n", "sum", timedelta(days=n)),))
    for n in (1, 7)
)
asked = OnRequestView("asked", (Field("bags", "int64"),), (Derived("weight", col("bags") * 20, "double"),))
everything = {"service": FeatureService("shop", SHOP, (sizes, *SALES, asked))}
"""


class Store:
    """What of a feature store `Declared.apply` uses."""

    def __init__(self) -> None:
        self.held = Declared()

    def views(self) -> list[FeatureViewInfo]:
        return [view.info() for view in self.held.views.values()]

    def services(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.held.services, ())

    def service(self, name: str) -> FeatureService:
        return self.held.services[name]

    def apply(self, entities: Sequence[Entity], views: Sequence[View], services: Sequence[FeatureService]) -> None:
        self.held = Declared.of([*entities, *views, *services])


def written(folder: Path, text: str) -> Path:
    (folder / "neighbour.py").write_text(
        "from rayplat.data.features import Entity\nSHOP = Entity('shop', 'shop', ('int64',))\n"
    )
    file = folder / "declared.py"
    file.write_text(text)
    return file


def test_a_file_travels_as_json_and_comes_back_the_same(tmp_path: Path) -> None:
    declared = collect(written(tmp_path, FILE))
    assert list(declared.views) == ["sizes", "sales_1d", "sales_7d", "asked"]
    again = Declared.from_json(**declared.to_json())
    assert again == declared
    assert declared.services["shop"].entity.dtypes == ("int64",)


def test_what_applying_changes_is_told(tmp_path: Path) -> None:
    store: Any = Store()
    declared = collect(written(tmp_path, FILE))
    first = declared.apply(store)
    assert {(a.kind, a.name) for a in first} == {
        ("view", "sizes"),
        ("view", "sales_1d"),
        ("view", "sales_7d"),
        ("view", "asked"),
        ("service", "shop"),
    }
    assert {a.change for a in first} == {"new"}
    changed = collect(written(tmp_path, FILE.replace("* 20", "* 23"))).apply(store)
    assert {a.name: a.change for a in changed} == {
        "sizes": "same",
        "sales_1d": "same",
        "sales_7d": "same",
        "asked": "changed",
        "shop": "changed",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n", "declares no Entity"),
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError"),
        ("x = (\n", "SyntaxError"),
        ("import no_such_module_here\n", "line 1: ModuleNotFoundError"),
        (
            "from rayplat.data.features import Entity\na, b = Entity('e', 'a'), Entity('e', 'b')\n",
            "entity e: is declared twice",
        ),
        ("from rayplat.data.features import Entity\na = Entity('E!', 'a')\n", "line 2: InvalidName.*no valid name"),
    ],
)
def test_a_file_that_declares_nothing_right_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        collect(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="absent"):
        collect(tmp_path / "absent.py")


@pytest.mark.parametrize("tree", [{}, {"name": "v"}, {"name": 1, "join_keys": 5, "dtypes": None}])
def test_json_that_is_no_declaration_is_named(tree: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"entities\[0\]"):
        Declared.from_json((tree,), (), ())
