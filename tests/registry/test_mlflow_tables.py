"""The tables of MLflow that the record writes are declared by the record: here they are compared with MLflow's own."""

from __future__ import annotations

from rayplat.registry.record import mlflow_rows


def test_what_is_declared_of_mlflows_tables_is_what_mlflow_has() -> None:
    import mlflow.store.model_registry.dbmodels.models  # noqa: F401 - fills the metadata
    from mlflow.store.db.base_sql_model import Base
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    for ours in mlflow_rows.TABLES:
        theirs = Base.metadata.tables[ours.name]
        for column in ours.columns:
            assert str(column.type) == str(theirs.c[column.name].type), (ours.name, column.name)
        needed = {c.name for c in theirs.columns if not c.nullable and c.server_default is None}
        assert needed <= {c.name for c in ours.columns}
    assert mlflow_rows._WORKSPACE == DEFAULT_WORKSPACE_NAME
