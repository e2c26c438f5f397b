"""What a batch scoring job is: what was asked, what that was pinned to, and how its rows are cut into parts. Pure.

A job's `Plan` is noted with every commit to its output, so a run that finds one unfinished goes on with exactly the
same table version, model version and parts, whatever has moved since.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from rayplat.errors import InvalidInput, InvalidName
from rayplat.types import TableVersion, check_name

NOTE = "batch_score"
OWN_COLUMNS = ("row", "model_version", "model_alias", "scored_at", "job_id", "error")

_VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class ScoreRequest:
    """What is asked for.

    ``table`` is ``name`` or ``name@version``, ``model`` is ``name``, ``name@alias`` or ``name@version``. ``keys`` are
    the columns copied to ``output`` beside the predictions. ``lookup``: features are looked up by the model's feature
    views, as of ``event_time`` (a column; None: the moment the job begins); None: where the table lacks one of them.
    ``columns`` are stacked into the one array that the model takes. ``limit`` counts rows. A part of ``part_rows``
    rows is one commit; the model computes ``batch_rows`` at once.
    """

    table: str
    model: str
    output: str
    keys: tuple[str, ...] = ()
    lookup: bool | None = None
    event_time: str | None = None
    columns: tuple[str, ...] = ()
    limit: int | None = None
    part_rows: int = 262_144
    batch_rows: int = 8_192

    def __post_init__(self) -> None:
        check_name("table", self.output)
        check_name("model", self.target[0])
        if self.output == self.input[0]:
            raise InvalidInput("output", f"{self.output!r} is the table that is scored; name another")
        for name, least in (("limit", self.limit), ("part_rows", self.part_rows), ("batch_rows", self.batch_rows)):
            if least is not None and least < 1:
                raise InvalidInput(name, f"{least} is not a positive number of rows")
        for name in self.keys:
            if name in OWN_COLUMNS:
                raise InvalidInput("keys", f"the output has a column {name!r} of its own; leave it out")

    @property
    def input(self) -> tuple[str, int | None]:
        """Table name and version number."""
        name, at, version = self.table.partition("@")
        if at and not version.isdecimal():
            raise InvalidInput("table", f"{self.table!r} is no table version: write name or name@number")
        return check_name("table", name), int(version) if at else None

    @property
    def target(self) -> tuple[str, str | int | None]:
        """Model name, and the alias or exact version that it is asked at; None: the default alias."""
        name, at, target = self.model.partition("@")
        if at and not target:
            raise InvalidName("model", f"{self.model!r}: write name, name@alias or name@version")
        return check_name("model", name), int(target) if _VERSION.fullmatch(target) else target or None

    def digest(self) -> str:
        """The same for the same question, however it is cut and computed."""
        tree = {k: v for k, v in asdict(self).items() if k not in ("part_rows", "batch_rows")}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """A job: the request and what it was pinned to. ``views`` are the versions of the feature tables by view, empty
    where every feature is in the table; ``rows`` is how many are scored."""

    job_id: str
    request: ScoreRequest
    table: TableVersion
    model: str
    version: int
    digest: str
    alias: str | None
    generation: int
    rows: int
    started_at: datetime
    view_digests: Mapping[str, str] = field(default_factory=dict)
    views: Mapping[str, TableVersion] = field(default_factory=dict)
    entity: str | None = None

    @property
    def parts(self) -> int:
        return -(-self.rows // self.request.part_rows)

    @property
    def application(self) -> str:
        """What its commits are counted under: part after part, each once."""
        return f"{NOTE}:{self.job_id}"

    def span(self, part: int) -> tuple[int, int]:
        """First row and number of rows of a part."""
        first = part * self.request.part_rows
        return first, min(self.request.part_rows, self.rows - first)

    def to_json(self) -> str:
        tree = asdict(self)
        tree["started_at"] = self.started_at.isoformat()
        return json.dumps(tree, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Plan:
        tree: dict[str, Any] = json.loads(text)
        asked = tree["request"] | {name: tuple(tree["request"][name]) for name in ("keys", "columns")}
        plan = Plan(**(tree | {"request": ScoreRequest(**asked), "table": TableVersion(**tree["table"])}))
        views = {name: TableVersion(**pin) for name, pin in tree["views"].items()}
        return replace(plan, views=views, started_at=datetime.fromisoformat(tree["started_at"]))
