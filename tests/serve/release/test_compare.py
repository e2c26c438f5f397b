"""A shadow's verdict: pairs, agreement, shift, latency and segments as they are in the log, with honest intervals."""

from __future__ import annotations

from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from rayplat.data.tables import Tables
from rayplat.errors import InvalidInput, NotFound
from rayplat.registry.statistics import wilson
from rayplat.serve.log import schema as log_schema
from rayplat.serve.log.reading import Window
from rayplat.serve.log.schema import Record
from rayplat.serve.release import compare, paired
from rayplat.serve.release.compare import Agreement, Question
from rayplat.settings import Settings
from rayplat.types import ShadowVerdict
from tests.serve.log_fakes import HEAD, NOW, record

WINDOW = Window(HEAD.model, NOW - timedelta(days=1), NOW + timedelta(days=1))


def logged(tables: Tables, records: list[Record]) -> None:
    rows = log_schema.decode(log_schema.encode(records, "r"))
    if log_schema.TABLE not in tables.names():
        tables.create(log_schema.TABLE, log_schema.SCHEMA, partition_by=log_schema.PARTITION_BY)
    tables.append(log_schema.TABLE, rows)


def answer(name: str, p: Any, at: datetime = NOW, **change: Any) -> Record:
    scores = np.atleast_1d(np.asarray(p, dtype=np.float64))
    rows = len(scores)
    given = {"outputs": {"p": scores}, "received_at": at, "entity": [f"{name}-{i}" for i in range(rows)]}
    return record(name, rows, **(given | change))


def copy(name: str, p: Any, version: int = 2, **change: Any) -> Record:
    return answer(name, p, **({"version": version, "role": "shadow", "variant": "challenger"} | change))


@pytest.fixture
def tables(settings: Settings) -> Tables:
    return Tables(settings.tables_uri)


def asked(tables: Tables, **change: Any) -> ShadowVerdict:
    return compare.shadow(tables, Question(**({"window": WINDOW, "shadow": "challenger"} | change)))


def test_the_same_requests_are_put_beside_each_other(tables: Tables) -> None:
    own = [answer(str(i), p, latency_ms=1.0 + i) for i, p in enumerate((0.2, 0.4, 0.6, 0.9))]
    own += [answer("unshadowed", 0.5), answer("both fail", 0.1, outputs=None, status=503)]
    copies = [copy(str(i), p, latency_ms=3.0) for i, p in enumerate((0.3, 0.6, 0.7))]
    copies += [copy("3", 0.0, outputs=None, status=500), copy("both fail", 0.0, outputs=None, status=500)]
    logged(tables, own + copies)
    found = asked(tables)
    seen = found.evidence
    assert (seen.pairs, seen.agreed, seen.errors) == (3, 2, 1)
    assert seen.score_shift == pytest.approx(0.4 / 3)
    gaps = np.array([0.1, 0.2, 0.1])
    assert seen.score_shift_error == pytest.approx(gaps.std(ddof=1) / 3**0.5)
    assert (seen.candidate_p50_ms, seen.primary_p50_ms) == (3.0, 2.0)
    assert seen.primary_p99_ms == pytest.approx(2.98)
    assert (found.primary, found.primary_version, found.shadow_version) == ("champion", 1, 2)
    assert found.agreement.low < 2 / 3 < found.agreement.high
    assert found.error_rate.value == 0.25
    assert found.log == tables.version(log_schema.TABLE).manifest_digest


def test_rows_of_one_request_are_pairs_of_one_cluster(tables: Tables) -> None:
    logged(tables, [answer("a", [0.1] * 8), copy("a", [0.3] * 8), answer("b", [0.1] * 2), copy("b", [0.1] * 2)])
    seen = asked(tables).evidence
    assert (seen.pairs, seen.requests) == (10, 2)
    assert seen.score_shift == pytest.approx(0.16)
    # eight times the same gap tells what one would: 0.066 from ten independent rows would be far too sure
    assert seen.score_shift_error == pytest.approx((2 * 2 * (8 * 0.04) ** 2) ** 0.5 / 10)


def test_one_large_request_is_one_observation(tables: Tables) -> None:
    logged(tables, [answer("a", [0.1] * 5000), copy("a", [0.1] * 4990 + [0.2] * 10)])
    found = asked(tables)
    assert (found.evidence.pairs, found.evidence.agreed, found.evidence.requests) == (5000, 5000, 1)
    assert (found.agreement.low, found.agreement.high) == (0.0, 1.0)
    assert (found.evidence.score_shift_error, found.score_shift) == (None, None)
    more = [make(str(i), [0.1] * 50) for i in range(100) for make in (answer, copy)]
    logged(tables, [*more, answer("b", [0.1] * 50), copy("b", [0.9] * 50)])
    again = asked(tables)
    assert again.evidence.requests == 102
    assert 0.4 < again.agreement.low < 0.97  # of rows, 99.5 % agree and 0.993 would be the bound
    assert again.score_shift is not None


