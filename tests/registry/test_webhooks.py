from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rayplat.errors import AlreadyExists, Conflict, Forbidden, InvalidInput, NotFound
from rayplat.registry import standard_webhooks
from rayplat.registry.record import audit, events, promotion_rows, webhooks
from rayplat.registry.record.database import Record
from rayplat.registry.standard_webhooks import Answer, RetryPolicy
from rayplat.types import EVENTS, TEST_EVENT, Event, Principal, Role, Webhook
from tests.registry.desk import BOB, ROOT

URL = "https://hooks.example.com/services/T0/abc"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LATER = datetime.now(UTC) + timedelta(days=1)


def create(record: Record, url: str = URL, wanted: tuple[str, ...] = ("*",), key: str | None = None) -> Webhook:
    return record.write(lambda tx: webhooks.create(tx, url, wanted, SECRET, by=ROOT), key)


def test_the_signature_is_that_of_the_specifications_example() -> None:
    body = b'{"test": 2432232314}'
    found = standard_webhooks.signature(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_is_random_and_long_enough() -> None:
    made = {standard_webhooks.new_secret() for _ in range(10)}
    assert len(made) == 10
    assert all(standard_webhooks.check_secret(s) == s for s in made)
    for wrong in ("", "whsec_", "secret", "whsec_***", "whsec_" + base64.b64encode(b"short").decode(), SECRET[6:]):
        with pytest.raises(InvalidInput, match="secret"):
            standard_webhooks.check_secret(wrong)


def test_every_event_that_is_emitted_can_be_asked_for() -> None:
    sources = "\n".join(file.read_text() for file in Path(webhooks.__file__).parent.glob("*.py"))
    emitted = set(re.findall(r'(?:emit|tell)\(tx, "([a-z_]+\.[a-z_]+)"', sources)) | set(
        promotion_rows._EVENTS.values()
    )
    assert len(emitted) > 10
    assert emitted <= set(EVENTS)


def test_a_filter_names_events_a_noun_or_all() -> None:
    def told(wanted: tuple[str, ...], name: str, subject: str = "m@champion") -> bool:
        return standard_webhooks.wants(wanted, "wh-1", Event(1, name, subject, {}, LATER))

    assert told(("promotion.live",), "promotion.live")
    assert told(("promotion.*",), "promotion.live")
    assert told(("*",), "gate.failed")
    assert not told(("promotion.*",), "gate.failed")
    assert not told(("promotion.live",), "promotion.live_again")
    assert told(("gate.failed",), TEST_EVENT, "wh-1")
    assert not told(("*",), TEST_EVENT, "wh-2")
    for wrong in ((), ("promotion",), ("promotion.lives",), ("wine.*",), ("**",), ("",)):
        with pytest.raises(InvalidInput, match="events"):
            standard_webhooks.check_events(wrong)


@pytest.mark.parametrize(
    ("answer", "failures", "park", "at_least", "at_most"),
    [
        (Answer(500), 1, False, 1, 2),
        (Answer(500), 4, False, 8, 16),
        (Answer(503), 99, False, 450, 900),
        (Answer(None, "no answer"), 99, False, 450, 900),
        (Answer(408), 99, False, 450, 900),
        (Answer(429, retry_after_s=60), 1, False, 60, 60),
        (Answer(429, retry_after_s=1e9), 1, False, 900, 900),
        (Answer(400), 4, False, 8, 16),
        (Answer(400), 5, True, 0, 0),
        (Answer(301), 5, True, 0, 0),
        (Answer(None, "not permitted", refused=True), 5, True, 0, 0),
        (Answer(410), 1, True, 0, 0),
    ],
)
def test_when_it_is_tried_again(answer: Answer, failures: int, park: bool, at_least: float, at_most: float) -> None:
    for jitter in (0.0, 0.5, 0.999):
        decision = RetryPolicy().decide(answer, failures, jitter)
        assert decision.park == park
        assert at_least <= decision.wait_s <= at_most


def test_retry_after_is_read_in_both_forms() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert standard_webhooks.retry_after_s({"retry-after": "120"}, now) == 120
    assert standard_webhooks.retry_after_s({"retry-after": "Thu, 01 Jan 2026 00:01:00 GMT"}, now) == 60
    for text in ("", "soon", "-5", "Thu, 99 Jan 2026"):
        assert standard_webhooks.retry_after_s({"retry-after": text}, now) is None


def test_everything_but_the_secret_and_the_path_is_audited(record: Record) -> None:
    made = create(record)
    record.write(lambda tx: webhooks.test(tx, made.webhook_id, by=ROOT))
    record.write(lambda tx: webhooks.replay(tx, made.webhook_id, 1, by=ROOT))
    record.write(lambda tx: webhooks.delete(tx, made.webhook_id, by=ROOT))
    entries = record.read(audit.listed)
    assert [e.action for e in reversed(entries)] == [
        "webhook.create",
        "webhook.test",
        "webhook.replay",
        "webhook.delete",
    ]
    assert SECRET not in repr(entries)
    assert "T0/abc" not in repr(entries)
    assert entries[-1].detail["host"] == "hooks.example.com"
    assert record.read(webhooks.listed) == []


def test_a_call_that_is_repeated_makes_one_webhook(record: Record) -> None:
    assert create(record, key="k1") == create(record, key="k1")
    assert len(record.read(webhooks.listed)) == 1
    with pytest.raises(AlreadyExists):
        create(record)


def test_only_an_admin_touches_webhooks(record: Record) -> None:
    made = create(record)
    for operation in (
        lambda tx: webhooks.create(tx, "https://other.example.com/", ("*",), SECRET, by=BOB),
        lambda tx: webhooks.delete(tx, made.webhook_id, by=BOB),
        lambda tx: webhooks.test(tx, made.webhook_id, by=BOB),
        lambda tx: webhooks.replay(tx, made.webhook_id, 1, by=Principal("eve", Role.VIEWER)),
    ):
        with pytest.raises(Forbidden):
            record.write(operation)
    assert record.read(webhooks.listed) == [made]


def test_bad_wishes_are_refused_and_nothing_is_kept(record: Record) -> None:
    for url in ("https://10.0.0.7/", "http://hooks.example.com/", "https://169.254.169.254/latest", "nonsense"):
        with pytest.raises(InvalidInput, match="url"):
            create(record, url)
    with pytest.raises(InvalidInput, match="events"):
        create(record, wanted=("promotion.lives",))
    with pytest.raises(InvalidInput, match="secret"):
        record.write(lambda tx: webhooks.create(tx, URL, ("*",), "short", by=ROOT))
    for operation in (webhooks.delete, webhooks.test):
        with pytest.raises(NotFound):
            record.write(lambda tx, op=operation: op(tx, "wh-0", by=ROOT))
    assert record.read(webhooks.listed) == []
    assert record.read(audit.listed) == []


def test_a_replay_begins_where_there_are_events(record: Record) -> None:
    made = create(record)
    record.write(lambda tx: events.emit(tx, "promotion.live", "m@champion", {}))
    for seq in (0, -1, 3, "1", None):
        with pytest.raises(InvalidInput, match="from_seq"):
            record.write(lambda tx, s=seq: webhooks.replay(tx, made.webhook_id, s, by=ROOT))
    assert record.write(lambda tx: webhooks.replay(tx, made.webhook_id, 2, by=ROOT)).position == 1


def test_a_parked_webhook_is_not_tested_but_says_why(record: Record) -> None:
    made = create(record)
    parked = webhooks.Progress(made.webhook_id, 0, 0, error="the receiver answered 404", park=True)
    record.write(lambda tx: webhooks.settle(tx, parked))
    with pytest.raises(Conflict, match="answered 404"):
        record.write(lambda tx: webhooks.test(tx, made.webhook_id, by=ROOT))
    assert record.read(lambda s: webhooks.due(s, LATER)) == []


def test_progress_of_before_a_replay_is_not_noted(record: Record) -> None:
    made = create(record)
    for _ in range(3):
        record.write(lambda tx: events.emit(tx, "promotion.live", "m@champion", {}))
    record.write(lambda tx: webhooks.settle(tx, webhooks.Progress(made.webhook_id, 0, 3, 3)))
    record.write(lambda tx: webhooks.replay(tx, made.webhook_id, 1, by=ROOT))
    record.write(lambda tx: webhooks.settle(tx, webhooks.Progress(made.webhook_id, 2, 3, 1)))
    assert record.read(lambda s: webhooks.get(s, made.webhook_id)).position == 0


def test_old_events_go_when_everybody_has_had_them_and_numbers_never_come_twice(record: Record) -> None:
    made = create(record)
    for _ in range(5):
        record.write(lambda tx: events.emit(tx, "promotion.live", "m@champion", {}))
    assert record.write(lambda tx: events.prune(tx, LATER)) == 0
    record.write(lambda tx: webhooks.settle(tx, webhooks.Progress(made.webhook_id, 0, 3, 3)))
    assert record.write(lambda tx: events.prune(tx, datetime(2020, 1, 1, tzinfo=UTC))) == 0
    assert record.write(lambda tx: events.prune(tx, LATER)) == 3
    record.write(lambda tx: webhooks.settle(tx, webhooks.Progress(made.webhook_id, 3, 5, 2)))
    assert record.write(lambda tx: events.prune(tx, LATER)) == 1
    assert [e.seq for e in record.read(lambda s: events.after(s, 0))] == [5]
    assert record.read(events.last) == 5
