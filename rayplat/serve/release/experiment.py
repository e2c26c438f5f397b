"""An A/B test's verdict: outcomes of the two arms of a split, joined from a table of labels. Rules and reading.

Only requests count that were received after the design was recorded and while a split named the test. A unit (an
entity; the value of the input that the split goes by) counts once, in the arm of its first such request, with the
outcome of that request: requests of one unit are not independent. Nor are the rows of one request, which go to one arm
together: the first row, whose key decided where, is the one that counts. Units count in the order of their first
request, up to the design's ``max_samples``. A split that does not divide units as designed is refused: no number drawn
from it means anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data import labels
from rayplat.errors import Conflict, InvalidInput, NotFound
from rayplat.registry import sequential
from rayplat.serve.log.reading import LogReader, Window
from rayplat.serve.log.schema import ANSWERED
from rayplat.types import (
    ArmOutcomes,
    ArmVerdict,
    Estimate,
    Experiment,
    ExperimentDesign,
    ExperimentEvidence,
    ExperimentVerdict,
    Promotion,
    Release,
)

if TYPE_CHECKING:
    import pandas as pd

    from rayplat.data.tables import Tables

MISMATCH = 1e-3  # a split this unlikely under the design's share is broken
WON, UNDECIDED, NOT_WON = "candidate wins", "undecided", "not won"
_CROSSED = 0.01
_ROLES = ("primary", "split")  # the alias's own share, and those of the others
_PER_ROW = ("accuracy", "brier", "log_loss")
_TINY = 1e-15


@dataclass(frozen=True)
class Test:
    """What is looked at: a promotion's test as it was recorded, the times in which a split was on for it, and what
    the split goes by. ``threshold`` makes a class of a probability, for ``accuracy``."""

    promotion: Promotion
    design: ExperimentDesign
    recorded: Experiment
    periods: tuple[tuple[datetime, datetime], ...]
    sticky: str
    threshold: float = 0.5

    __test__ = False  # no test of pytest's

    @property
    def unit(self) -> str:
        """The column of the log whose values are the units."""
        return self.sticky if self.sticky.startswith("input:") else "entity"


def periods(history: list[Release], promotion_id: str, until: datetime) -> tuple[list[tuple[datetime, datetime]], str]:
    """When a split named the promotion, and what it went by. ``history``: the model's releases, newest first. Raises
    `NotFound` where none did, `Conflict` where what it goes by was changed."""
    found: list[tuple[datetime, datetime]] = []
    ways: set[tuple[str, str]] = set()
    end = until
    for release in history:
        start = release.changed_at
        if start is None:
            continue
        split = release.split
        if split is not None and split.promotion_id == promotion_id and start < end:
            found.insert(0, (start, end))
            ways.add((split.sticky, split.salt))
        end = min(end, start)
    if not found:
        hint = "`rayplat serve split` with --promotion makes the split that belongs to the test"
        raise NotFound("split", f"of the promotion {promotion_id}", hint)
    if len(ways) > 1:
        raise Conflict(
            f"the split of promotion {promotion_id} was changed while it ran: its key or its salt is another"
        )
    return found, next(iter(ways))[0]


def look(tables: Tables, test: Test, table: str, now: datetime) -> ExperimentVerdict:
    """One look at the test, with the outcomes in ``table`` that are known by ``now``. Raises `Conflict` for a broken
    split, `NotFound` where there are no requests or no outcomes, `SchemaMismatch` for a table that does not fit."""
    rows = _requests(tables, test)
    units = _units(rows, test)
    units["outcome"] = _outcomes(tables, test, table, units, now)
    return judge(test, units, rows, now)


def judge(test: Test, units: pd.DataFrame, rows: pd.DataFrame, now: datetime) -> ExperimentVerdict:
    """The verdict from the units, each with its arm and its outcome (NaN: none yet)."""
    design, notes = test.design, list[str]()
    split_p = _check_split(test, units["candidate"].to_numpy(bool), "units")
    _check_crossed(test, rows, notes)
    known = units[units["outcome"].notna()]
    if known.empty:
        raise NotFound(
            "outcomes", f"of the promotion {test.promotion.promotion_id}", f"{len(units)} units have none yet"
        )
    if len(known) > design.max_samples:
        notes.append(f"{len(known) - design.max_samples} outcomes after the design's {design.max_samples} do not count")
        known = known.iloc[: design.max_samples]
    _check_split(test, known["candidate"].to_numpy(bool), "outcomes")
    values = known["outcome"].to_numpy(np.float64)
    if design.kind == "proportion" and not np.isin(values, (0.0, 1.0)).all():
        raise InvalidInput("labels", f"the design counts a proportion, and {design.metric} is not always 0 or 1")
    arms = {arm: values[known["candidate"].to_numpy(bool) == arm] for arm in (True, False)}
    evidence = ExperimentEvidence(
        design, _arm(arms[True]), _arm(arms[False]), known["received_at"].iloc[0].to_pydatetime()
    )
    return _verdict(test, units, evidence, now, split_p, notes)


# --- reading ----------------------------------------------------------------------------------------


def _requests(tables: Tables, test: Test) -> pd.DataFrame:
    """The first rows of answered requests to both arms while the split was on, in the order they came."""
    import pandas as pd

    asked, log = test.promotion, LogReader(tables)
    arms = pc.field("version").isin([asked.version, asked.baseline_version]) & pc.field("role").isin(_ROLES)
    where = arms & (pc.field("status") == ANSWERED) & (pc.field("row") == 0)
    inputs = (test.sticky.removeprefix("input:"),) if test.sticky.startswith("input:") else ()
    windows = [Window(asked.model, max(start, test.recorded.started_at), end) for start, end in test.periods
               if end > test.recorded.started_at]  # fmt: skip
    parts = [log.frame(window, where, inputs, ["entity", "event_time"]) for window in windows]
    rows = pd.concat(parts) if parts else pd.DataFrame({"version": []})
    if rows["version"].nunique() < 2:
        raise NotFound("requests", f"of both arms of promotion {asked.promotion_id}", "since its design was recorded")
    rows["candidate"] = rows["version"] == asked.version
    return rows.sort_values(["received_at", "request_id"], ignore_index=True)


def _units(rows: pd.DataFrame, test: Test) -> pd.DataFrame:
    """The first row of each unit."""
    named = rows[rows[test.unit].notna() & rows["entity"].notna()]
    if named.empty:
        raise NotFound("entities", "in the log", "requests that bring all values themselves have no outcome to join")
    return named.drop_duplicates(test.unit).reset_index(drop=True)


def _outcomes(tables: Tables, test: Test, table: str, units: pd.DataFrame, now: datetime) -> npt.NDArray[np.float64]:
    info = tables.info(table)
    names = [column.name for column in info.columns]
    metric = test.design.metric
    source = labels.find_source(table, info.columns, label=metric if metric in names else None)
    arrived = tables.read(info.latest, columns=[source.key, source.label, source.known_at])
    after = pa.array(units["event_time"], pa.timestamp("us", tz="UTC"))
    entities = pa.chunked_array([pa.array(units["entity"], pa.string())])
    found = labels.match(entities, arrived, source, now, after=after)
    if metric not in _PER_ROW or source.label == metric:
        return found
    return per_row(metric, units["prediction"].to_numpy(np.float64), found, test.threshold)


def per_row(
    metric: str, scores: npt.NDArray[np.float64], found: npt.NDArray[np.float64], threshold: float
) -> npt.NDArray[np.float64]:
    """What a prediction [n] was worth, by its label (0, 1; NaN: none yet): ``accuracy`` 1 for the right class,
    ``brier`` the squared error, ``log_loss`` the negative log likelihood."""
    if metric == "accuracy":
        return np.where(np.isnan(found), np.nan, ((scores >= threshold) == (found > 0.5)).astype(np.float64))
    if metric == "brier":
        return np.asarray((scores - found) ** 2)
    kept = np.clip(scores, _TINY, 1 - _TINY)
    return np.asarray(-(found * np.log(kept) + (1 - found) * np.log1p(-kept)))


# --- rules ------------------------------------------------------------------------------------------


def _check_split(test: Test, candidate: npt.NDArray[np.bool_], what: str) -> float:
    """The chi-square test (one degree of freedom) of the arms' sizes against the design's share. Raises `Conflict`."""
    n, k, share = len(candidate), int(candidate.sum()), test.design.share
    chi_square = (k - n * share) ** 2 / (n * share * (1 - share))
    p = math.erfc(math.sqrt(chi_square / 2))
    if p < MISMATCH:
        raise Conflict(
            f"sample ratio mismatch in promotion {test.promotion.promotion_id}: {k} of {n} {what} are the candidate's, "
            f"the design gives it {share:g} (p = {p:.2g}). Requests or outcomes of one arm are missing: no verdict"
        )
    return p


def _check_crossed(test: Test, rows: pd.DataFrame, notes: list[str]) -> None:
    """Units that were in both arms. Where the split goes by the unit that must not be."""
    arms = rows[rows[test.unit].notna()].groupby(test.unit)["candidate"].nunique()
    crossed = int((arms > 1).sum())
    if not crossed:
        return
    if test.unit == test.sticky and crossed > _CROSSED * len(arms):
        raise Conflict(
            f"{crossed} of {len(arms)} units of promotion {test.promotion.promotion_id} were answered by both arms, "
            f"though the split goes by {test.sticky}: it is broken, or one arm could not be reached. No verdict"
        )
    notes.append(f"{crossed} units were answered by both arms; each counts in the arm of its first request")


def _arm(values: npt.NDArray[np.float64]) -> ArmOutcomes:
    return ArmOutcomes(len(values), float(values.sum()), float((values**2).sum()))


def always_valid(design: ExperimentDesign, seen: sequential.Look) -> Estimate:
    """The gain with the interval that the two-sided mixture test (`sequential`) leaves: it covers the true gain at
    every look at once with 1 - alpha."""
    variance, mixing = seen.standard_error**2, design.mixing_variance or design.min_effect**2
    total = variance + mixing
    half = math.sqrt(variance * total / mixing * (2 * math.log(1 / design.alpha) + math.log(total / variance)))
    return Estimate(seen.gain, seen.gain - half, seen.gain + half)


def _verdict(
    test: Test, units: pd.DataFrame, evidence: ExperimentEvidence, now: datetime, split_p: float, notes: list[str]
) -> ExperimentVerdict:
    design, asked = test.design, test.promotion
    counted = (evidence.candidate.samples, evidence.baseline.samples)
    seen = sequential.look(evidence) if min(counted) > 1 else None
    sure = seen is not None and math.isfinite(seen.ratio)
    enough = min(counted) >= design.min_samples
    ended = sum(counted) >= design.max_samples
    won = sure and enough and seen is not None and seen.won
    if not enough:
        notes.append(f"no look counts before {design.min_samples} outcomes in each arm")
    candidate = units["candidate"].to_numpy(bool)
    sides: dict[bool, Any] = {
        True: (asked.version, evidence.candidate),
        False: (asked.baseline_version, evidence.baseline),
    }
    arms = {
        arm: ArmVerdict(version, int((candidate == arm).sum()), o.samples, o.total / o.samples if o.samples else None)
        for arm, (version, o) in sides.items()
    }
    return ExperimentVerdict(
        promotion_id=asked.promotion_id,
        model=asked.model,
        metric=design.metric,
        unit=test.unit.removeprefix("input:"),
        since=max(test.periods[0][0], test.recorded.started_at),
        until=now,
        candidate=arms[True],
        baseline=arms[False],
        gain=always_valid(design, seen) if sure and seen is not None else None,
        ratio=seen.ratio if sure and seen is not None else None,
        needed=1 / design.alpha,
        split_p=split_p,
        verdict=WON if won else NOT_WON if ended else UNDECIDED,
        evidence=evidence,
        notes=tuple(notes),
    )
