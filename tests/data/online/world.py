"""The declared world of `tests.data.declared`, built and applied in this process by the functions that workers run."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from rayplat.data.features import FeatureView, View
from rayplat.data.features.build import rows_of
from rayplat.data.online import OnlineStore, catalog, open_store
from rayplat.data.tables import Tables
from rayplat.settings import Settings
from tests.data.declared import DELAYS, SCHEDULE, SERVICE, VIEWS, WEATHER, flights, weather


def build(tables: Tables, view: FeatureView, source: pa.Table) -> None:
    rows = rows_of(view, source)
    if view.table in tables.names():
        tables.overwrite(view.table, rows)
    else:
        tables.create(view.table, rows)


def apply(settings: Settings, views: Sequence[View]) -> OnlineStore:
    store = open_store(settings.online_store)
    for view in views:
        catalog.declare(store, catalog.Definition.of(view))
    return store


def apply_all(settings: Settings) -> Tables:
    """Views and service applied, feature tables built, nothing materialized."""
    tables = Tables(settings.tables_uri)
    for view, source in ((SCHEDULE, flights()), (WEATHER, weather()), (DELAYS, flights())):
        build(tables, view, source)
    catalog.put_service(apply(settings, VIEWS), SERVICE)
    return tables
