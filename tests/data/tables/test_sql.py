from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from rayplat.data.tables import Tables
from rayplat.data.tables.sql import query
from rayplat.errors import InvalidInput, NotFound


def test_a_query_reads_the_latest_versions_of_the_tables_it_names(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    tables.create("rides", pa.table({"driver": ["a", "b"], "fare": [1.5, 2.0]}))
    tables.create("drivers", pa.table({"driver": ["a", "b"], "city": ["x", "y"]}))
    tables.append("rides", pa.table({"driver": ["b"], "fare": [3.0]}))
    joined = "SELECT city, sum(fare) AS fares FROM rides JOIN drivers USING (driver) GROUP BY city ORDER BY city"
    found = query(tables, joined)
    assert found.schema == pa.schema([("city", pa.string()), ("fares", pa.float64())])
    assert found.to_pylist() == [{"city": "x", "fares": 1.5}, {"city": "y", "fares": 5.0}]


def test_what_a_query_cannot_do_is_said(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path))
    tables.create("rides", pa.table({"fare": [1.5]}))
    with pytest.raises(NotFound, match="rides"):
        query(tables, "SELECT * FROM nothing")
    with pytest.raises(InvalidInput, match="tip"):
        query(tables, "SELECT tip FROM rides")
