from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplat.errors import InvalidInput
from rayplat.registry import endpoint_rules
from rayplat.serve.deployment import spec
from rayplat.types import Autoscale, Batching, EndpointSpec, Explaining, Limits, Logging

FULL = """
defaults:
  cpus: 0.5
  limits: {deadline: 2s, rate: 100/s}
  log: {redact: [age]}
endpoints:
  - model: flight-delay
    default: true
    autoscale: {min_replicas: 0, max_replicas: 3, target_ongoing: 4.0, upscale_delay: 1s, downscale_delay: 5m}
    limits: {queue: 1k, concurrency: 2}
    batching: {max_rows: 64, window: 2.5ms}
    log: {sample: 0.25, durability: spool}
    explain: {max_evaluations: 100}
  - {model: flight-delay, alias: challenger, gpus: 0.5, replicas: 2, public: true}
  - {model: tail, placement: pooled, pinned: true, cpus: null, limits: {rate: null}}
"""


def test_a_spec_is_read_with_its_defaults() -> None:
    first, second, third = spec.parse(FULL)
    assert first == EndpointSpec(
        "flight-delay",
        "champion",
        autoscale=Autoscale(0, 3, 4.0, 1.0, 300.0),
        cpus=0.5,
        default=True,
        batching=Batching(64, 2.5),
        limits=Limits(1000, 2.0, 2, 100.0),
        log=Logging(0.25, "spool", ("age",)),
        explain=Explaining(100),
    )
    assert (second.alias, second.gpus, second.replicas, second.public) == ("challenger", 0.5, 2, True)
    assert second.limits == Limits(deadline_s=2.0, rate=100.0)
    assert third == EndpointSpec(
        "tail", placement="pooled", pinned=True, limits=Limits(deadline_s=2.0), log=Logging(redact=("age",))
    )


def test_an_empty_spec_names_nothing() -> None:
    assert spec.parse("endpoints: []") == ()
    assert spec.parse("defaults:\nendpoints: []") == ()


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("", "spec", "must be a mapping"),
        ("[1]", "spec", "must be a mapping"),
        ("endpoint: []", "endpoint", "known are defaults, endpoints"),
        ("endpoints: {}", "endpoints", "must be a list"),
        ("endpoints: [7]", "endpoints[0]", "at least 'model'"),
        ("endpoints: [{alias: a}]", "endpoints[0].model", "required"),
        ("endpoints: [{model: m, replica: 2}]", "endpoints[0].replica", "not known here"),
        ("endpoints: [{model: m, limits: {quue: 2}}]", "endpoints[0].limits.quue", "not known here"),
        ("defaults: {model: m}\nendpoints: []", "defaults.model", "not known here"),
        ("defaults: {limits: {deadline: 5}}\nendpoints: []", "defaults.limits.deadline", "such as 5s"),
        ("defaults: 7\nendpoints: []", "defaults", "valid dictionary"),
        ("endpoints: [{model: m, replicas: true}]", "endpoints[0].replicas", "no whole number"),
        ("endpoints: [{model: m, public: 'yes'}]", "endpoints[0].public", "boolean"),
        ("endpoints: [{model: m, cpus: .nan}]", "endpoints[0].cpus", "finite"),
        ("endpoints: [{model: m, placement: cloud}]", "endpoints[0].placement", "dedicated, pooled"),
        ("endpoints: [{model: M}]", "model", "no valid name"),
        ("endpoints: [{model: m, alias: latest}]", "alias", "shadow a version number"),
        ("endpoints: [{model: m, alias: a--b}]", "alias", "has no address"),
        ("endpoints: [{model: m}, {model: n}, {model: m}]", "endpoints[2]", "endpoints[0] already"),
        ("endpoints: [{model: m, default: true}, {model: n, default: true}]", "endpoints[1].default", "one at most"),
        ("endpoints: [{model: m, limits: {rate: 9/fortnight}}]", "endpoints[0].limits.rate", "no rate"),
        ("endpoints: [{model: m, log: {sample: 2.0}}]", "endpoints[0].log.sample", "between 0 and 1"),
        ("endpoints: [{model: m, model: n}]", "spec", "line 1: 'model' is there twice"),
        ("a: 1\nendpoints: [", "spec", "it is no YAML: line"),
        ("endpoints: !!python/object/apply:os.system [ls]", "spec", "could not determine a constructor"),
        ("x" * (1 << 20) + "yz", "spec", "the limit is"),
        ("endpoints: " + "[" * 5000, "spec", "it"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_by_its_path(text: str, field: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        spec.parse(text)
    assert caught.value.field == field
    assert reason in caught.value.reason


_names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
_dedicated = st.builds(
    EndpointSpec,
    model=_names,
    alias=st.sampled_from(["champion", "challenger", "v7"]),
    autoscale=st.none()
    | st.builds(Autoscale, st.integers(0, 2), st.integers(2, 9), st.floats(0.01, 100), st.floats(0, 600)),
    cpus=st.none() | st.floats(0, 16),
    gpus=st.floats(0, 4),
    public=st.booleans(),
    batching=st.builds(Batching, st.integers(1, 5000), st.none() | st.floats(0, 100)),
    limits=st.builds(
        Limits,
        st.none() | st.integers(0, 20_000),
        st.floats(0.001, 3600),
        st.integers(1, 9),
        st.none() | st.floats(0.001, 1e6),
    ),
    log=st.builds(Logging, st.floats(0, 1), st.sampled_from(["memory", "spool"]), st.just(("b", "a")) | st.just(())),
    explain=st.builds(Explaining, st.integers(1, 10_000), st.integers(1, 99)),
)
_pooled = st.builds(EndpointSpec, model=_names, placement=st.just("pooled"), pinned=st.booleans())


@given(st.lists(_dedicated | _pooled, max_size=6, unique_by=lambda s: (s.model, s.alias)))
def test_what_is_written_is_read_back_as_it_was(specs: list[EndpointSpec]) -> None:
    for one in specs:
        endpoint_rules.check(one)
    assert spec.parse(spec.dump(specs)) == tuple(specs)


def test_what_is_by_default_is_not_written() -> None:
    assert spec.dump([EndpointSpec("m")]) == "endpoints:\n- model: m\n  alias: champion\n"
    assert spec.dump([]) == "endpoints: []\n"
