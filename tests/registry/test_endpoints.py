from __future__ import annotations

from dataclasses import replace

import pytest

from rayplat.errors import Conflict, Forbidden, InvalidInput, InvalidName, NotFound
from rayplat.registry.record import audit, crosscheck, endpoints, releases, versions
from rayplat.types import (
    Autoscale,
    Batching,
    Canary,
    CanaryState,
    EndpointSpec,
    Explaining,
    Limits,
    Logging,
    Release,
    Shadow,
    Share,
    Split,
)
from tests.registry.desk import ALIAS, ANN, BOB, EVE, FREE, MODEL, ROOT, Desk

FULL = EndpointSpec(
    MODEL,
    ALIAS,
    autoscale=Autoscale(0, 3, 4.0, 1.0, 30.0),
    cpus=0.5,
    gpus=0.25,
    default=True,
    batching=Batching(64, 2.5),
    limits=Limits(10, 1.5, 2, 100.0, 5),
    log=Logging(0.25, "spool", ("age", "name")),
    explain=Explaining(100, 4),
)
PLAIN = EndpointSpec(MODEL, FREE)


@pytest.fixture
def served(either: Desk) -> Desk:
    either.move(1)
    either.move(1, FREE)
    return either


def test_what_is_put_comes_back_and_is_audited(served: Desk) -> None:
    assert served.read(endpoints.listed) == []
    assert served.read(endpoints.find, MODEL, ALIAS) is None
    with pytest.raises(NotFound, match="rayplat serve create flight-delay champion"):
        served.read(endpoints.get, MODEL, ALIAS)
    served.write(endpoints.put, PLAIN, by=ANN)
    served.write(endpoints.put, FULL, by=ANN)
    assert served.read(endpoints.get, MODEL, ALIAS) == FULL
    assert served.read(endpoints.listed) == [FULL, PLAIN]
    entry = served.read(audit.listed, 1)[0]
    assert (entry.actor, entry.action, entry.subject) == ("ann", "endpoint.put", f"{MODEL}@{ALIAS}")
    assert entry.detail["before"] is None
    assert entry.detail["spec"]["limits"]["queue"] == 10
    assert served.read(crosscheck.check_record) == []


def test_the_same_again_writes_nothing(served: Desk) -> None:
    served.write(endpoints.put, FULL, by=ANN, key="a")
    before = served.read(audit.listed)
    assert served.write(endpoints.put, FULL, by=BOB) == FULL
    assert served.write(endpoints.put, FULL, by=ANN, key="a") == FULL
    with pytest.raises(Conflict, match="idempotency key"):
        served.write(endpoints.put, replace(FULL, cpus=1.0), by=ANN, key="a")
    assert served.read(audit.listed) == before


def test_an_edited_row_is_found(served: Desk) -> None:
    served.write(endpoints.put, PLAIN, by=ANN)
    served.change("update rp_endpoint set spec = replace(spec, 'memory', 'spool')")
    found = served.read(crosscheck.check_record)
    assert [p.reason.partition(":")[0] for p in found] == [f"rp_endpoint {MODEL}/{FREE}"]


def test_one_default_at_most(served: Desk) -> None:
    served.write(endpoints.put, FULL, by=ANN)
    served.write(endpoints.put, replace(PLAIN, default=True), by=ANN)
    assert [(e.alias, e.default) for e in served.read(endpoints.listed)] == [(ALIAS, False), (FREE, True)]
    assert [e.subject for e in served.read(audit.listed, 2)] == [f"{MODEL}@{FREE}", f"{MODEL}@{ALIAS}"]
    assert served.read(crosscheck.check_record) == []


def test_a_release_and_the_pool_exclude_each_other(served: Desk) -> None:
    pooled = EndpointSpec(MODEL, ALIAS, placement="pooled")
    own, copies = replace(pooled, placement="dedicated"), Release(MODEL, shadows=(Shadow(FREE, 0.5),))
    canary = Release(MODEL, canary=Canary(FREE))
    served.write(endpoints.put, pooled, by=ANN)
    for release in (copies, canary, Release(MODEL, split=Split((Share(ALIAS, 1), Share(FREE, 1)), "s"))):
        with pytest.raises(Conflict, match=f"{MODEL}@{ALIAS} is served by the pool.*placement: dedicated.*serve apply"):
            served.write(releases.put, release, 0, by=BOB)
        with pytest.raises(Conflict, match="is served by the pool"):  # nobody starts a host for it first
            served.read(releases.examine, release, BOB)
    assert served.read(releases.get, MODEL).generation == 0
    served.write(endpoints.put, own, by=ANN)
    on = served.write(releases.put, canary, 0, by=BOB)
    for refused in (
        lambda: served.read(endpoints.check_target, pooled),
        lambda: served.write(endpoints.put, pooled, by=ANN),
    ):
        with pytest.raises(Conflict, match=f"sends requests to {FREE}.*`rayplat serve release {MODEL} --clear`"):
            refused()
    assert served.read(endpoints.get, MODEL, ALIAS) == own
    back = replace(on, canary=Canary(FREE, state=CanaryState.ROLLED_BACK))
    served.write(releases.put, back, 1, by=ANN)
    served.write(endpoints.put, pooled, by=ANN)
    served.write(
        endpoints.put, replace(PLAIN, placement="pooled"), by=ANN
    )  # only the default alias's requests are divided


