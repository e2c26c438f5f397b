"""The ``rp_*`` tables, in the same database as MLflow's. Times are microseconds since 1970 UTC; JSON is text.

What a database has is noted in ``rp_alembic_version``; `rayplat.registry.migrations` leads from each revision to the
next, and a test compares where they end with what is written here.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

REVISION = "0003"
VERSION_TABLE = "rp_alembic_version"
metadata = MetaData()

_NAME, _DIGEST = String(63), String(71)


def _head_columns() -> list[Column[object]]:
    return [
        Column("version", Integer, nullable=False),
        Column("digest", _DIGEST, nullable=False),
        Column("moved_at", BigInteger, nullable=False),
        Column("moved_by", Text, nullable=False),
        Column("promotion_id", String(32), nullable=True),
    ]


# How the first release noted its version; later ones go on counting, so that it refuses their databases.
schema = Table(
    "rp_schema",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)

# One row. Every write begins by updating it where the epoch is its own: that refuses a writer that has been
# replaced, and makes all writers wait for each other on SQLite and PostgreSQL alike.
lease = Table(
    "rp_lease",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("writes", BigInteger, nullable=False),
)

model_version = Table(
    "rp_model_version",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", _DIGEST, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("training_set", Text, nullable=False),
    Column("pins", Text, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("baseline", _DIGEST, nullable=True),
    Column("format", String(63), nullable=False, server_default=""),
    Column("code_digest", _DIGEST, nullable=True),
    Column("env_digest", _DIGEST, nullable=True),
    Column("payload_digest", _DIGEST, nullable=True),
    Column("statement", _DIGEST, nullable=True),
    Column("state", String(16), nullable=False, server_default="active"),
    Column("run_author", Text, nullable=False, server_default=""),
    UniqueConstraint("model", "digest"),
)

alias_head = Table(
    "rp_alias_head",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("alias", _NAME, primary_key=True),
    Column("generation", Integer, nullable=False),
    *_head_columns(),
    ForeignKeyConstraint(["model", "version"], ["rp_model_version.model", "rp_model_version.version"]),
)

alias_history = Table(
    "rp_alias_history",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("alias", _NAME, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    *_head_columns(),
    Column("removed", Boolean, nullable=False, server_default=false()),
    Index("rp_alias_history_by_time", "model", "alias", "moved_at"),
)

promotion = Table(
    "rp_promotion",
    metadata,
    Column("promotion_id", String(32), primary_key=True),
    Column("model", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", _DIGEST, nullable=False),
    Column("alias", _NAME, nullable=False),
    Column("expected_generation", Integer, nullable=False),
    Column("state", String(32), nullable=False),
    Column("requester", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("subject_digest", _DIGEST, nullable=False),
    Column("evidence", Text, nullable=True),
    Column("gates", Text, nullable=False),
    Column("policy", Text, nullable=True),
    Column("baseline_version", Integer, nullable=True),
    Column("verification", Text, nullable=True),
    Column("waivers", Text, nullable=False, server_default="[]"),
    Column("custom_results", Text, nullable=False, server_default="[]"),
    Column("expires_at", BigInteger, nullable=True),
    Column("live_after", BigInteger, nullable=True),
    Column("reason", Text, nullable=False, server_default=""),
    Column("break_glass", Boolean, nullable=False, server_default=false()),
    Column("reviewed_by", Text, nullable=True),
    Index("rp_promotion_by_alias", "model", "alias", "state"),
    Index("rp_promotion_by_state", "state"),
)

# ``model`` and ``alias`` may be ``*``; the policy itself is canonical JSON, its digest is of that.
alias_policy = Table(
    "rp_alias_policy",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("alias", _NAME, primary_key=True),
    Column("policy", Text, nullable=False),
    Column("digest", _DIGEST, nullable=False),
    Column("set_by", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

experiment = Table(
    "rp_experiment",
    metadata,
    Column("promotion_id", String(32), primary_key=True),
    Column("design", Text, nullable=False),
    Column("design_digest", _DIGEST, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("started_by", Text, nullable=False),
    Column("power", Float, nullable=False),
)

approval = Table(
    "rp_approval",
    metadata,
    Column("promotion_id", String(32), primary_key=True),
    Column("approver", String(255), primary_key=True),
    Column("decision", String(16), nullable=False),
    Column("subject_digest", _DIGEST, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)

audit = Table(
    "rp_audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("prev_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("request_key", String(64), nullable=True, unique=True),
)

token = Table(
    "rp_token",
    metadata,
    Column("token_id", String(32), primary_key=True),
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("principal", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    Column("revoked_at", BigInteger, nullable=True),
    Column("kind", String(16), nullable=False, server_default="person"),
    Column("last_used_at", BigInteger, nullable=True),
)


# --- lineage and events ---------------------------------------------------------------------------

edge = Table(
    "rp_edge",
    metadata,
    Column("source", String(255), primary_key=True),
    Column("target", String(255), primary_key=True),
    Column("relation", String(63), primary_key=True),
    Column("run_id", Text, nullable=True),
    Column("at", BigInteger, nullable=False),
    Index("rp_edge_by_target", "target"),
)

lineage_node = Table(
    "rp_lineage_node",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("facts", Text, nullable=False),
)

# One row: up to which row of the outbox the lineage server has been told.
lineage_sent = Table(
    "rp_lineage_sent",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
)

outbox = Table(
    "rp_outbox",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("event", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# ``position``: the last event of the outbox that is settled for this receiver.
webhook = Table(
    "rp_webhook",
    metadata,
    Column("webhook_id", String(32), primary_key=True),
    Column("url", Text, nullable=False),
    Column("events", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("next_try_at", BigInteger, nullable=True),
    Column("last_error", Text, nullable=False),
    Column("last_delivered_at", BigInteger, nullable=True),
)

# --- ownership and pins ---------------------------------------------------------------------------

owner = Table(
    "rp_owner",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("team", Text, nullable=False),
    Column("set_by", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

pin = Table(
    "rp_pin",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("target", String(255), primary_key=True),
    Column("pinned_by", String(255), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# --- artifacts ------------------------------------------------------------------------------------

# Content may come from several runs: a row each. ``run_id`` is empty where no run made it.
artifact = Table(
    "rp_artifact",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("rp_artifact_by_run", "run_id"),
    Index("rp_artifact_by_time", "created_at"),
)

# --- imports of other registries ------------------------------------------------------------------

# Which version here a version of another MLflow registry became; ``origin`` is a digest of what that registry said.
adoption = Table(
    "rp_adoption",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("origin", _DIGEST, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# --- waivers --------------------------------------------------------------------------------------

waiver = Table(
    "rp_waiver",
    metadata,
    Column("waiver_id", String(16), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("target", String(255), nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    Column("revoked_at", BigInteger, nullable=True),
    Column("revoked_by", Text, nullable=True),
    Index("rp_waiver_by_target", "kind", "target"),
)

# --- serving --------------------------------------------------------------------------------------

# How an alias is served: the whole `EndpointSpec` as canonical JSON. No row: it is not served.
endpoint = Table(
    "rp_endpoint",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("alias", _NAME, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("set_by", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

# --- release control ------------------------------------------------------------------------------

# One row for each change; the newest generation is in force. ``release`` is canonical JSON.
release = Table(
    "rp_release",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("release", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", Text, nullable=False),
)

signal = Table(
    "rp_signal",
    metadata,
    Column("model", _NAME, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("kind", _NAME, nullable=False),
    Column("bad", Boolean, nullable=False),
    Column("detail", Text, nullable=False),
    Column("numbers", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Index("rp_signal_by_version", "model", "version", "seq"),
)
