from __future__ import annotations

from dataclasses import replace

import pytest

from rayplat.artifacts.datasets import dataset, read
from rayplat.errors import InvalidInput
from rayplat.types import TableVersion

PIN = TableVersion("flights", "tables/flights", "id-1", 3, "sha256:" + "1" * 64, "sha256:" + "2" * 64, 336_776)


def test_a_pinned_version_comes_back_from_its_document() -> None:
    assert read(dataset(PIN)) == read(dataset(PIN, {"b.parquet": 2, "a.parquet": 1})) == PIN
    assert dataset(PIN, {"b": 2, "a": 1}) == dataset(PIN, {"a": 1, "b": 2}) != dataset(PIN)


def test_a_table_made_anew_is_another_dataset() -> None:
    assert dataset(replace(PIN, table_id="id-2")) != dataset(PIN)


@pytest.mark.parametrize(
    "changed",
    [
        replace(PIN, table_id=""),
        replace(PIN, version=-1),
        replace(PIN, version=True),
        replace(PIN, manifest_digest="md5:1"),
    ],
)
def test_what_identifies_no_version_is_refused(changed: TableVersion) -> None:
    with pytest.raises(InvalidInput):
        dataset(changed)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", dataset(PIN) + b" ", dataset(PIN).replace(b"/1", b"/2")]
)
def test_what_is_no_document_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        read(content)


def test_sizes_of_files_are_numbers() -> None:
    with pytest.raises(InvalidInput):
        dataset(PIN, {"a": -1})
