"""Who answers a request: header, canary, split, alias, in this order; and who gets a copy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplat.errors import Forbidden, InvalidInput
from rayplat.serve.request import Call, InferRequest
from rayplat.serve.routing import decide
from rayplat.serve.routing.decide import RoutingPolicy
from rayplat.types import Canary, CanaryState, Principal, Release, Role, Shadow, Share, Split

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = InferRequest(1, {}, (), entity=["AA301"])
SPLIT = Split((Share("champion", 50), Share("challenger", 30), Share("7", 20)), salt="exp-1", sticky="entity")
CANARY = Canary("candidate", steps=(0.01, 0.05, 0.25, 0.5, 1.0), step=2, sticky="entity")
KEYS = [f"user-{i}" for i in range(4000)]


def asked(key: str, target: str | None = None) -> tuple[Call, InferRequest]:
    call = Call(f"id-of-{key}", NOW, Principal("tester", Role.VIEWER), target=target)
    return call, InferRequest(1, {}, (), entity=[key])


def targets(release: Release, keys: list[str] = KEYS) -> dict[str, str | None]:
    policy = RoutingPolicy("champion")
    return {key: policy.decide(release, *asked(key)).target for key in keys}


def test_without_a_release_the_alias_answers_everything() -> None:
    found = RoutingPolicy("champion").decide(Release("m"), *asked("a"))
    assert found == (None, "primary", ())


def test_a_split_gives_each_key_to_one_target_and_names_it_as_answers_do() -> None:
    found = Counter(targets(Release("m", 1, split=SPLIT)).values())
    assert set(found) == {None, "challenger", "v7"}
    assert 1800 < found[None] < 2200
    assert 700 < found["v7"] < 900
    assert targets(Release("m", 9, split=SPLIT)) == targets(Release("m", 1, split=SPLIT))


def test_roles_say_why() -> None:
    policy = RoutingPolicy("champion")
    release = Release("m", 1, split=SPLIT, canary=CANARY)
    roles = {policy.decide(release, *asked(key)).role for key in KEYS}
    assert roles == {"canary", "split"}
    assert {policy.decide(release, *asked(k)).role for k, t in targets(release).items() if t is None} == {"split"}
    only_canary = Release("m", 1, canary=CANARY)
    assert {policy.decide(only_canary, *asked(key)).role for key in KEYS} == {"canary", "primary"}


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=6, unique=True), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_growing_canary_only_takes_keys_and_gives_none_back(steps: list[float], with_split: bool) -> None:
    canary = Canary("candidate", steps=tuple(sorted(steps)), sticky="entity")
    base = Release("m", 1, split=SPLIT if with_split else None)
    keys = KEYS[:400]
    without, taken = targets(base, keys), set[str]()
    for step in range(len(steps)):
        now = targets(replace(base, canary=replace(canary, step=step)), keys)
        mine = {key for key, target in now.items() if target == "candidate"}
        assert taken <= mine
        assert all(now[key] == without[key] for key in keys if key not in mine)  # nobody else moves
        taken = mine


def test_the_last_step_takes_everyone_and_a_rollback_gives_everyone_back() -> None:
    full = replace(CANARY, steps=(0.5, 1.0), step=1)
    assert set(targets(Release("m", 1, canary=full)).values()) == {"candidate"}
    done = replace(full, state=CanaryState.DONE)
    assert set(targets(Release("m", 2, canary=done)).values()) == {"candidate"}
    back = replace(full, state=CanaryState.ROLLED_BACK)
    assert set(targets(Release("m", 3, canary=back)).values()) == {None}
    paused = replace(CANARY, state=CanaryState.PAUSED)
    assert targets(Release("m", 4, canary=paused)) == targets(Release("m", 5, canary=CANARY))


@given(st.floats(0, 1), st.booleans(), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_shadow_changes_nobodys_variant(sample: float, with_split: bool, with_canary: bool) -> None:
    base = Release("m", 1, split=SPLIT if with_split else None, canary=CANARY if with_canary else None)
    shadowed = replace(base, shadows=(Shadow("shadow-1", sample), Shadow("9", 1.0)))
    assert targets(base, KEYS[:300]) == targets(shadowed, KEYS[:300])


def test_shadows_are_sampled_by_request_each_for_itself_and_the_same_everywhere() -> None:
    release = Release("m", 1, shadows=(Shadow("one", 0.5), Shadow("other", 0.5), Shadow("8", 1.0), Shadow("off", 0.0)))
    policy, again = RoutingPolicy("champion"), RoutingPolicy("champion")
    found = [policy.decide(release, *asked(key)).shadows for key in KEYS]
    assert found == [again.decide(release, *asked(key)).shadows for key in KEYS]
    counts = Counter(name for shadows in found for name in shadows)
    assert counts["v8"] == len(KEYS)
    assert "off" not in counts
    assert all(0.45 < counts[name] / len(KEYS) < 0.55 for name in ("one", "other"))
    both = sum({"one", "other"} <= set(shadows) for shadows in found) / len(KEYS)
    assert 0.22 < both < 0.28


def test_who_answers_is_not_shadowed_by_itself() -> None:
    release = Release("m", 1, canary=replace(CANARY, steps=(1.0,), step=0), shadows=(Shadow("candidate"), Shadow("9")))
    assert RoutingPolicy("champion").decide(release, *asked("a")) == ("candidate", "canary", ("v9",))


@pytest.mark.parametrize(
    ("target", "name"), [("challenger", "challenger"), ("7", "v7"), ("v7", "v7"), ("champion", None), ("9", "v9")]
)
def test_a_tester_names_a_target_of_the_release(target: str, name: str | None) -> None:
    release = Release("m", 1, split=SPLIT, shadows=(Shadow("9"),))
    assert RoutingPolicy("champion").decide(release, *asked("a", target)) == (name, "override", ())


@pytest.mark.parametrize("target", ["other", "8", "v", "", "v1", "CHALLENGER"])
def test_a_target_that_the_release_does_not_name_is_refused(target: str) -> None:
    policy = RoutingPolicy("champion")
    with pytest.raises(InvalidInput, match=r"x-rayplat-target: .* it names champion, challenger, 7") as raised:
        policy.decide(Release("m", 1, split=SPLIT), *asked("a", target))
    assert raised.value.http_status == 422


def test_a_release_may_take_no_headers() -> None:
    release = Release("m", 1, split=SPLIT, overrides=False)
    with pytest.raises(Forbidden, match="tester may not do this: the release of this model takes no x-rayplat-target"):
        RoutingPolicy("champion").decide(release, *asked("a", "challenger"))


def test_which_headers_and_variants_a_release_speaks_of() -> None:
    release = Release(
        "m", 1, split=replace(SPLIT, sticky="header:X-User"), canary=CANARY, shadows=(Shadow("9"), Shadow("off", 0.0))
    )
    assert decide.headers(release) == {"x-rayplat-target", "x-user"}
    assert decide.targets(release) == ("champion", "challenger", "7", "candidate", "9", "off")
    assert decide.answering(release, "champion") == {"challenger", "v7", "candidate", "v9"}
    back = replace(release, canary=replace(CANARY, state=CanaryState.ROLLED_BACK))
    assert decide.answering(back, "champion") == {"challenger", "v7", "v9"}
