"""Revisions of the registry's tables, run by alembic when a record is opened (`record.opening`)."""
