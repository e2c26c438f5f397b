"""Version numbers that the column cannot hold: the database driver raises OverflowError for them."""

from __future__ import annotations

import pytest

from rayplat.errors import InvalidInput, NotFound
from rayplat.registry.gates import GatePolicy
from rayplat.registry.record import audit, promotions, versions
from tests.registry.desk import ALIAS, ANN, MODEL, Desk, evidence

NUMBERS = [10**20, 2**31, 0, -1, -(10**20)]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_version_outside_all_numbers_does_not_exist(desk: Desk, number: int) -> None:
    with pytest.raises(NotFound, match=f"{MODEL}/{number}.*the newest are 3, 2, 1"):
        desk.record.read(lambda s: versions.get(s, MODEL, number))
    with pytest.raises(NotFound, match="nope"):
        desk.record.read(lambda s: versions.get(s, "nope", number))


@pytest.mark.parametrize("number", NUMBERS)
def test_nor_can_it_be_promoted(desk: Desk, number: int) -> None:
    wanted = (MODEL, number, ALIAS)
    with pytest.raises(NotFound, match=str(number)):
        desk.record.write(lambda tx: promotions.request(tx, GatePolicy(), wanted, evidence(), ANN))


@pytest.mark.parametrize("limit", [10**20, 0, -1])
def test_a_limit_outside_its_bounds(desk: Desk, limit: int) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        desk.record.read(lambda s: audit.listed(s, limit))
