"""The signed statement of a version: kept once, never replaced."""

from __future__ import annotations

import pytest

from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound
from rayplat.registry.record import audit, versions
from tests.registry.desk import ANN, EVE, MODEL, Desk

STATEMENT, OTHER = "sha256:" + "5" * 64, "sha256:" + "6" * 64


def test_a_statement_is_kept_and_audited(either: Desk) -> None:
    signed = either.write(versions.sign, MODEL, 1, STATEMENT, by=ANN)
    assert signed.statement == STATEMENT
    assert either.read(versions.get, MODEL, 1) == signed
    entry = either.read(audit.listed, 1)[0]
    assert (entry.action, entry.subject, entry.detail["statement"]) == ("model.sign", f"{MODEL}/1", STATEMENT)
    either.write(versions.sign, MODEL, 1, STATEMENT, by=ANN)
    assert either.read(audit.listed, 1) == [entry]


def test_another_statement_is_refused(either: Desk) -> None:
    either.write(versions.sign, MODEL, 1, STATEMENT, by=ANN)
    with pytest.raises(Conflict, match="signed already"):
        either.write(versions.sign, MODEL, 1, OTHER, by=ANN)
    with pytest.raises(InvalidInput, match="statement"):
        either.write(versions.sign, MODEL, 2, "none", by=ANN)
    with pytest.raises(Forbidden):
        either.write(versions.sign, MODEL, 2, STATEMENT, by=EVE)
    with pytest.raises(NotFound):
        either.write(versions.sign, MODEL, 9, STATEMENT, by=ANN)
    assert either.read(versions.get, MODEL, 1).statement == STATEMENT
    assert either.read(versions.get, MODEL, 2).statement is None
