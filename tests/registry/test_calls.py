"""What can be called by name: operations that say who asks, and nothing that they consist of."""

from __future__ import annotations

import pytest

from rayplat.errors import InvalidInput
from rayplat.registry import calls
from rayplat.registry.record import aliases, decisions, policies, promotion_rows, promotion_steps, tokens

WRITES = (aliases.set, policies.set, decisions.approve, decisions.rollback, tokens.create)


def test_operations_of_the_record_are_found_by_their_names() -> None:
    for operation in WRITES:
        assert calls.resolve(calls.name_of(operation, "write"), "write") is operation
    assert calls.resolve(calls.name_of(aliases.get, "read"), "read") is aliases.get


@pytest.mark.parametrize(
    "name",
    [
        "rayplat.registry.record.aliases:move",
        "rayplat.registry.record.audit:append",
        "rayplat.registry.record.events:emit",
        "rayplat.registry.record.promotion_steps:tick",
        "rayplat.registry.record.promotion_steps:go_live",
        "rayplat.registry.record.promotions:Tx",
        "rayplat.registry.record.promotions:replace",
        "rayplat.registry.record.promotions:require",
        "rayplat.registry.record.tokens:used",
        "rayplat.registry.record.absent:set",
        "rayplat.registry.adopt:adopt",
        "rayplat.registry.record.:set",
        "os:system",
        "",
    ],
)
def test_parts_of_operations_and_everything_else_are_not(name: str) -> None:
    for kind in ("read", "write"):
        with pytest.raises(InvalidInput, match="is no operation"):
            calls.resolve(name, kind)  # type: ignore[arg-type]


def test_a_step_that_only_notes_a_name_is_no_operation() -> None:
    """With it a promotion could be stored as approved by nobody, past its gates and the audit log."""
    rows = (promotion_rows.save, promotion_rows.log, promotion_rows.log_also, promotion_rows.tell)
    for step in (*rows, promotion_steps.drawn_up, promotion_steps.carried, promotion_steps.go_live):
        with pytest.raises(InvalidInput, match="is no operation"):
            calls.name_of(step, "write")
