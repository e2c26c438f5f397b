from __future__ import annotations

import pytest

from rayplat.errors import InvalidName
from rayplat.types import Role, check_alias, check_name


@pytest.mark.parametrize("name", ["flight-delay", "a", "x" * 63, "m_1.b"])
def test_good_names(name: str) -> None:
    assert check_name("model", name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "A", "a/b", "../etc", "a..b", "x" * 64, "x" * 10_000, "é", "a\nb", "a\x00", "a b"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidName, match="model"):
        check_name("model", name)


@pytest.mark.parametrize("alias", ["latest", "v2", "7", "V2", "2", "v007"])
def test_aliases_that_shadow_a_version(alias: str) -> None:
    with pytest.raises(InvalidName):
        check_alias(alias)


@pytest.mark.parametrize("alias", ["champion", "production-v2", "v2-eu"])
def test_good_aliases(alias: str) -> None:
    assert check_alias(alias) == alias


def test_roles_include_the_ones_before() -> None:
    assert Role.ADMIN.includes(Role.VIEWER)
    assert Role.APPROVER.includes(Role.DEVELOPER)
    assert not Role.VIEWER.includes(Role.DEVELOPER)
