from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplat.errors import Unavailable
from rayplat.registry import standard_webhooks
from rayplat.registry.dispatcher import Dispatcher
from rayplat.registry.egress import EgressRules, Target
from rayplat.registry.http_sender import HttpSender
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import events, webhooks
from rayplat.registry.record.database import Defaults, Record
from rayplat.settings import EventsSettings
from rayplat.types import Principal, Role, Webhook, WebhookState
from tests.registry.receiver import Receiver, receiving, receiving_tls, verified

ROOT = Principal("root", Role.ADMIN)
SECRET = standard_webhooks.new_secret()
INSIDE = EventsSettings(allow_http=True, allow_private=True, timeout_s=1.0)  # type: ignore[call-arg]


class Clock:
    """A clock that is put forward by hand, but signs with the true time first."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def registry(database_url: str) -> Any:
    record = Record(database_url, defaults=Defaults(egress=EgressRules.of(INSIDE)))
    yield LocalRegistry(record)
    record.close()


def hook(registry: LocalRegistry, receiver: Receiver, *wanted: str) -> Webhook:
    return registry.write(webhooks.create, receiver.url, wanted or ("*",), SECRET, by=ROOT)


def emit(registry: LocalRegistry, *names: str) -> None:
    for n, name in enumerate(names):
        registry.record.write(lambda tx, n=n, name=name: events.emit(tx, name, "m@champion", {"version": n}))


def dispatch(dispatcher: Dispatcher, ticks: int = 1) -> None:
    async def all_of_them() -> None:
        for _ in range(ticks):
            await dispatcher.tick()
            await dispatcher.drain()

    asyncio.run(all_of_them())


def test_events_arrive_in_order_signed_and_once(registry: LocalRegistry) -> None:
    with receiving() as receiver:
        made = hook(registry, receiver, "promotion.*")
        emit(registry, "promotion.requested", "gate.failed", "promotion.awaiting_approval", "promotion.live")
        dispatcher = Dispatcher(registry, INSIDE)
        dispatch(dispatcher, ticks=3)
    assert [m.json["type"] for m in receiver.got] == [
        "promotion.requested",
        "promotion.awaiting_approval",
        "promotion.live",
    ]
    assert all(verified(m, SECRET) for m in receiver.got)
    assert not verified(receiver.got[0], standard_webhooks.new_secret())
    first = receiver.got[0].json
    assert first["data"] == {"version": 0, "seq": 1, "subject": "m@champion"}
    assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None
    assert receiver.got[0].headers["content-type"] == "application/json"
    now = registry.read(webhooks.get, made.webhook_id)
    assert (now.position, now.failures, now.last_error) == (4, 0, "")
    assert now.last_delivered_at is not None


def test_it_begins_with_what_happens_after_it_was_made(registry: LocalRegistry) -> None:
    emit(registry, "promotion.live")
    with receiving() as receiver:
        hook(registry, receiver)
        dispatch(Dispatcher(registry, INSIDE))
        assert receiver.got == []
        emit(registry, "promotion.superseded")
        dispatch(Dispatcher(registry, INSIDE))
    assert [m.json["type"] for m in receiver.got] == ["promotion.superseded"]


def test_a_receiver_that_fails_gets_the_same_message_again_before_any_other(registry: LocalRegistry) -> None:
    clock = Clock()
    with receiving(lambda n: 500 if n < 2 else 200) as receiver:
        made = hook(registry, receiver)
        emit(registry, "promotion.requested", "promotion.live")
        dispatcher = Dispatcher(registry, INSIDE, clock=clock)
        dispatch(dispatcher)
        dispatch(dispatcher)  # its time has not come
        assert len(receiver.got) == 1
        waiting = registry.read(webhooks.get, made.webhook_id)
        assert (waiting.failures, waiting.last_error) == (1, "the receiver answered 500")
        assert waiting.next_try_at is not None
        for _ in range(2):
            clock.forward(5)
            dispatch(dispatcher)
    assert [m.json["type"] for m in receiver.got] == ["promotion.requested"] * 3 + ["promotion.live"]
    assert len({m.id for m in receiver.got[:3]}) == 1
    assert receiver.got[3].id != receiver.got[0].id
    assert all(verified(m, SECRET) for m in receiver.got)


def test_who_dies_between_delivery_and_note_sends_again_with_the_same_id(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        made = hook(registry, receiver)
        emit(registry, "promotion.requested", "promotion.live")
        with monkeypatch.context() as patch:
            patch.setattr(registry, "write", lambda operation, *args, **kwargs: _die(operation))
            dispatch(Dispatcher(registry, INSIDE))
        assert registry.read(webhooks.get, made.webhook_id).position == 0
        dispatch(Dispatcher(registry, INSIDE))
    ids = [m.id for m in receiver.got]
    assert ids == [ids[0], ids[1], ids[0], ids[1]]
    assert registry.read(webhooks.get, made.webhook_id).position == 2


def _die(operation: Callable[..., Any]) -> int:
    if operation is events.prune:
        return 0
    raise Unavailable("the registry", "killed")


def test_a_slow_receiver_keeps_no_other_waiting(registry: LocalRegistry) -> None:
    with receiving(lambda n: "hang") as dead, receiving(lambda n: "slow") as slow, receiving() as well:
        made = [hook(registry, r) for r in (dead, slow, well)]
        emit(registry, "promotion.live")

        async def scenario() -> float:
            dispatcher, started = Dispatcher(registry, INSIDE), time.monotonic()
            await dispatcher.tick()
            while not (well.got and registry.read(webhooks.get, made[2].webhook_id).position == 1):
                await asyncio.sleep(0.01)
            emit(registry, "promotion.superseded")
            await dispatcher.tick()
            while len(well.got) < 2:
                await asyncio.sleep(0.01)
            took = time.monotonic() - started
            await dispatcher.drain()
            return took

        assert asyncio.run(scenario()) < INSIDE.timeout_s
    for broken in made[:2]:
        assert registry.read(webhooks.get, broken.webhook_id).last_error == "no answer within 1 s"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (404, "the receiver answered 404"),
        (302, "the receiver answered 302"),
    ],
)
def test_a_receiver_that_refuses_is_parked_with_the_error_and_goes_on_when_replayed(
    registry: LocalRegistry, answer: int, error: str
) -> None:
    clock = Clock()
    with receiving(lambda n: answer if n < 3 else 200) as receiver:
        receiver.extra["location"] = receiver.url
        made = hook(registry, receiver)
        emit(registry, "promotion.requested", "promotion.live")
        dispatcher = Dispatcher(registry, INSIDE.model_copy(update={"park_after": 3}), clock=clock)
        for _ in range(5):
            dispatch(dispatcher)
            clock.forward(60)
        parked = registry.read(webhooks.get, made.webhook_id)
        assert (parked.state, parked.last_error, len(receiver.got)) == (WebhookState.PARKED, error, 3)
        assert all(m.headers.get("method") != "GET" for m in receiver.got)
        registry.write(webhooks.replay, made.webhook_id, 1, by=ROOT)
        dispatch(dispatcher)
    assert [m.json["type"] for m in receiver.got[3:]] == ["promotion.requested", "promotion.live"]
    assert receiver.got[3].id == receiver.got[0].id


def test_a_receiver_that_is_gone_is_parked_at_once_and_one_that_talks_nonsense_is_tried_again(
    registry: LocalRegistry,
) -> None:
    with receiving(lambda n: 410) as gone, receiving(lambda n: "garbage") as confused:
        made = [hook(registry, gone), hook(registry, confused)]
        emit(registry, "promotion.live")
        dispatch(Dispatcher(registry, INSIDE))
    states = [registry.read(webhooks.get, w.webhook_id) for w in made]
    assert [w.state for w in states] == [WebhookState.PARKED, WebhookState.ACTIVE]
    assert "RemoteProtocolError" in states[1].last_error


def test_retry_after_is_honoured(registry: LocalRegistry) -> None:
    clock = Clock()
    with receiving(lambda n: 429 if n == 0 else 200) as receiver:
        receiver.extra["retry-after"] = "100"
        hook(registry, receiver)
        emit(registry, "promotion.live")
        dispatcher = Dispatcher(registry, INSIDE, clock=clock)
        dispatch(dispatcher)
        clock.forward(99)
        dispatch(dispatcher)
        assert len(receiver.got) == 1
        clock.forward(2)
        dispatch(dispatcher)
        assert len(receiver.got) == 2


def test_a_replay_also_sends_again_what_was_not_wanted_in_between(registry: LocalRegistry) -> None:
    with receiving() as receiver:
        made = hook(registry, receiver, "promotion.live")
        emit(registry, "promotion.live", *["gate.failed"] * 3)
        dispatcher = Dispatcher(registry, INSIDE)
        dispatch(dispatcher, ticks=2)
        emit(registry, "gate.failed")
        dispatch(dispatcher, ticks=2)
        registry.write(webhooks.replay, made.webhook_id, 1, by=ROOT)
        dispatch(dispatcher)
    assert [m.id for m in receiver.got] == [receiver.got[0].id] * 2


def test_what_permits_no_such_address_any_more_sends_nothing_there(registry: LocalRegistry) -> None:
    with receiving() as receiver:
        made = hook(registry, receiver)
        emit(registry, "promotion.live")
        dispatch(Dispatcher(registry, EventsSettings(allow_http=True)))  # type: ignore[call-arg]
        assert receiver.got == []
    error = registry.read(webhooks.get, made.webhook_id).last_error
    assert "127.0.0.1 is an address inside the network" in error


def test_a_name_is_resolved_and_checked_for_each_delivery_and_only_that_address_is_used() -> None:
    answers = [["93.184.216.34", "127.0.0.1"], ["127.0.0.1"]]

    def rebinding(target: Target) -> list[Any]:
        return [ipaddress.ip_address(a) for a in answers.pop(0)]

    with receiving() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        sender = HttpSender(EgressRules(allow_http=True), 1.0, resolve=rebinding)
        for _ in range(2):
            answer = asyncio.run(sender.post(f"http://hooks.example.com:{port}/", {}, b"{}"))
            assert answer.refused
            assert "hooks.example.com (127.0.0.1)" in answer.reason
        assert receiver.got == []
        answers.append(["127.0.0.1"])
        named = HttpSender(EgressRules(allow_http=True, allow=("hooks.example.com",)), 1.0, resolve=rebinding)
        assert asyncio.run(named.post(f"http://hooks.example.com:{port}/x", {}, b"{}")).delivered
    assert receiver.got[0].headers["host"] == f"hooks.example.com:{port}"


def test_proxies_of_the_environment_are_not_used(registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver, receiving() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        hook(registry, receiver)
        emit(registry, "promotion.live")
        dispatch(Dispatcher(registry, INSIDE))
        assert (len(receiver.got), len(proxy.got)) == (1, 0)


def test_a_certificate_counts_for_the_name_that_was_asked_for(tmp_path: Path) -> None:
    files = certificate(tmp_path, "hooks.example.com")
    with receiving_tls(*files) as port:
        local = lambda target: [ipaddress.ip_address("127.0.0.1")]  # noqa: E731
        rules = EgressRules(allow_private=True)
        trusting = HttpSender(rules, 5.0, str(files[0]), resolve=local)
        assert asyncio.run(trusting.post(f"https://hooks.example.com:{port}/", {}, b"{}")).delivered
        other = asyncio.run(trusting.post(f"https://other.example.com:{port}/", {}, b"{}"))
        assert "certificate" in other.reason.lower()
        unknown = asyncio.run(HttpSender(rules, 5.0, resolve=local).post(f"https://hooks.example.com:{port}/", {}, b""))
        assert "certificate" in unknown.reason.lower()


def test_run_ticks_until_it_is_told_to_stop(registry: LocalRegistry) -> None:
    with receiving() as receiver:
        hook(registry, receiver)

        async def scenario() -> None:
            stop = asyncio.Event()
            quick = INSIDE.model_copy(update={"poll_s": 0.01})
            running = asyncio.create_task(Dispatcher(registry, quick).run(stop))
            await asyncio.to_thread(emit, registry, "promotion.live")
            while not receiver.got:
                await asyncio.sleep(0.01)
            stop.set()
            await asyncio.wait_for(running, 5)

        asyncio.run(scenario())


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert, private
