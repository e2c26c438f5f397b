"""MLflow's model registry with the platform's rules: ``rayplat+sqlite:///…`` and ``rayplat+postgresql://…``.

MLflow loads this module by its entry point while it is itself being imported, so nothing of it is imported here.
"""

from __future__ import annotations

from typing import Any

_PREFIX = "rayplat+"


def guarded_uri(database_url: str) -> str:
    """The registry URI under which MLflow opens ``database_url`` (SQLAlchemy) with the platform's rules."""
    return database_url if database_url.startswith(_PREFIX) else _PREFIX + sql_uri(database_url)


def sql_uri(database_url: str) -> str:
    """``database_url`` for MLflow, which takes a driver that is not installed where a PostgreSQL URL names none."""
    scheme, _, rest = database_url.partition(":")
    return f"postgresql+psycopg:{rest}" if scheme in ("postgresql", "postgres") else database_url


def open_store(store_uri: str, tracking_uri: str | None = None) -> Any:  # noqa: ARG001 - MLflow's signature
    """MLflow's store on the database behind ``store_uri``, guarded: see `mlflow_guard.GuardedStore`."""
    from rayplat.registry.mlflow_guard import GuardedStore

    return GuardedStore(sql_uri(store_uri.removeprefix(_PREFIX)))
