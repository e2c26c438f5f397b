"""A record's fields are in its line."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from rayplat import logs


@pytest.fixture
def lines() -> tuple[logging.Logger, io.StringIO]:
    out = io.StringIO()
    logger, handler = logging.Logger("rayplat.test"), logging.StreamHandler(out)
    handler.setFormatter(logs.FieldsFormatter("%(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
    return logger, out


def test_fields_follow_the_message_in_their_order(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = lines
    logger.info("alias %s", "moved", extra={"model": "flight-delay", "version": 2, "alias": "champion"})
    assert out.getvalue() == "INFO rayplat.test alias moved model=flight-delay version=2 alias=champion\n"


def test_none_is_left_out_and_a_plain_record_is_unchanged(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = lines
    logger.info("one", extra={"run_id": None, "request_id": "r1"})
    logger.info("two")
    assert out.getvalue().splitlines() == ["INFO rayplat.test one request_id=r1", "INFO rayplat.test two"]


@pytest.mark.parametrize(
    ("value", "text"),
    [("two words", '"two words"'), ("a\nb", r'"a\nb"'), ("a=b", '"a=b"'), ("", '""'), (0, "0"), (0.5, "0.5")],
)
def test_a_value_stays_in_its_line(lines: tuple[logging.Logger, io.StringIO], value: object, text: str) -> None:
    logger, out = lines
    logger.info("m", extra={"key": value})
    assert out.getvalue() == f"INFO rayplat.test m key={text}\n"


def test_a_traceback_comes_after_the_fields(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = lines
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed", extra={"request_id": "r1"})
    first, second, *_, last = out.getvalue().splitlines()
    assert (first, last) == ("ERROR rayplat.test failed request_id=r1", "ValueError: bad")
    assert second.startswith("Traceback")


def test_a_traceback_is_written_without_print(
    lines: tuple[logging.Logger, io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Serve puts a function of its own in the place of ``print``, which writes tuples."""
    logger, out = lines
    monkeypatch.setattr("builtins.print", lambda *objects, file=None, **_: file.write(f"{objects}"))
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed")
    assert out.getvalue().splitlines()[1] == "Traceback (most recent call last):"
    assert out.getvalue().endswith("ValueError: bad\n")


def test_set_up_is_done_once_and_writes_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = logging.getLogger("rayplat"), io.StringIO()
    before = root.handlers, root.level, root.propagate
    monkeypatch.setattr(sys, "stderr", out)
    root.handlers = []
    try:
        logs.set_up()
        logs.set_up()
        logging.getLogger("rayplat.some").info("m", extra={"table_version": 7})
    finally:
        root.handlers, root.level, root.propagate = before
    assert out.getvalue().count("rayplat.some m table_version=7\n") == 1


def test_a_replica_writes_past_what_serve_has_put_in_the_place_of_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    root, serves, own = logging.getLogger("rayplat"), io.StringIO(), io.StringIO()
    before = root.handlers, root.level, root.propagate
    monkeypatch.setattr(sys, "stderr", serves)
    monkeypatch.setattr(sys, "__stderr__", own)
    root.handlers = []
    try:
        logs.set_up_in_replica()
        logging.getLogger("rayplat.some").info("m")
    finally:
        root.handlers, root.level, root.propagate = before
    assert (serves.getvalue(), own.getvalue().count("rayplat.some m\n")) == ("", 1)


def test_outside_of_an_actor_nothing_is_set_up() -> None:
    before = list(logging.getLogger("rayplat").handlers)
    logs.set_up_in_actor()
    assert logging.getLogger("rayplat").handlers == before
