from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rayplat.serve.pool import placement
from rayplat.serve.pool.placement import Held, Limits

MODELS = [f"model-{n}" for n in range(300)]


def test_models_are_spread_and_each_stays_where_it_is() -> None:
    counts = Counter(placement.worker_of(model, ["w0", "w1", "w2"]) for model in MODELS)
    assert min(counts.values()) > 70
    assert all(placement.worker_of(m, ["w2", "w0", "w1"]) == placement.worker_of(m, ["w0", "w1", "w2"]) for m in MODELS)


def test_another_worker_takes_only_what_becomes_its_own() -> None:
    before = {m: placement.worker_of(m, ["w0", "w1"]) for m in MODELS}
    after = {m: placement.worker_of(m, ["w0", "w1", "w2"]) for m in MODELS}
    assert {after[m] for m in MODELS if after[m] != before[m]} == {"w2"}


_held = st.lists(
    st.builds(Held, st.tuples(st.sampled_from(MODELS), st.just("a")), st.integers(0, 50), st.booleans(), st.booleans()),
    unique_by=lambda h: h.key,
)


@given(_held, st.builds(Limits, st.integers(0, 10), st.integers(0, 200)))
def test_who_leaves_is_idle_unpinned_and_the_longest_unused(held: list[Held], limits: Limits) -> None:
    leaving = placement.to_leave(held, limits)
    free = [h.key for h in held[:-1] if not (h.pinned or h.busy)]
    assert leaving == free[: len(leaving)]
    left = [h for h in held if h.key not in leaving]
    if len(leaving) < len(free):
        assert len(left) <= limits.models
        assert sum(h.size_bytes for h in left) <= limits.bytes
    if leaving:  # without the last one it would still have been too much
        more = [h for h in held if h.key not in leaving[:-1]]
        assert len(more) > limits.models or sum(h.size_bytes for h in more) > limits.bytes
