from __future__ import annotations

from dataclasses import replace

import pytest

from rayplat.errors import Conflict, NotFound
from rayplat.registry.promotion import named_target, rollback_target
from rayplat.types import AliasHead
from tests.registry.gates.cases import DIGEST, NOW


def heads(*ids: str) -> list[AliasHead]:
    """Oldest first; ``-`` is a removal, a number a move to that version without a promotion."""
    found = []
    for n, i in enumerate(ids, 1):
        head = AliasHead("m", "champion", n, DIGEST, n, NOW, "bob", i)
        if i == "-":
            head = replace(head, version=found[-1].version, promotion_id=None, removed=True)
        elif i.isdigit():
            head = replace(head, version=int(i), promotion_id=None)
        found.append(head)
    return found


@pytest.mark.parametrize(
    ("history", "target"),
    [
        ("a b", 1),
        ("a b c", 2),
        ("a b c b", 1),  # rolled back once already: further back, never to what was rolled back
        ("a b a c", 1),
        ("a b a c d c", 1),
        ("a b c a d", 1),
        ("1 2 3", 2),
        ("1 2 1 3", 1),
        ("a 7", 1),
        ("a b -", 2),  # a removed alias comes back as it was
        ("a b - c", 2),
    ],
)
def test_a_rollback_goes_to_what_was_live_before(history: str, target: int) -> None:
    assert rollback_target(heads(*history.split())).generation == target


@pytest.mark.parametrize("history", ["", "a", "a b a", "-", "3 3"])
def test_with_nothing_before_there_is_no_rollback(history: str) -> None:
    found = [] if history == "-" else heads(*history.split())
    with pytest.raises(Conflict, match="no earlier version"):
        rollback_target(found)


def test_a_named_version_or_generation_that_was_live() -> None:
    history = heads("5", "6", "5", "7", "-", "8")
    assert named_target(history, 5, None).generation == 3
    assert named_target(history, None, 2).version == 6
    assert named_target(history, 6, 2).generation == 2
    with pytest.raises(Conflict, match="already points at version 8"):
        named_target(history, 8, None)
    with pytest.raises(Conflict, match="already points"):
        named_target(heads("5", "6", "5"), None, 1)
    for version, generation in ((9, None), (None, 5), (None, 7), (6, 1)):
        with pytest.raises(NotFound, match="never live"):
            named_target(history, version, generation)
