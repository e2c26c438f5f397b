"""Lineage: what was made from what, as nodes with stable ids and edges from the cause to what came of it.

An id says all that is needed to find the thing again::

    table:<name>@<table id>/<version>      training_set:<digest>        run:<run id>
    artifact:<digest>                      model:<model>/<version>      promotion:<id>
    alias:<model>@<alias>#<generation>     inference_log:<model>/<version>
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rayplat.errors import InvalidInput
from rayplat.types.data import TableVersion
from rayplat.types.models import AliasHead, ModelVersion
from rayplat.types.promotion import AuditEntry, Promotion, PromotionState

MOST_CHARACTERS = 255
_WORD = r"[^\s/@#\x00-\x1f\x7f](?:[^/@#\x00-\x1f\x7f]*[^\s/@#\x00-\x1f\x7f])?"
_ANY = r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?"
_NUMBER = r"0|[1-9][0-9]{0,17}"


class NodeKind(enum.StrEnum):
    TABLE = "table"
    TRAINING_SET = "training_set"
    RUN = "run"
    ARTIFACT = "artifact"
    MODEL = "model"
    PROMOTION = "promotion"
    ALIAS = "alias"
    INFERENCE_LOG = "inference_log"


_FORMS: dict[NodeKind, tuple[re.Pattern[str], str]] = {
    NodeKind.TABLE: (
        re.compile(rf"(?P<name>{_WORD})@(?P<part>{_WORD})/(?P<version>{_NUMBER})"),
        "<name>@<table id>/<version>",
    ),
    NodeKind.TRAINING_SET: (re.compile(rf"(?P<name>{_ANY})"), "<digest>"),
    NodeKind.RUN: (re.compile(rf"(?P<name>{_ANY})"), "<run id>"),
    NodeKind.ARTIFACT: (re.compile(r"(?P<name>sha256:[0-9a-f]{64})"), "sha256:<64 hex digits>"),
    NodeKind.MODEL: (re.compile(rf"(?P<name>{_WORD})/(?P<version>{_NUMBER})"), "<model>/<version>"),
    NodeKind.PROMOTION: (re.compile(rf"(?P<name>{_WORD})"), "<promotion id>"),
    NodeKind.ALIAS: (
        re.compile(rf"(?P<name>{_WORD})@(?P<part>{_WORD})#(?P<version>{_NUMBER})"),
        "<model>@<alias>#<generation>",
    ),
    NodeKind.INFERENCE_LOG: (re.compile(rf"(?P<name>{_WORD})/(?P<version>{_NUMBER})"), "<model>/<version>"),
}


@dataclass(frozen=True)
class Node:
    """One thing. ``name`` is the table's, the model's, or the id or digest of what has no other; ``part`` a table's
    id or an alias's name; ``version`` a version or generation. ``facts`` are what was noted of it (``uri``, ``rows``,
    ``columns``), for people and for OpenLineage."""

    id: str
    kind: NodeKind
    name: str
    part: str = ""
    version: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Edge:
    """``target`` came of ``source``. ``relation`` says how (`rayplat.registry.record.lineage` lists the words)."""

    source: str
    target: str
    relation: str
    run_id: str | None = None
    at: datetime | None = None


@dataclass(frozen=True)
class LineageGraph:
    """What ``root`` came from (``direction`` upstream) or what came of it (downstream). ``note`` says what was left
    out, if anything was."""

    root: str
    direction: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    note: str = ""


@dataclass(frozen=True)
class AliasImpact:
    """A live alias that was trained on a table version: ``path`` are the node ids from the table to the alias."""

    model: str
    alias: str
    generation: int
    version: int
    path: tuple[str, ...]


@dataclass(frozen=True)
class Happening:
    """One entry of the audit log with what it is about: a registered ``version`` (what its data was ``made_from``,
    when its run began and ended), an alias's new ``head`` (and the one ``before``), a ``promotion`` (which was in
    ``state`` then)."""

    entry: AuditEntry
    version: ModelVersion | None = None
    made_from: LineageGraph | None = None
    run_started_at: datetime | None = None
    run_ended_at: datetime | None = None
    head: AliasHead | None = None
    before: AliasHead | None = None
    promotion: Promotion | None = None
    state: PromotionState | None = None


@dataclass(frozen=True)
class Impact:
    """The live ``aliases`` that were trained on versions ``version`` to ``through`` of a table."""

    table: str
    version: int
    through: int
    aliases: tuple[AliasImpact, ...]


def parse_node(node: str) -> Node:
    """The node that an id names. Raises `InvalidInput` saying which form the id of its kind has."""
    shown = repr(node if len(str(node)) <= 80 else str(node)[:77] + "...")
    if not isinstance(node, str) or len(node) > MOST_CHARACTERS:
        raise InvalidInput("node", f"{shown} is no node id: a text of at most {MOST_CHARACTERS} characters is needed")
    word, _, rest = node.partition(":")
    try:
        kind = NodeKind(word)
    except ValueError:
        kinds = ", ".join(kind.value for kind in NodeKind)
        raise InvalidInput("node", f"{shown} begins with no kind of node; there are {kinds}") from None
    pattern, form = _FORMS[kind]
    found = pattern.fullmatch(rest)
    if found is None:
        raise InvalidInput("node", f"{shown} is no {kind}: its id has the form {kind}:{form}")
    parts = found.groupdict()
    number = parts.get("version")
    return Node(node, kind, parts["name"], parts.get("part") or "", None if number is None else int(number))


def table_node(table: TableVersion) -> str:
    return f"{NodeKind.TABLE}:{table.table}@{table.table_id}/{table.version}"


def training_set_node(digest: str) -> str:
    return f"{NodeKind.TRAINING_SET}:{digest}"


def run_node(run_id: str) -> str:
    return f"{NodeKind.RUN}:{run_id}"


def artifact_node(digest: str) -> str:
    return f"{NodeKind.ARTIFACT}:{digest}"


def model_node(model: str, version: int) -> str:
    return f"{NodeKind.MODEL}:{model}/{version}"


def promotion_node(promotion_id: str) -> str:
    return f"{NodeKind.PROMOTION}:{promotion_id}"


def alias_node(model: str, alias: str, generation: int) -> str:
    return f"{NodeKind.ALIAS}:{model}@{alias}#{generation}"


def inference_log_node(model: str, version: int) -> str:
    return f"{NodeKind.INFERENCE_LOG}:{model}/{version}"