def test_errors_are_counted_by_request(tables: Tables) -> None:
    logged(tables, [make(str(i), [0.1] * 3) for i in range(20) for make in (answer, copy)])
    logged(tables, [answer("x", [0.1] * 400), copy("x", [0.1] * 400, outputs=None, status=500)])
    found = asked(tables)
    assert (found.evidence.errors, found.evidence.requests, found.evidence.pairs) == (1, 20, 60)
    assert found.error_rate.value == pytest.approx(1 / 21)
    assert (found.error_rate.low, found.error_rate.high) == pytest.approx(wilson(1, 21, 0.975))


def test_one_row_per_request_is_counted_as_ever(tables: Tables) -> None:
    logged(tables, [make(str(i), p) for i in range(40) for make, p in ((answer, 0.2), (copy, 0.2 if i else 0.7))])
    found = asked(tables)
    assert (found.agreement.low, found.agreement.high) == pytest.approx(wilson(39, 40, 0.975))
    assert found.evidence.design_effect == pytest.approx(1.0)


def test_numbers_agree_within_a_tolerance_and_labels_where_they_are_equal(tables: Tables) -> None:
    labels = [record(n, outputs={"label": [v]}) for n, v in (("a", "late"), ("b", "early"))]
    copied = [
        record(n, outputs={"label": [v]}, version=2, role="shadow", variant="challenger")
        for n, v in (("a", "late"), ("b", "late"))
    ]
    numbers = [answer("c", 10.0), copy("c", 10.05), answer("d", 10.0), copy("d", 12.0)]
    logged(tables, [*labels, *copied, *numbers])
    found = asked(tables, agreement=Agreement(tolerance=0.1))
    assert (found.evidence.pairs, found.evidence.agreed) == (4, 2)
    assert found.rule == "at most 0.1 apart"
    with pytest.raises(InvalidInput, match="no probabilities"):
        asked(tables)
    assert asked(tables, agreement=Agreement(threshold=11.0)).evidence.agreed == 2


def test_agreement_is_told_by_segment(tables: Tables) -> None:
    rows = []
    for i in range(40):
        inputs = {"origin": ["JFK" if i % 4 else "EWR"], "gate": np.array([float(i % 2)])}
        rows += [answer(str(i), 0.2, inputs=inputs), copy(str(i), 0.2 if i % 4 else 0.8, inputs={})]
    logged(tables, rows)
    found = asked(tables, segments=("origin", "gate"))
    seen = {s.segment: (s.pairs, s.agreed, s.requests) for s in found.evidence.by_segment}
    assert seen == {
        "origin=JFK": (30, 30, 30),
        "origin=EWR": (10, 0, 10),
        "gate=0": (20, 10, 20),
        "gate=1": (20, 20, 20),
    }
    assert [s.design_effect for s in found.evidence.by_segment] == pytest.approx([1.0] * 4)
    assert found.by_segment[1].agreement.high < found.agreement.low
    with pytest.raises(NotFound, match="no request of the log has a value of that name"):
        asked(tables, segments=("terminal",))


def test_a_segments_rows_are_counted_by_request(tables: Tables) -> None:
    rows = []
    for i in range(30):
        inputs = {"origin": ["JFK"] * 4 + ["EWR"] * (1 + i % 2)}
        scores = [0.2] * (5 + i % 2)
        moved = [0.9 if i % 3 == 0 else 0.2] * 4 + [0.2] * (1 + i % 2)
        rows += [answer(str(i), scores, inputs=inputs), copy(str(i), moved, inputs={})]
    logged(tables, rows)
    found = asked(tables, segments=("origin",))
    one, other = found.evidence.by_segment
    assert (one.segment, one.pairs, one.agreed, one.requests) == ("origin=JFK", 120, 80, 30)
    assert one.design_effect == pytest.approx(4.0, rel=0.05)  # four rows that say the same are one
    assert (other.segment, other.pairs, other.agreed, other.requests) == ("origin=EWR", 45, 45, 30)
    apart = found.by_segment[0].agreement
    assert (apart.low, apart.high) == pytest.approx(wilson(20, 30, 0.975), abs=0.02)


def test_only_one_pair_of_versions_is_compared(tables: Tables) -> None:
    later = NOW + timedelta(minutes=1)
    logged(tables, [answer("a", 0.1), copy("a", 0.1), answer("b", 0.1, at=later), copy("b", 0.9, version=3, at=later)])
    newest = asked(tables)
    assert (newest.shadow_version, newest.evidence.pairs, newest.evidence.agreed) == (3, 1, 0)
    assert "1 pairs of other versions are left out" in newest.notes
    assert asked(tables, versions=(2, 1)).evidence.agreed == 1
    with pytest.raises(NotFound, match=r"version 5 beside 1.*2 beside 1, 3 beside 1"):
        asked(tables, versions=(5, 1))


def test_ids_that_were_used_twice_are_left_out(tables: Tables) -> None:
    logged(tables, [answer("a", 0.1), answer("a", [0.9, 0.9]), copy("a", [0.1, 0.1]), answer("b", 0.1), copy("b", 0.1)])
    found = asked(tables)
    assert found.evidence.pairs == 1
    assert "3 rows of the primary have an id that was used again, and are left out" in found.notes


