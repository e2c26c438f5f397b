"""Operations on experiments: the design of an A/B test, recorded once, before its first outcome, and never changed."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import NotFound
from rayplat.identity import require
from rayplat.registry import documents, promotion, sequential
from rayplat.registry.record import audit, promotion_rows, promotions, rows
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import experiment
from rayplat.types import Experiment, ExperimentDesign, Principal, Role


def start(tx: Tx, promotion_id: str, design: ExperimentDesign, *, by: Principal) -> Experiment:
    """Fix the design of a promotion's A/B test; outcomes count from now on. Needs a developer.

    Raises `InvalidInput` naming the field of the design, `Conflict` where there is one already, or outcomes, or the
    promotion is closed.
    """
    require(by, Role.DEVELOPER)
    sequential.check_design(design)
    digest = sequential.design_digest(design)
    if audit.replayed(tx, "experiment.start", promotion_id=promotion_id, design_digest=digest) is not None:
        return get(tx.connection, promotion_id)
    asked = promotions.get(tx.connection, promotion_id)
    promotion.check_in_time(asked, tx.at)
    found = Experiment(promotion_id, digest, tx.at, by.name, sequential.power(design))
    promotion.with_experiment(asked, found)
    columns = {**vars(found), "started_at": rows.to_us(tx.at), "design": documents.text(design)}
    tx.connection.execute(sa.insert(experiment).values(**columns))
    tx.wrote(experiment, columns)
    detail = {"design": documents.plain(design), "design_digest": found.design_digest, "power": found.power}
    promotion_rows.log(tx, by.name, "experiment.start", asked, detail)
    return found


def get(connection: Connection, promotion_id: str) -> Experiment:
    """The experiment of a promotion. Raises `NotFound`."""
    found = promotions.get(connection, promotion_id).experiment
    if found is None:
        raise NotFound("experiment", promotion_id, "no design was recorded for this promotion")
    return found


def design(connection: Connection, promotion_id: str) -> ExperimentDesign:
    """The design that was recorded, for whoever runs the test and reports its outcomes. Raises `NotFound`."""
    get(connection, promotion_id)
    wanted = sa.select(experiment.c.design).where(experiment.c.promotion_id == promotion_id)
    return documents.parse(ExperimentDesign, str(connection.scalar(wanted)), "stored design")
