"""Promotions whose rows were edited in the database: refused or stale, and no burden to the others."""

from __future__ import annotations

import pytest

from rayplat.errors import Corrupt, InvalidInput
from rayplat.registry.record import aliases, promotion_steps, promotions
from rayplat.types import PromotionState
from tests.registry.desk import ALIAS, ANN, MODEL, Desk, evidence


def test_a_rejected_promotion_that_was_opened_again_is_not_approved(desk: Desk) -> None:
    worse = desk.write(promotions.request, MODEL, 1, ALIAS, evidence(auc=0.5), by=ANN)
    worse = worse if worse.state is PromotionState.REJECTED else desk.verify(worse)
    assert worse.state is PromotionState.REJECTED
    desk.change("update rp_promotion set state = 'awaiting_approval', reason = ''")
    with pytest.raises(Corrupt, match="metric_floor"):
        desk.approve(worse)
    assert desk.head() is None


def test_nor_does_one_go_live_that_only_its_state_calls_approved(desk: Desk) -> None:
    asked = desk.request(1)
    desk.change("update rp_promotion set state = 'approved', live_after = 0")
    desk.record.write(promotion_steps.tick)
    assert desk.state(asked) is PromotionState.STALE
    assert desk.head() is None


def test_an_edited_promotion_goes_stale_and_the_others_do_not_wait_for_it(desk: Desk) -> None:
    edited, other = desk.request(1), desk.request(2, "challenger")
    this = f"where promotion_id = '{edited.promotion_id}'"
    desk.change(f"update rp_promotion set state = 'approved', live_after = 0, version = 3 {this}")
    desk.change(f"update rp_promotion set expires_at = 0 where promotion_id = '{other.promotion_id}'")
    desk.record.write(promotion_steps.tick)
    assert (desk.state(edited), desk.state(other)) == (PromotionState.STALE, PromotionState.EXPIRED)
    assert "not what was approved" in desk.read(promotions.get, edited.promotion_id).reason
    assert desk.head() is None


def test_a_name_that_no_database_holds_is_refused_and_no_fault(desk: Desk) -> None:
    with pytest.raises(InvalidInput, match="cannot hold it"):
        desk.read(aliases.get, "\ud800", ALIAS)
