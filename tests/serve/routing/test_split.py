"""Keys and shares: always the same answer, in the proportions asked for, and one experiment apart from another."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rayplat.serve.request import Call, InferRequest
from rayplat.serve.routing import split
from rayplat.serve.routing.split import Shares, encoded, sticky_key
from rayplat.types import Share

KEYS = [f"user-{i}" for i in range(20_000)]
WEIGHTS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=6)

# Positions are a promise: whoever changes them moves people between the arms of every running test.
KNOWN = {
    ("", ""): 0x6E340B9CFFB37A98,
    ("s", "AA301"): 0x6269CD30C654BC1B,
    ("checkout-2026", "user-1"): 0x0CAA87F56B0BD988,
    ("shadow:challenger", "4d1f"): 0x44C44BBADF5641ED,
    ("ü", "\ud800"): 0x5EF47247B5896EC2,
}


def shares(*weights: float, salt: str = "s") -> Shares:
    return Shares([Share(f"t{i}", weight) for i, weight in enumerate(weights)], salt)


@pytest.mark.parametrize(("salt", "key"), KNOWN)
def test_a_position_is_the_first_8_bytes_of_the_hash(salt: str, key: str) -> None:
    hashed = hashlib.sha256(f"{salt}\x00{key}".encode("utf-8", "surrogatepass")).digest()
    assert split.position(salt, key) == int.from_bytes(hashed[:8], "big") == KNOWN[salt, key]


def test_another_process_gives_the_same_answers_in_another_order() -> None:
    ours = shares(1, 2, 3)
    program = (
        "from rayplat.serve.routing.split import Shares; from rayplat.types import Share\n"
        "s = Shares([Share('t0', 1), Share('t1', 2), Share('t2', 3)], 's')\n"
        "print(''.join(s.target(f'user-{i}')[1] for i in reversed(range(500))))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "".join(ours.target(key)[1] for key in reversed(KEYS[:500]))


@given(WEIGHTS)
@settings(max_examples=25, deadline=None)
def test_each_share_gets_what_its_weight_says(weights: list[float]) -> None:
    made = shares(*weights)
    got = np.bincount([made.index(encoded(key)) for key in KEYS], minlength=len(weights))
    for n, weight in zip(got, weights, strict=True):
        low, high = stats.binom.interval(1 - 1e-9, len(KEYS), weight / sum(weights))
        assert low <= n <= high


@given(WEIGHTS, st.floats(1e-3, 1e3), st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_only_the_ratio_of_weights_counts(weights: list[float], factor: float, key: str) -> None:
    assert shares(*weights).target(key) == shares(*(w * factor for w in weights)).target(key)


def test_the_ends_of_the_scale_have_a_share() -> None:
    made = shares(1, 1, 1)
    assert made.ends[-1] == split.WHOLE
    assert split.threshold(1.0) == split.WHOLE
    assert split.threshold(0.0) == 0


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_key(key: str) -> None:
    assert shares(1, 1).target(key) in ("t0", "t1")
    assert 0 <= split.unit("s", key) < 1


def test_the_salt_of_one_experiment_leaves_another_alone() -> None:
    one, other = shares(1, 1, salt="one"), shares(1, 1, salt="other")
    before = [one.target(key) for key in KEYS]
    changed = [shares(1, 1, salt="another").target(key) for key in KEYS]
    assert [one.target(key) for key in KEYS] == before
    assert 0.48 < np.mean([a == b for a, b in zip(before, changed, strict=True)]) < 0.52
    assert 0.48 < np.mean([one.target(key) == other.target(key) for key in KEYS]) < 0.52  # independent of each other


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_a_larger_sample_keeps_what_a_smaller_one_has(one: float, other: float) -> None:
    small, large = sorted((one, other))
    for key in KEYS[:200]:
        assert split.sampled("log", key, large) or not split.sampled("log", key, small)


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("request_id", "r-1"),
        ("entity", "AA301"),
        ("header:X-Session", "abc"),
        ("header:absent", "r-1"),
        ("input:price", "7.5"),
        ("input:count", "7"),
        ("input:name", "ann"),
        ("input:grid", "1.0"),
        ("input:absent", "r-1"),
        ("parameter:seed", "11"),
        ("parameter:absent", "r-1"),
    ],
)
def test_what_a_request_is_assigned_by(rule: str, key: str) -> None:
    inputs: dict[str, Any] = {
        "price": np.array([7.5, 8.0]),
        "count": np.array([7, 8]),
        "name": ["ann", "bob"],
        "grid": np.ones((2, 3)),
    }
    request = InferRequest(2, inputs, (), entity=["AA301", "UA1"], params={"seed": 11})
    call = Call("r-1", datetime.now(UTC), headers={"x-session": "abc"})
    assert sticky_key(rule)(request, call) == key


def test_keys_of_several_parts_and_missing_ones() -> None:
    call = Call("r-1", datetime.now(UTC))
    assert sticky_key("entity")(InferRequest(1, {}, (), entity=[("AA", 7)]), call) == "AA\x1f7"
    assert sticky_key("entity")(InferRequest(1, {}, ()), call) == "r-1"
    assert sticky_key("input:name")(InferRequest(1, {"name": [None]}, ()), call) == "r-1"
    assert sticky_key("input:name")(InferRequest(0, {"name": []}, ()), call) == "r-1"
