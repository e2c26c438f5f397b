"""The contract of online stores on SQLite, and what is its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayplat.data.online.sqlite import SqliteStore
from rayplat.errors import Unavailable
from tests.data.online.store_contract import StoreContract


class TestSqlite(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> SqliteStore:
        return SqliteStore(str(tmp_path / "folder" / "online.db"))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "online.db"
    file.write_text("no database " * 100)
    with pytest.raises(Unavailable, match=r"online\.db: file is not a database; check"):
        SqliteStore(str(file)).notes("view")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"file/x/online\.db"):
        SqliteStore(str(tmp_path / "file" / "x" / "online.db")).notes("view")
