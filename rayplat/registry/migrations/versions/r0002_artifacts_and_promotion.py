"""Model versions with formats, digests and a state; removals of aliases; lineage, events, owners, pins and more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _adoption()
    _alias_policy()
    _artifact()
    _edge()
    _experiment()
    _lineage_node()
    _lineage_sent()
    _outbox()
    _owner()
    _pin()
    _waiver()
    _webhook()
    _alias_history()
    _model_version()
    _promotion()
    _token()
    op.execute("update rp_schema set version = 2")


def _adoption() -> None:
    op.create_table(
        "rp_adoption",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("origin", sa.String(length=71), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model", "origin"),
    )


def _alias_policy() -> None:
    op.create_table(
        "rp_alias_policy",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("alias", sa.String(length=63), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("model", "alias"),
    )


def _artifact() -> None:
    op.create_table(
        "rp_artifact",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "run_id"),
    )
    with op.batch_alter_table("rp_artifact") as batch_op:
        batch_op.create_index("rp_artifact_by_run", ["run_id"], unique=False)
        batch_op.create_index("rp_artifact_by_time", ["created_at"], unique=False)


def _edge() -> None:
    op.create_table(
        "rp_edge",
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("relation", sa.String(length=63), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("source", "target", "relation"),
    )
    with op.batch_alter_table("rp_edge") as batch_op:
        batch_op.create_index("rp_edge_by_target", ["target"], unique=False)


def _experiment() -> None:
    op.create_table(
        "rp_experiment",
        sa.Column("promotion_id", sa.String(length=32), nullable=False),
        sa.Column("design", sa.Text(), nullable=False),
        sa.Column("design_digest", sa.String(length=71), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("power", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("promotion_id"),
    )


def _lineage_node() -> None:
    op.create_table(
        "rp_lineage_node",
        sa.Column("node", sa.String(length=255), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node"),
    )


def _lineage_sent() -> None:
    op.create_table(
        "rp_lineage_sent",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _outbox() -> None:
    op.create_table(
        "rp_outbox",
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("event", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )


def _owner() -> None:
    op.create_table(
        "rp_owner",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), nullable=False),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name"),
    )


def _pin() -> None:
    op.create_table(
        "rp_pin",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("pinned_by", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "target", "pinned_by"),
    )


def _waiver() -> None:
    op.create_table(
        "rp_waiver",
        sa.Column("waiver_id", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("waiver_id"),
    )
    with op.batch_alter_table("rp_waiver") as batch_op:
        batch_op.create_index("rp_waiver_by_target", ["kind", "target"], unique=False)


def _webhook() -> None:
    op.create_table(
        "rp_webhook",
        sa.Column("webhook_id", sa.String(length=32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("next_try_at", sa.BigInteger(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("last_delivered_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("webhook_id"),
    )


def _alias_history() -> None:
    with op.batch_alter_table("rp_alias_history") as batch_op:
        batch_op.add_column(sa.Column("removed", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.create_index("rp_alias_history_by_time", ["model", "alias", "moved_at"], unique=False)


def _model_version() -> None:
    with op.batch_alter_table("rp_model_version") as batch_op:
        batch_op.add_column(sa.Column("format", sa.String(length=63), server_default="", nullable=False))
        batch_op.add_column(sa.Column("code_digest", sa.String(length=71), nullable=True))
        batch_op.add_column(sa.Column("env_digest", sa.String(length=71), nullable=True))
        batch_op.add_column(sa.Column("payload_digest", sa.String(length=71), nullable=True))
        batch_op.add_column(sa.Column("statement", sa.String(length=71), nullable=True))
        batch_op.add_column(sa.Column("state", sa.String(length=16), server_default="active", nullable=False))
        batch_op.add_column(sa.Column("run_author", sa.Text(), server_default="", nullable=False))


def _promotion() -> None:
    with op.batch_alter_table("rp_promotion") as batch_op:
        batch_op.add_column(sa.Column("policy", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("baseline_version", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("verification", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("waivers", sa.Text(), server_default="[]", nullable=False))
        batch_op.add_column(sa.Column("custom_results", sa.Text(), server_default="[]", nullable=False))
        batch_op.add_column(sa.Column("expires_at", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("live_after", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("reason", sa.Text(), server_default="", nullable=False))
        batch_op.add_column(sa.Column("break_glass", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("reviewed_by", sa.Text(), nullable=True))
        batch_op.create_index("rp_promotion_by_state", ["state"], unique=False)


def _token() -> None:
    with op.batch_alter_table("rp_token") as batch_op:
        batch_op.add_column(sa.Column("kind", sa.String(length=16), server_default="person", nullable=False))
        batch_op.add_column(sa.Column("last_used_at", sa.BigInteger(), nullable=True))
