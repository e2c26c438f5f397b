"""MLflow's SQL registry store with the record's rules in front of every change that could part the two.

A plain ``MlflowClient`` of a server that was started with it gets PERMISSION_DENIED (403) with the rule and the
command to use. Models that the record does not know behave as in MLflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import sqlalchemy as sa
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Connection

from rayplat.registry.record import mlflow_rules as rules
from rayplat.registry.record.schema import model_version

P = ParamSpec("P")


class GuardedStore(SqlAlchemyStore):  # type: ignore[misc]
    """MLflow's store on the record's database."""

    def __init__(self, db_uri: str) -> None:
        super().__init__(db_uri)  # type: ignore[no-untyped-call]
        self._has_record = False

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> Any:
        self._ask(rules.alias_set, name, alias, _number(version))
        return super().set_registered_model_alias(name, alias, version)  # type: ignore[no-untyped-call]

    def delete_registered_model_alias(self, name: str, alias: str) -> Any:
        self._ask(rules.alias_delete, name, alias)
        return super().delete_registered_model_alias(name, alias)  # type: ignore[no-untyped-call]

    def delete_model_version(self, name: str, version: Any) -> Any:
        self._ask(rules.version_delete, name, _number(version))
        return super().delete_model_version(name, version)  # type: ignore[no-untyped-call]

    def delete_registered_model(self, name: str) -> Any:
        self._ask(rules.model_delete, name)
        return super().delete_registered_model(name)  # type: ignore[no-untyped-call]

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        self._ask(rules.model_rename, name, new_name)
        return super().rename_registered_model(name, new_name)  # type: ignore[no-untyped-call]

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> Any:
        self._ask(rules.stage_set, name)
        return super().transition_model_version_stage(name, version, stage, archive_existing_versions)  # type: ignore[no-untyped-call]

    def set_model_version_tag(self, name: str, version: Any, tag: Any) -> Any:
        self._ask(rules.tag_change, name, str(tag.key))
        return super().set_model_version_tag(name, version, tag)  # type: ignore[no-untyped-call]

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> Any:
        self._ask(rules.tag_change, name, str(key))
        return super().delete_model_version_tag(name, version, key)  # type: ignore[no-untyped-call]

    def _ask(self, rule: Callable[Concatenate[Connection, P], str | None], *args: P.args, **kwargs: P.kwargs) -> None:
        with self.engine.connect() as connection:
            if not self._has_record:  # MLflow's server may be there before the record is
                self._has_record = sa.inspect(connection).has_table(model_version.name)
            refusal = rule(connection, *args, **kwargs) if self._has_record else None
        if refusal is not None:
            raise MlflowException(f"refused: {refusal}", error_code=PERMISSION_DENIED)


def _number(version: Any) -> int:
    """The version as a number; 0, which no version has, for what MLflow refuses by itself."""
    try:
        return int(version)
    except (TypeError, ValueError):
        return 0
