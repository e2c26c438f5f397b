from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplat.errors import InvalidInput
from rayplat.serve.deployment import units


@pytest.mark.parametrize(
    ("text", "value"),
    [("5m", 300.0), ("1m30s", 90.0), ("250ms", 0.25), (" 2 h ", 7200.0), ("1d", 86_400.0), ("0.5s", 0.5), ("0s", 0.0)],
)
def test_durations_are_read(text: str, value: float) -> None:
    assert units.seconds(text) == value


@pytest.mark.parametrize(
    "text", ["", "5", 5, 5.0, "s", "5 parsecs", "-5s", "5s or so", "nan", None, True, "5ss", "1e9"]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput, match="write a number with its unit, such as 5s"):
        units.seconds(text)


@given(st.floats(0, 1e6, allow_nan=False))
def test_a_duration_comes_back_as_it_was(value: float) -> None:
    assert units.seconds(units.duration_text(value)) == value
    assert units.milliseconds(units.milliseconds_text(value)) == value


@pytest.mark.parametrize(("value", "found"), [(7, 7), ("7", 7), ("10k", 10_000), ("1.5k", 1500), ("2M", 2_000_000)])
def test_counts_are_read(value: object, found: int) -> None:
    assert units.count(value) == found


@pytest.mark.parametrize("value", ["", "k", "1.5", "10K rows", 1.5, True, None, "-1", [1]])
def test_what_is_no_count_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="no whole number"):
        units.count(value)