def test_what_is_outside_of_the_time_or_another_models_does_not_count(tables: Tables) -> None:
    early, other = NOW - timedelta(days=2), HEAD.__class__(**{**vars(HEAD), "model": "other"})
    logged(tables, [answer("a", 0.1, at=early), copy("a", 0.1, at=early), answer("b", 0.1, head=other)])
    logged(tables, [copy("b", 0.1, head=other), answer("c", 0.1), copy("c", 0.1)])
    assert asked(tables).evidence.pairs == 1
    assert asked(tables, window=Window(HEAD.model, NOW - timedelta(days=3), NOW)).evidence.pairs == 1


def test_a_shadow_that_is_a_version_is_found_by_its_number(tables: Tables) -> None:
    logged(tables, [answer("a", 0.1), copy("a", 0.1, version=7, variant="v7")])
    assert asked(tables, shadow="7").shadow_version == 7


def test_what_cannot_be_compared_is_named(tables: Tables) -> None:
    with pytest.raises(NotFound, match="nothing has been logged"):
        asked(tables)
    logged(tables, [answer("a", 0.1), copy("z", 0.1)])
    with pytest.raises(NotFound, match="no request was answered by both"):
        asked(tables)
    with pytest.raises(NotFound, match="the log has shadows challenger"):
        asked(tables, shadow="production-v2")
    logged(tables, [copy("a", 0.1, outputs=None, status=500)])
    with pytest.raises(NotFound, match="the shadow failed all 1"):
        asked(tables)
    for change in ({"level": 1.0}, {"level": 0.3}):
        with pytest.raises(InvalidInput, match="level"):
            asked(tables, **change)
    with pytest.raises(InvalidInput, match="not both"):
        Agreement(0.5, 0.1)
    with pytest.raises(InvalidInput, match="below 0"):
        Agreement(tolerance=-1.0)
    with pytest.raises(InvalidInput, match="is not before"):
        Window("m", NOW, NOW)
    with pytest.raises(InvalidInput, match="time zone"):
        Window("m", NOW.replace(tzinfo=None), NOW)


def test_a_log_of_an_earlier_release_has_nothing_to_compare(tables: Tables) -> None:
    old = log_schema.decode(log_schema.encode([answer("a", 0.1)], "r"))
    tables.create(log_schema.TABLE, old.drop_columns(["variant", "role", "status", "answer"]))
    with pytest.raises(NotFound, match="earlier release"):
        asked(tables)


def _simulated(random: np.random.Generator) -> tuple[Any, Any, Any]:
    """Of 60 requests of 1 to 200 rows: the request of each row, the primary's scores, and gaps that a request's rows
    share in part: 0.02 on average."""
    sizes = random.integers(1, 201, 60)
    request = np.repeat(np.arange(60), sizes)
    n = len(request)
    return request, random.random(n), 0.02 + random.normal(0, 0.05, 60)[request] + random.normal(0, 0.01, n)


def test_the_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(11)
    held, rounds = {"agreement": 0, "shift": 0, "shift by rows": 0}, 400
    truth = NormalDist(0.02, (0.05**2 + 0.01**2) ** 0.5).cdf(0.1)
    for _ in range(rounds):
        request, _, gap = _simulated(random)
        agreed = paired.share(paired.agreement("", request, gap <= 0.1), 0.95)
        shifted = paired.mean(*paired.shift(request, gap), 60, 0.95)
        assert shifted is not None
        held["agreement"] += agreed.low <= truth <= agreed.high
        held["shift"] += shifted.low <= 0.02 <= shifted.high
        held["shift by rows"] += abs(gap.mean() - 0.02) <= 1.96 * gap.std() / len(gap) ** 0.5
    assert 0.92 <= held["agreement"] / rounds <= 0.985
    assert 0.92 <= held["shift"] / rounds <= 0.985
    assert held["shift by rows"] / rounds < 0.5


def test_a_verdict_has_the_intervals_whose_coverage_was_looked_at() -> None:
    import pandas as pd

    request, own, gap = _simulated(np.random.default_rng(2))
    rows = np.concatenate([np.arange(n) for n in np.bincount(request)])
    frame = {"request_id": request.astype(str), "row": rows, "received_at": NOW, "status": 200}
    frame |= {"latency_ms": 1.0, "answer": None}
    copies = pd.DataFrame(frame | {"version": 2, "prediction": own + gap}).sample(frac=1, random_state=1)
    primary = pd.DataFrame(frame | {"version": 1, "prediction": own, "alias": "champion"})
    found = compare.judge(Question(WINDOW, "challenger", Agreement(tolerance=0.1)), copies, primary, "")
    agreed = paired.share(paired.agreement("", request, np.abs(gap) <= 0.1), 0.95)
    shifted = paired.mean(*paired.shift(request, gap), 60, 0.95)
    assert shifted is not None
    assert found.score_shift is not None
    assert vars(found.agreement) == pytest.approx(vars(agreed))
    assert vars(found.score_shift) == pytest.approx(vars(shifted))
