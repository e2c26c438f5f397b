"""Keys and values as bytes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplat.data.online.values import decode, encode, key_bytes, normal_key, view_number
from rayplat.errors import InvalidInput

values = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text()
keys = st.text() | st.integers(-(2**63), 2**63 - 1)


@given(st.lists(values))
def test_values_come_back_bit_for_bit(row: list[object]) -> None:
    back = decode(encode(row))
    assert [type(v) for v in back] == [type(v) for v in row]
    for was, now in zip(row, back, strict=True):
        if isinstance(was, float):
            assert math.isnan(now) if math.isnan(was) else (now, math.copysign(1, now)) == (was, math.copysign(1, was))
        else:
            assert now == was


@given(st.tuples(keys, keys), st.tuples(keys, keys))
def test_different_keys_have_different_bytes(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert (key_bytes(one) == key_bytes(other)) == (one == other)


@given(st.text(), st.text())
def test_different_strings_have_different_bytes(one: str, other: str) -> None:
    assert (key_bytes((one,)) == key_bytes((other,))) == (one == other)


@pytest.mark.parametrize(
    ("key", "dtypes", "expected"),
    [
        ("a", ("string",), ("a",)),
        ("7", ("int64",), (7,)),
        ("-7", ("int64",), (-7,)),
        (7.0, ("int64",), (7,)),
        (2**62 + 1, ("int64",), (2**62 + 1,)),
        (None, ("int64",), None),
        (float("nan"), ("int64",), None),
        (("a", 1), ("string", "int64"), ("a", 1)),
        (["a", "1"], ("string", "int64"), ("a", 1)),
        (("a", None), ("string", "int64"), None),
    ],
)
def test_keys_become_their_declared_types(key: object, dtypes: tuple[str, ...], expected: object) -> None:
    assert normal_key(key, ("one", "two")[: len(dtypes)], dtypes) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "dtypes"),
    [
        (1, ("string",)),
        ("x", ("int64",)),
        (1.5, ("int64",)),
        (True, ("int64",)),
        (2**63, ("int64",)),
        ("a", ("string", "int64")),
    ],
)
def test_keys_of_another_type_are_refused(key: object, dtypes: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        normal_key(key, ("one", "two")[: len(dtypes)], dtypes)  # type: ignore[arg-type]


def test_view_numbers_are_signed_and_stay() -> None:
    assert (
        view_number("weather@0123456789ab")
        == view_number("weather@0123456789ab")
        != view_number("weather@0123456789ac")
    )
    assert all(-(2**63) <= view_number(f"v{i}") < 2**63 for i in range(50))
