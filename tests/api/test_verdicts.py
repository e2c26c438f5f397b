"""From rows of the log to a gate's verdict: a shadow and an A/B test, through the verbs, on real tables and records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from rayplat.artifacts.store import ArtifactStore
from rayplat.cli import verdict_view, verdicts
from rayplat.data.tables import Tables
from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound, SchemaMismatch
from rayplat.registry import documents
from rayplat.registry.record import policies, releases
from rayplat.serve.log.schema import Record
from rayplat.services.promotions import Promotions
from rayplat.services.verbs import Context
from rayplat.services.verdicts import Verdicts
from rayplat.settings import Settings
from rayplat.types import (
    AliasHead,
    AliasPolicy,
    Evidence,
    ExperimentDesign,
    ExperimentVerdict,
    GateSpec,
    Principal,
    PromotionState,
    Release,
    Role,
    Share,
    Split,
)
from tests.api.fakes import ADMIN, AUTHOR, TRAINING_SET, FakeTracking, registry, seed
from tests.serve.release.test_compare import answer, copy, logged

EVIDENCE = Evidence(TRAINING_SET, 50_000, {"auc": 0.7}, 1, {"auc": 0.69})
DESIGN = ExperimentDesign("accepted", "proportion", 0.05, 0.1, 0.25, 4000, min_samples=200)
HEAD = AliasHead("m", "champion", 1, "sha256:" + "1" * 64, 1, datetime(2026, 1, 1, tzinfo=UTC), "ada")
S = PromotionState
MS = timedelta(microseconds=1)


@dataclass
class World:
    """Model ``m``: champion is version 1, a promotion of version 2 is asked for."""

    context: Context
    promotion_id: str

    @property
    def verdicts(self) -> Verdicts:
        return Verdicts(self.context)

    def split(self, sticky: str = "entity", salt: str = "s", weights: tuple[float, float] = (1, 1)) -> datetime:
        """Divide the requests for the test; when that began."""
        before = self.context.registry.read(releases.get, "m").generation
        shares = (Share("champion", weights[0]), Share("2", weights[1]))
        made = Release("m", split=Split(shares, salt, sticky, self.promotion_id))
        found = self.context.registry.write(releases.put, made, before, by=ADMIN)
        assert found.changed_at is not None
        return found.changed_at

    def design(self, design: ExperimentDesign = DESIGN) -> None:
        Promotions(self.context).experiment(self.promotion_id, design)

    def log(self, rows: list[Record]) -> None:
        logged(self.context.tables, rows)

    def outcomes(self, name: str, units: dict[str, float | None], **columns: Any) -> None:
        known = pa.array([datetime.now(UTC)] * len(units), pa.timestamp("us", tz="UTC"))
        rows = {"key": list(units), "label": pa.array(list(units.values()), pa.float64()), "known_at": known}
        self.context.tables.create(name, pa.table(rows | columns))


@pytest.fixture
def world(settings: Settings, empty_database: Path, tmp_path: Path) -> World:
    record = registry(Path(shutil.copy(empty_database, tmp_path / "rayplat.db")))
    store = ArtifactStore.of(settings)
    nothing: Any = None
    tracking: Any = FakeTracking()
    context = Context(settings, record, Tables(settings.tables_uri), tracking, nothing, store, "", AUTHOR)
    seed(context, record, tmp_path)
    gates = (
        GateSpec("shadow_agreement", {"min_pairs": 500, "max_latency_ratio": 3.0, "max_error_rate": 0.05}),
        GateSpec("experiment", {"metric": "accepted", "min_samples": 200}),
    )
    record.write(policies.set, AliasPolicy("m", "champion", False, gates, min_approvals=0), by=ADMIN)
    asked = Promotions(context).request("m", 2, "champion", EVIDENCE)
    return World(context, asked.promotion_id)


def arm(at: datetime, i: int, candidate: bool, p: float = 0.5, **change: Any) -> Record:
    """Request ``i`` of an A/B test, answered by one arm."""
    sides: dict[str, Any] = {"version": 2, "role": "split", "variant": "v2"} if candidate else {}
    given = {"head": HEAD, "entity": [f"e{i}"], "event_time": at} | sides
    return answer(f"r{i}", p, at=at + i * MS, **(given | change))


def assigned(n: int, share: float = 0.5, seed: int = 0) -> list[bool]:
    return list(np.random.default_rng(seed).permutation(n) < n * share)


def shadowed(n: int, disagree: int = 0) -> list[Record]:
    at = datetime.now(UTC) - timedelta(hours=1)
    own = [answer(f"s{i}", 0.2, at=at, head=HEAD) for i in range(n)]
    return own + [copy(f"s{i}", 0.7 if i < disagree else 0.21, at=at, head=HEAD) for i in range(n)]


def shown(view: Any) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view)
    return console.export_text()


# --- shadows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("disagree", "state"), [(4, S.SHADOWED), (120, S.REJECTED)])
def test_what_a_shadow_saw_decides_the_promotion(world: World, disagree: int, state: PromotionState) -> None:
    world.log(shadowed(800, disagree))
    found = world.verdicts.shadow("m", "challenger", segments=("carrier",), attach=world.promotion_id)
    asked = Promotions(world.context).get(world.promotion_id)
    assert asked.state is state
    assert asked.evidence == replace(EVIDENCE, shadow=found.evidence)
    text = shown(verdict_view.shadow(found))
    assert f"{1 - disagree / 800:.2%}" in text
    assert "carrier=UA" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_verdict_is_attached_only_to_its_own_promotion(world: World) -> None:
    world.log(shadowed(10))
    with pytest.raises(NotFound, match="promotion"):
        world.verdicts.shadow("m", "challenger", attach="nope")
    viewer = replace(world.context, principal=Principal("vera", Role.VIEWER))
    assert Verdicts(viewer).shadow("m", "challenger").evidence.pairs == 10
    with pytest.raises(Forbidden):
        Verdicts(viewer).shadow("m", "challenger", attach=world.promotion_id)
    bare = Promotions(world.context).request("m", 2, "other")
    with pytest.raises(Conflict, match="replaces nothing"):
        world.verdicts.shadow("m", "challenger", attach=bare.promotion_id)
    with pytest.raises(NotFound, match="unknown-model"):
        world.verdicts.shadow("unknown-model", "challenger")
    assert Promotions(world.context).get(world.promotion_id).evidence == EVIDENCE


def test_the_evidence_file_is_what_a_promotion_takes(world: World, tmp_path: Path) -> None:
    world.log(shadowed(600))
    found = world.verdicts.shadow("m", "challenger")
    new, file = tmp_path / "new.json", tmp_path / "evidence.json"
    verdicts.write(new, found, None)
    file.write_text(json.dumps(documents.plain(EVIDENCE)))
    verdicts.write(file, found, None)
    merged = documents.parse(Evidence, file.read_text(), "file")
    assert merged == replace(EVIDENCE, shadow=found.evidence)
    asked = Promotions(world.context).evidence(world.promotion_id, merged)
    assert asked.state is S.SHADOWED
    assert documents.parse(Evidence, new.read_text(), "file").dataset == found.log
    file.write_text("{}")
    with pytest.raises(InvalidInput, match="missing"):
        verdicts.write(file, found, None)
    with pytest.raises(InvalidInput, match="cannot be written"):
        verdicts.write(tmp_path / "absent" / "file.json", found, None)


# --- A/B tests --------------------------------------------------------------------------------------


def look(world: World, n: int, rates: tuple[float, float], **options: Any) -> ExperimentVerdict:
    """An A/B test of ``n`` entities, whose outcomes are successes at these rates (candidate, baseline)."""
    at, random = world.split(), np.random.default_rng(3)
    arms = assigned(n)
    world.log([arm(at, i, candidate) for i, candidate in enumerate(arms)])
    world.outcomes("sales", {f"e{i}": float(random.random() < rates[not c]) for i, c in enumerate(arms)})
    return world.verdicts.experiment(world.promotion_id, "sales", **options)


def test_a_test_that_is_won_passes_the_gate(world: World) -> None:
    world.log(shadowed(800))
    world.verdicts.shadow("m", "challenger", attach=world.promotion_id)
    world.design()
    found = look(world, 3000, (0.62, 0.5), attach=True)
    assert found.verdict == "candidate wins"
    assert found.gain is not None
    assert found.gain.low > 0
    assert found.gain.low < 0.12 < found.gain.high
    asked = Promotions(world.context).get(world.promotion_id)
    assert asked.state in (S.AWAITING_APPROVAL, S.APPROVED, S.LIVE)
    assert asked.evidence is not None
    assert asked.evidence.experiment == found.evidence
    text = shown(verdict_view.experiment(found))
    assert "candidate wins" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_test_that_has_not_ended_is_not_handed_in(world: World) -> None:
    world.design()
    found = look(world, 1000, (0.5, 0.5), attach=True)
    assert found.verdict == "undecided"
    assert "not handed in: the test has not ended yet" in found.notes
    assert Promotions(world.context).get(world.promotion_id).evidence == EVIDENCE


def test_a_test_ends_at_the_designs_size(world: World) -> None:
    world.design(replace(DESIGN, max_samples=800, min_samples=100))
    found = look(world, 1000, (0.5, 0.5))
    assert found.verdict == "not won"
    assert found.candidate.outcomes + found.baseline.outcomes == 800
    assert "200 outcomes after the design's 800 do not count" in found.notes


def test_a_broken_split_gets_no_verdict(world: World) -> None:
    world.design()
    at = world.split()
    world.log([arm(at, i, candidate) for i, candidate in enumerate(assigned(1000, 0.4))])
    world.outcomes("sales", {f"e{i}": 1.0 for i in range(1000)})
    with pytest.raises(Conflict, match=r"sample ratio mismatch.*400 of 1000 units.*gives it 0\.5"):
        world.verdicts.experiment(world.promotion_id, "sales")


def test_outcomes_that_one_arm_lacks_get_no_verdict(world: World) -> None:
    world.design()
    at, arms = world.split(), assigned(1000)
    world.log([arm(at, i, candidate) for i, candidate in enumerate(arms)])
    world.outcomes("sales", {f"e{i}": 1.0 for i, c in enumerate(arms) if not c or i % 2})
    with pytest.raises(Conflict, match=r"sample ratio mismatch.*outcomes"):
        world.verdicts.experiment(world.promotion_id, "sales")


def test_an_entity_counts_once_in_the_arm_of_its_first_request(world: World) -> None:
    world.design()
    at = world.split(sticky="request_id")
    arms = assigned(600)
    rows = [arm(at, i, candidate) for i, candidate in enumerate(arms)]
    rows += [arm(at, 600 + i, not arms[i], entity=[f"e{i}"]) for i in range(100)]
    world.log(rows)
    world.outcomes("sales", {f"e{i}": float(i % 2) for i in range(600)})
    found = world.verdicts.experiment(world.promotion_id, "sales")
    assert (found.candidate.units, found.baseline.units) == (300, 300)
    assert found.notes[0] == "100 units were answered by both arms; each counts in the arm of its first request"


def test_the_rows_of_one_request_are_one_unit(world: World) -> None:
    world.design()
    at, arms = world.split(), assigned(600)
    followers = [f"f{i}" for i in range(9)]  # one arm or the other answers them as it comes, for many callers
    world.log([arm(at, i, c, p=[0.5] * 10, entity=[f"e{i}", *followers]) for i, c in enumerate(arms)])
    world.outcomes("sales", {f"e{i}": float(i % 2) for i in range(600)} | dict.fromkeys(followers, 1.0))
    found = world.verdicts.experiment(world.promotion_id, "sales")
    assert (found.candidate.units, found.baseline.units) == (300, 300)
    assert found.candidate.outcomes + found.baseline.outcomes == 600
    assert not [note for note in found.notes if "both arms" in note]


def test_entities_that_change_sides_though_the_split_goes_by_them_get_no_verdict(world: World) -> None:
    world.design()
    at, arms = world.split(sticky="entity"), assigned(600)
    rows = [arm(at, i, candidate) for i, candidate in enumerate(arms)]
    world.log(rows + [arm(at, 600 + i, not arms[i], entity=[f"e{i}"]) for i in range(100)])
    world.outcomes("sales", {f"e{i}": 1.0 for i in range(600)})
    with pytest.raises(Conflict, match=r"100 of 600 units .* answered by both arms"):
        world.verdicts.experiment(world.promotion_id, "sales")


def test_the_values_of_an_input_can_be_the_units(world: World) -> None:
    world.design()
    at, random = world.split(sticky="input:customer"), np.random.default_rng(5)
    side = [bool(c) for c in random.permutation(500) < 250]
    rows = [arm(at, i, side[i % 500], inputs={"customer": [f"c{i % 500}"]}) for i in range(2000)]
    world.log(rows)
    world.outcomes("sales", {f"e{i}": 1.0 if i % 3 else 0.0 for i in range(2000)})
    found = world.verdicts.experiment(world.promotion_id, "sales")
    assert found.unit == "customer"
    assert found.candidate.outcomes + found.baseline.outcomes == 500


def test_only_requests_of_the_split_after_the_design_count(world: World) -> None:
    world.design()
    at, arms = world.split(), assigned(600)
    rows = [arm(at, i, candidate) for i, candidate in enumerate(arms)]
    before = at - timedelta(hours=1)
    rows += [arm(before, 1000 + i, i % 9 > 0) for i in range(500)]
    rows += [arm(at, 2000 + i, True, role=role) for i, role in enumerate(["shadow", "override", "pinned", "canary"])]
    rows += [arm(at, 3000 + i, True, status=500, outputs=None) for i in range(50)]
    rows += [arm(at, 4000 + i, True, version=3) for i in range(50)]
    world.log(rows)
    world.outcomes("sales", {f"e{i}": 1.0 if i % 2 else 0.0 for i in range(5000)})
    found = world.verdicts.experiment(world.promotion_id, "sales")
    assert (found.candidate.units, found.baseline.units) == (300, 300)
    assert found.evidence.first_outcome_at >= at
    assert found.since == at


def test_what_was_known_before_the_request_is_no_outcome_of_it(world: World) -> None:
    world.design()
    at, arms = world.split(), assigned(600)
    world.log([arm(at, i, c, event_time=datetime.now(UTC) + timedelta(days=1)) for i, c in enumerate(arms)])
    world.outcomes("sales", {f"e{i}": 1.0 for i in range(600)})
    with pytest.raises(NotFound, match="600 units have none yet"):
        world.verdicts.experiment(world.promotion_id, "sales")


@pytest.mark.parametrize(("metric", "kind", "value"), [("accuracy", "proportion", 1.0), ("brier", "mean", 0.04)])
def test_what_a_prediction_was_worth_can_be_the_outcome(world: World, metric: str, kind: str, value: float) -> None:
    world.design(replace(DESIGN, metric=metric, kind=kind, higher_is_better=metric == "accuracy"))
    at, arms = world.split(), assigned(600)
    world.log([arm(at, i, c, p=0.8 if c else 0.4) for i, c in enumerate(arms)])
    world.outcomes("sales", {f"e{i}": 1.0 for i in range(600)})
    found = world.verdicts.experiment(world.promotion_id, "sales")
    assert found.candidate.mean == pytest.approx(value)
    assert found.baseline.mean == pytest.approx(0.0 if metric == "accuracy" else 0.36)


def test_a_metric_that_is_a_column_of_the_labels_is_the_outcome(world: World) -> None:
    world.design(replace(DESIGN, metric="revenue", kind="mean"))
    at, arms = world.split(), assigned(600)
    world.log([arm(at, i, c) for i, c in enumerate(arms)])
    revenue = pa.array([3.0 if c else 2.0 for c in arms])
    world.outcomes("sales", {f"e{i}": 1.0 for i in range(600)}, revenue=revenue)
    found = world.verdicts.experiment(world.promotion_id, "sales")
    assert (found.candidate.mean, found.baseline.mean, found.gain) == (3.0, 2.0, None)


Act = Callable[[World], Any]


def _no_split(world: World) -> None:
    world.design()


def _other_key(world: World) -> None:
    world.design()
    at = world.split()
    world.split(sticky="request_id")
    world.log([arm(at, i, c) for i, c in enumerate(assigned(600))])


def _one_arm(world: World) -> None:
    world.design()
    at = world.split()
    world.log([arm(at, i, False) for i in range(100)])


def _without_entity(world: World) -> None:
    world.design()
    at = world.split()
    world.log([arm(at, i, c, entity=None) for i, c in enumerate(assigned(100))])


@pytest.mark.parametrize(
    ("prepare", "error", "message"),
    [
        (lambda world: None, NotFound, "no design was recorded"),
        (_no_split, NotFound, "rayplat serve split"),
        (_other_key, Conflict, "was changed while it ran"),
        (_one_arm, NotFound, "of both arms"),
        (_without_entity, NotFound, "no outcome to join"),
    ],
)
def test_a_test_that_cannot_be_judged_says_why(
    world: World, prepare: Act, error: type[Exception], message: str
) -> None:
    world.outcomes("sales", {"e1": 1.0})
    prepare(world)
    with pytest.raises(error, match=message):
        world.verdicts.experiment(world.promotion_id, "sales")


def test_labels_that_do_not_fit_are_named(world: World) -> None:
    world.design()
    at = world.split()
    world.log([arm(at, i, c) for i, c in enumerate(assigned(600))])
    world.outcomes("sales", {f"e{i}": 7.0 for i in range(600)})
    with pytest.raises(InvalidInput, match="not always 0 or 1"):
        world.verdicts.experiment(world.promotion_id, "sales")
    world.context.tables.create("unfit", pa.table({"key": ["a"], "label": [1]}))
    with pytest.raises(SchemaMismatch, match="known_at"):
        world.verdicts.experiment(world.promotion_id, "unfit")
    with pytest.raises(NotFound, match="absent"):
        world.verdicts.experiment(world.promotion_id, "absent")
