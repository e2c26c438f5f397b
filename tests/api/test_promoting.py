"""Promotions through the verbs, with the bytes at hand: whose run it was, damage before a rollback, a store that is
away."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Conflict, Corrupt, Forbidden, Unavailable
from rayplat.registry.record import decisions
from rayplat.services.audit import Audit
from rayplat.services.models import Models
from rayplat.services.promotions import Promotions
from rayplat.services.verbs import Context
from rayplat.types import AliasHead, Evidence, ModelVersion, Principal, PromotionState, Role, RunInfo
from tests.api.conftest import Served
from tests.api.fakes import ADMIN, AUTHOR, NOW, TRAINING_SET
from tests.api.test_registration import damage

BEA = Principal("bea", Role.APPROVER)
EVIDENCE = Evidence(TRAINING_SET, 50_000, {"auc": 0.7})
S = PromotionState


@dataclass(frozen=True)
class Runs:
    """Tracked runs that differ in their tags only; without tags, MLflow is away."""

    tags: dict[str, str] | None

    def get(self, run_id: str) -> RunInfo:
        if self.tags is None:
            raise Unavailable("the MLflow server", "refused")
        return RunInfo(run_id, "e", "n", "FINISHED", NOW, None, {}, {}, self.tags)


class Away:
    """A place that answers nothing."""

    parallel = 1

    def __getattr__(self, name: str) -> Any:
        def fails(*_: object, **__: object) -> Any:
            raise Unavailable("the artifact store", f"no answer to {name}")

        return fails


@pytest.fixture
def context(served: Served) -> Context:
    return replace(served.context, principal=AUTHOR)


@pytest.fixture
def away(context: Context) -> Context:
    return replace(context, artifacts=ArtifactStore.on(Away(), context.artifacts.timing))


@pytest.fixture
def made(context: Context, tmp_path: Path) -> list[ModelVersion]:
    """Four new versions of a model of this test's own."""
    return [register(context, tmp_path, f"m-{tmp_path.name[-40:].strip('_').replace('_', '-')}") for _ in range(4)]


def register(context: Context, tmp_path: Path, model: str) -> ModelVersion:
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    save_file({"w": np.random.default_rng().random(8)}, folder / "model.safetensors")
    return Models(context).register(model, context.artifacts.put_tree(folder, "model").digest, "run9", TRAINING_SET)


def by(context: Context, who: Principal) -> Promotions:
    return Promotions(replace(context, principal=who))


def live(context: Context, *versions: ModelVersion) -> None:
    for one in versions:
        context.registry.write(decisions.break_glass, one.model, one.version, "champion", "none yet", by=ADMIN)


@pytest.mark.parametrize(
    ("tags", "author"),
    [
        ({"rayplat.author": "bea", "mlflow.user": "root"}, "bea"),
        ({"mlflow.user": "bea"}, "bea"),
        ({"mlflow.user": "b\0ea"}, ""),
        ({"mlflow.user": "b" * 300}, ""),
        ({}, ""),
    ],
)
def test_the_runs_author_is_taken_from_the_run(
    context: Context, tmp_path: Path, tags: dict[str, str], author: str
) -> None:
    runs: Any = Runs(tags)
    version = register(replace(context, tracking=runs), tmp_path, f"by-{len(tags)}-{len(str(tags))}")
    assert version.run_author == author
    asked = by(context, AUTHOR).request(version.model, 1, "champion", EVIDENCE)
    assert asked.state is S.AWAITING_APPROVAL
    if author:
        with pytest.raises(Forbidden, match="run's author of version 1"):
            by(context, BEA).approve(asked.promotion_id)
    else:
        assert by(context, BEA).approve(asked.promotion_id).state is S.LIVE


def test_nothing_is_registered_while_nobody_knows_whose_run_it_was(context: Context, tmp_path: Path) -> None:
    runs: Any = Runs(None)
    with pytest.raises(Unavailable, match="MLflow"):
        register(replace(context, tracking=runs), tmp_path, "of-nobody")
    assert "of-nobody" not in Models(context).list()


def test_a_promotion_waits_for_a_store_that_is_away(context: Context, away: Context, made: list[ModelVersion]) -> None:
    model = made[0].model
    with pytest.raises(Unavailable, match="artifact store"):
        by(away, AUTHOR).request(model, 1, "champion", EVIDENCE)
    (asked,) = Promotions(context).list(model)
    assert (asked.state, asked.verification) == (S.REQUESTED, None)
    with pytest.raises(Unavailable, match="artifact store"):
        by(away, AUTHOR).verify(asked.promotion_id)
    entries = Audit(context).list(limit=1)
    with pytest.raises(Conflict, match="is requested, so it cannot be approved"):
        by(away, BEA).approve(asked.promotion_id)
    assert Promotions(context).get(asked.promotion_id) == asked
    assert Audit(context).list(limit=1) == entries
    assert by(context, AUTHOR).verify(asked.promotion_id).state is S.AWAITING_APPROVAL
    assert by(away, BEA).approve(asked.promotion_id).state is S.LIVE


def test_a_rollback_to_damaged_bytes_is_refused(context: Context, made: list[ModelVersion]) -> None:
    first, second, third, never = made
    live(context, first, second, third)
    damage(context, second.digest)
    verbs, model = by(context, BEA), first.model
    with pytest.raises(
        Corrupt, match=rf"model\.safetensors of version 2 of .*rayplat rollback {model} champion --ver.* 1"
    ):
        verbs.rollback(model, "champion", "it answers late")
    with pytest.raises(Corrupt, match="version 2"):
        verbs.rollback(model, "champion", "it answers late", version=2)
    back = verbs.rollback(model, "champion", "it answers late", version=1)
    assert (back.version, back.generation) == (1, 4)
    damage(context, never.digest)
    live(context, never)
    damage(context, first.digest)
    with pytest.raises(Corrupt, match="version 1 of"):
        verbs.rollback(model, "champion", "it is damaged", generation=4)


def test_a_rollback_goes_on_where_the_store_is_away(away: Context, made: list[ModelVersion]) -> None:
    live(away, *made[:2])
    back: AliasHead = by(away, BEA).rollback(made[0].model, "champion", "it answers late")
    assert back.version == 1
