"""The digest of a training set's rows says what they are, not how they lie in memory; sorted pieces cut alike."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayplat.data import training_rows
from rayplat.data.training_rows import SpineColumns, content_digest
from tests.data.declared import hours

NAN = float("nan")
ROWS = pa.table(
    {
        "flight": ["a", None, "", "äö", "b"],
        "event_time": hours(3, 1, None, 2, 1),
        "late": pa.array([1, 0, None, 1, 0], pa.int8()),
        "yes": [True, None, False, True, True],
        "x": pa.array([1.5, NAN, None, -0.0, 2.0]),
        "raw": pa.array([b"1", None, b"", b"22", b"3"]),
        "many": [[1], None, [], [2, 3], [4]],
    }
)


def test_the_digest_is_of_the_values_alone() -> None:
    digest = content_digest(ROWS)
    doubled = pa.concat_tables([ROWS, ROWS])
    chunked = pa.concat_tables([ROWS.slice(0, 2), ROWS.slice(2, 0), ROWS.slice(2)])
    for same in (chunked, doubled.slice(5), doubled.combine_chunks().slice(5), doubled.slice(0, 5).combine_chunks()):
        assert content_digest(same) == digest
    under = pa.array([9.0, NAN, 7.0, -0.0, 2.0], mask=np.array([False, False, True, False, False]))
    x = pa.array([9.0, NAN, None, -0.0, 2.0])
    column = ROWS.column_names.index("x")
    assert content_digest(ROWS.set_column(column, "x", under)) == content_digest(ROWS.set_column(column, "x", x))


def test_the_digest_changes_with_every_value_name_and_type() -> None:
    column = ROWS.column_names.index("late")
    changed = [
        ROWS.take([1, 0, 2, 3, 4]),
        ROWS.slice(0, 4),
        ROWS.rename_columns(["flight2", *ROWS.column_names[1:]]),
        ROWS.set_column(column, "late", ROWS["late"].cast(pa.int64())),
        ROWS.set_column(column, "late", ROWS["late"].fill_null(0)),
        ROWS.set_column(0, "flight", pa.array(["a", "", None, "äö", "b"])),
        ROWS.set_column(0, "flight", pa.array(["aä", None, "", "ö", "b"])),
        ROWS.set_column(4, "x", pa.array([1.5, None, NAN, -0.0, 2.0])),
        ROWS.set_column(6, "many", pa.array([[1], [], None, [2, 3], [4]])),
        ROWS.slice(0, 0),
    ]
    assert len({content_digest(rows) for rows in (ROWS, *changed)}) == len(changed) + 1


def test_sorted_pieces_make_the_same_order_wherever_they_are_cut() -> None:
    columns = SpineColumns(("flight",), "event_time", "late", (), pc.scalar(True))
    rows = pa.concat_tables([ROWS.select(columns.order)] * 40)
    whole = columns.sorted(rows)
    parts = [columns.sorted(rows.slice(start, 37)) for start in range(0, rows.num_rows, 37)]
    counts, samples = [p.num_rows for p in parts], [training_rows._times(p)[::3] for p in parts]
    cuts = training_rows._cuts(counts, samples, 4)
    assert len(cuts) >= 2
    pieces = [training_rows._cut(part, cuts) for part in parts]
    merged = [training_rows._merged(columns, *(piece[i] for piece in pieces)) for i in range(len(cuts) + 1)]
    assert pa.concat_tables(merged).equals(whole)
    assert training_rows._cuts([0], [np.empty(0, np.int64)], 1).size == 0