def test_what_was_pooled_under_a_release_already_can_be_led_back(served: Desk) -> None:
    pooled = EndpointSpec(MODEL, ALIAS, placement="pooled")
    served.write(releases.put, Release(MODEL, canary=Canary(FREE), shadows=(Shadow("1", 0.5),)), 0, by=BOB)
    served.write(endpoints.put, replace(pooled, placement="dedicated"), by=ANN)
    served.change("update rp_endpoint set spec = replace(spec, 'dedicated', 'pooled')")
    assert served.write(endpoints.put, pooled, by=ANN) == pooled
    now = served.read(releases.get, MODEL)
    less = replace(now, canary=replace(now.canary, state=CanaryState.ROLLED_BACK))  # type: ignore[type-var]
    assert served.write(releases.put, less, 1, by=ANN).generation == 2
    assert served.write(releases.put, Release(MODEL), 2, by=ANN).generation == 3


def test_only_an_approver_makes_predictions_public(served: Desk) -> None:
    public = replace(PLAIN, public=True)
    with pytest.raises(Forbidden, match="needs the role approver"):
        served.write(endpoints.put, public, by=ANN)
    assert served.read(endpoints.listed) == []
    served.write(endpoints.put, public, by=BOB)
    served.write(endpoints.put, replace(public, replicas=2), by=ANN)  # it was public already
    served.write(endpoints.put, PLAIN, by=ANN)
    with pytest.raises(Forbidden):
        served.write(endpoints.put, PLAIN, by=EVE)


def test_only_an_approver_removes_a_protected_alias(served: Desk) -> None:
    for spec in (FULL, PLAIN):
        served.write(endpoints.put, spec, by=ANN)
    with pytest.raises(Forbidden, match="is protected: to stop serving it needs the role approver"):
        served.write(endpoints.delete, MODEL, ALIAS, by=ANN)
    assert served.write(endpoints.delete, MODEL, FREE, by=ANN) == PLAIN
    assert served.write(endpoints.delete, MODEL, ALIAS, by=BOB, key="d") == FULL
    assert served.write(endpoints.delete, MODEL, ALIAS, by=BOB, key="d") == FULL
    with pytest.raises(NotFound):
        served.write(endpoints.delete, MODEL, ALIAS, by=BOB)
    assert served.read(endpoints.listed) == []
    assert served.read(crosscheck.check_record) == []


def test_an_exact_version_is_served_under_its_number(served: Desk) -> None:
    served.write(endpoints.put, EndpointSpec(MODEL, "v2"), by=ANN)
    assert served.write(endpoints.delete, MODEL, "v2", by=ANN).alias == "v2"
    served.write(versions.delete, MODEL, 3, "gone", by=ROOT)
    for alias, error in (("v9", NotFound), ("v3", Conflict), ("challenger", NotFound), ("7", InvalidName)):
        with pytest.raises(error):
            served.write(endpoints.put, EndpointSpec(MODEL, alias), by=ANN)
    with pytest.raises(InvalidInput, match="name an alias"):
        served.write(endpoints.put, EndpointSpec(MODEL, "v2", default=True), by=ANN)
    assert served.read(endpoints.listed) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"placement": "cloud"}, "placement"),
        ({"replicas": 0}, "replicas"),
        ({"placement": "pooled", "replicas": 2}, "replicas"),
        ({"placement": "pooled", "cpus": 1.0}, "cpus"),
        ({"placement": "pooled", "gpus": 1.0}, "gpus"),
        ({"placement": "pooled", "autoscale": Autoscale()}, "autoscale"),
        ({"pinned": True}, "pinned"),
        ({"cpus": -1.0}, "cpus"),
        ({"cpus": float("nan")}, "cpus"),
        ({"replicas": 2, "autoscale": Autoscale()}, "autoscale"),
        ({"autoscale": Autoscale(5, 4)}, "autoscale.min_replicas"),
        ({"autoscale": Autoscale(0, 0)}, "autoscale.max_replicas"),
        ({"autoscale": Autoscale(target_ongoing=0.0)}, "autoscale.target_ongoing"),
        ({"autoscale": Autoscale(upscale_delay_s=-1.0)}, "autoscale.upscale_delay_s"),
        ({"batching": Batching(0)}, "batching.max_rows"),
        ({"batching": Batching(window_ms=-1.0)}, "batching.window_ms"),
        ({"limits": Limits(queue=-1)}, "limits.queue"),
        ({"limits": Limits(deadline_s=0.0)}, "limits.deadline_s"),
        ({"limits": Limits(concurrency=0)}, "limits.concurrency"),
        ({"limits": Limits(rate=0.0)}, "limits.rate"),
        ({"limits": Limits(burst=0)}, "limits.burst"),
        ({"log": Logging(1.5)}, "log.sample"),
        ({"log": Logging(durability="disk")}, "log.durability"),
        ({"log": Logging(redact=("a", "a"))}, "log.redact"),
        ({"log": Logging(redact=("",))}, "log.redact"),
        ({"explain": Explaining(0)}, "explain.max_evaluations"),
        ({"explain": Explaining(max_rows=0)}, "explain.max_rows"),
        ({"replicas": "2"}, "replicas"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(desk: Desk, changes: dict[str, object], field: str) -> None:
    desk.move(1)
    before = desk.read(audit.listed)
    with pytest.raises(InvalidInput) as caught:
        desk.write(endpoints.put, replace(EndpointSpec(MODEL, ALIAS), **changes), by=ROOT)  # type: ignore[arg-type]
    assert caught.value.field == f"endpoint.{field}"
    assert desk.read(audit.listed) == before
    assert desk.read(endpoints.listed) == []
