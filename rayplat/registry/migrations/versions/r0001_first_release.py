"""The tables of the first release, which noted schema version 1 in ``rp_schema`` and had no migrations."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)

revision = "0001"
down_revision = None

_NAME, _DIGEST = String(63), String(71)


def upgrade() -> None:
    _models()
    _promotions()
    op.execute("insert into rp_schema (id, version) values (1, 1)")
    op.execute("insert into rp_lease (id, epoch, writes) values (1, 0, 0)")


def _head_columns() -> list[Column[object]]:
    return [
        Column("version", Integer, nullable=False),
        Column("digest", _DIGEST, nullable=False),
        Column("moved_at", BigInteger, nullable=False),
        Column("moved_by", Text, nullable=False),
        Column("promotion_id", String(32), nullable=True),
    ]


def _models() -> None:
    op.create_table(
        "rp_schema",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("version", Integer, nullable=False),
    )
    op.create_table(
        "rp_lease",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("epoch", Integer, nullable=False),
        Column("writes", BigInteger, nullable=False),
    )
    op.create_table(
        "rp_model_version",
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
        UniqueConstraint("model", "digest"),
    )
    op.create_table(
        "rp_alias_head",
        Column("model", _NAME, primary_key=True),
        Column("alias", _NAME, primary_key=True),
        Column("generation", Integer, nullable=False),
        *_head_columns(),
        ForeignKeyConstraint(["model", "version"], ["rp_model_version.model", "rp_model_version.version"]),
    )
    op.create_table(
        "rp_alias_history",
        Column("model", _NAME, primary_key=True),
        Column("alias", _NAME, primary_key=True),
        Column("generation", Integer, primary_key=True, autoincrement=False),
        *_head_columns(),
    )


def _promotions() -> None:
    op.create_table(
        "rp_promotion",
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
        Index("rp_promotion_by_alias", "model", "alias", "state"),
    )
    op.create_table(
        "rp_approval",
        Column("promotion_id", String(32), primary_key=True),
        Column("approver", String(255), primary_key=True),
        Column("decision", String(16), nullable=False),
        Column("subject_digest", _DIGEST, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("reason", Text, nullable=False),
    )
    op.create_table(
        "rp_audit",
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
    op.create_table(
        "rp_token",
        Column("token_id", String(32), primary_key=True),
        Column("token_hash", String(64), nullable=False, unique=True),
        Column("principal", Text, nullable=False),
        Column("role", String(16), nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("created_by", Text, nullable=False),
        Column("expires_at", BigInteger, nullable=True),
        Column("revoked_at", BigInteger, nullable=True),
    )
