"""The actor behind its client, on a real cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayplat import identity
from rayplat import settings as settings_module
from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound, StaleGeneration, Unavailable
from rayplat.registry.client import RegistryClient
from rayplat.settings import Settings
from rayplat.types import AliasHead, PromotionState, Role
from tests.registry.desk import ALIAS, ANN, BOB, HOLDOUT, MODEL, PIN, candidate, evidence

pytestmark = pytest.mark.ray


def start(settings: Settings) -> Iterator[RegistryClient]:
    import ray

    client = RegistryClient.start(settings)
    yield client
    pid = client.heartbeat()["pid"]
    ray.kill(client.handle, no_restart=True)
    wait_for_end(pid)


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


@pytest.fixture
def client(ray_cluster: str, database_url: str, tmp_path: Path) -> Iterator[RegistryClient]:
    yield from start(settings_module.load(tmp_path, environ={}, registry={"database_url": database_url}))


@pytest.fixture
def fresh(ray_cluster: str, settings: Settings) -> Iterator[RegistryClient]:
    yield from start(settings)


def register(client: RegistryClient, n: int) -> int:
    return client.register_model(MODEL, candidate(n).digest, f"{n:032x}", ANN, HOLDOUT, [PIN], {"auc": 0.7}).version


def go_live(client: RegistryClient, version: int, champion: int | None = None) -> AliasHead:
    asked = client.request_promotion(MODEL, version, ALIAS, evidence(champion=champion), ANN)
    client.approve(asked.promotion_id, BOB, asked.subject_digest)
    return client.alias(MODEL, ALIAS)


def test_a_fresh_home_gets_its_tables_its_first_token_and_one_actor(fresh: RegistryClient, settings: Settings) -> None:
    assert fresh.heartbeat()["is_writer"]
    info, secret = fresh.create_token("owner", Role.ADMIN, None)
    owner = fresh.authenticate(identity.hash_token(secret))
    assert owner is not None
    assert [t.token_id for t in RegistryClient.start(settings).tokens()] == [info.token_id]
    with pytest.raises(Conflict, match="last admin"):
        RegistryClient.connect().revoke_token(info.token_id, owner)
    assert fresh.heartbeat()["epoch"] == 1
    assert fresh.models() == []


def test_errors_cross_the_call_as_their_own_classes(client: RegistryClient) -> None:
    import ray

    with pytest.raises(NotFound) as missing:
        client.alias("absent", ALIAS)
    assert type(missing.value) is NotFound
    assert missing.value.args == ("alias", "absent@champion", "aliases of this model: none yet")
    with pytest.raises(NotFound):
        ray.get(client.handle.version.remote("absent", 1))
    with pytest.raises(InvalidInput, match="digest"):
        client.register_model(MODEL, "x", "r", ANN, HOLDOUT, [], {})
    register(client, 1)
    asked = client.request_promotion(MODEL, 1, ALIAS, evidence(), ANN)
    with pytest.raises(Forbidden, match="ann"):
        client.approve(asked.promotion_id, ANN)
    with pytest.raises(Conflict) as other:
        client.approve(asked.promotion_id, BOB, HOLDOUT)
    assert type(other.value) is Conflict


def test_a_listener_hears_of_a_move_at_once_and_acknowledges(client: RegistryClient) -> None:
    for n in (1, 2):
        register(client, n)
    first = go_live(client, 1)
    assert client.listen(MODEL, ALIAS, 0, 5) == first
    assert client.listen(MODEL, ALIAS, 1, 0.05) is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.listen, MODEL, ALIAS, 1, 30)
        while client.heartbeat()["listeners"] == 0:
            pass
        second = go_live(client, 2, champion=1)
        assert waiting.result(5) == second
    client.ack(MODEL, ALIAS, second.generation, "replica-a")
    assert client.acks(MODEL, ALIAS) == {"replica-a": 2}
    back = client.rollback(MODEL, ALIAS, BOB, "late answers")
    assert client.listen(MODEL, ALIAS, 2, 5) == back
    assert (back.version, back.generation) == (1, 3)
    assert client.verify_audit() == len(client.audit()) == 7


def test_of_twenty_concurrent_moves_one_wins(client: RegistryClient) -> None:
    import ray

    for n in range(1, 21):
        register(client, n)
    asked = [client.request_promotion(MODEL, n, ALIAS, evidence(), ANN) for n in range(1, 21)]
    won = []
    for call in [client.handle.approve.remote(p.promotion_id, BOB) for p in asked]:
        try:
            won.append(ray.get(call))
        except StaleGeneration:
            continue
    assert len(won) == 1
    assert won[0].state is PromotionState.LIVE
    assert [h.version for h in client.history(MODEL, ALIAS)] == [won[0].version]
    assert len(client.promotions(MODEL, PromotionState.STALE)) == 19


def test_a_killed_actor_comes_back_with_everything(client: RegistryClient) -> None:
    for n in (1, 2):
        register(client, n)
    before = go_live(client, 1)
    was = client.heartbeat()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.listen, MODEL, ALIAS, before.generation, 20)
        while client.heartbeat()["listeners"] == 0:
            pass
        os.kill(was["pid"], signal.SIGKILL)
        assert client.alias(MODEL, ALIAS) == before  # a read meets the restart, and is sent again
        now = client.heartbeat()
        assert (now["pid"] != was["pid"], now["epoch"], now["is_writer"]) == (True, was["epoch"] + 1, True)
        after = go_live(client, 2, champion=1)
        assert waiting.result(20) == after
    assert client.verify_audit() == len(client.audit())


def test_a_mutation_that_meets_a_restart_takes_effect_once(client: RegistryClient) -> None:
    register(client, 1)
    os.kill(client.heartbeat()["pid"], signal.SIGKILL)
    asked = client.request_promotion(MODEL, 1, ALIAS, evidence(), ANN)
    assert [p.promotion_id for p in client.promotions(MODEL)] == [asked.promotion_id]


def test_a_registry_that_cannot_open_its_database_says_so_and_can_be_started_later(
    ray_cluster: str, database_url: str, tmp_path: Path
) -> None:
    bad = settings_module.load(tmp_path, environ={}, registry={"database_url": f"sqlite:///{tmp_path}/no/r.db"})
    with pytest.raises(Unavailable, match="unable to open database file"):
        RegistryClient.start(bad)
    good = settings_module.load(tmp_path, environ={}, registry={"database_url": database_url})
    for client in start(good):
        assert client.heartbeat()["is_writer"]


def test_a_registry_that_is_gone_or_silent_is_unavailable(client: RegistryClient) -> None:
    import ray

    pid = client.heartbeat()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match=r"no answer to models within 0\.3 s"):
            RegistryClient(client.handle, timeout_s=0.3).models()
    finally:
        os.kill(pid, signal.SIGCONT)
    other = ray.remote(num_cpus=0)(type("Gone", (), {"models": lambda self: []})).remote()
    ray.kill(other)
    with pytest.raises(Unavailable, match="the registry is not available"):
        RegistryClient(other).models()
    with pytest.raises(Unavailable, match="'rayplat up' starts it"):
        RegistryClient.connect(namespace="elsewhere")
