"""The actor behind its client, on a real cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rayplat import identity
from rayplat import settings as settings_module
from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound, StaleGeneration, Unavailable
from rayplat.registry.calls import name_of
from rayplat.registry.client import RegistryClient, create_token
from rayplat.registry.record import aliases, audit, policies, tokens, versions
from rayplat.settings import Settings
from rayplat.types import AliasHead, AliasPolicy, Role
from tests.registry.desk import ALIAS, ANN, FREE, MODEL, ROOT, candidate

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
    return client.write(versions.register, candidate(n), by=ANN).version


def go_live(client: RegistryClient, version: int, alias: str = FREE) -> AliasHead:
    return client.write(aliases.set, MODEL, alias, version, by=ANN)


def free(client: RegistryClient) -> None:
    client.write(policies.set, AliasPolicy("*", FREE, False, (), min_approvals=0), by=ROOT)


def test_a_fresh_home_gets_its_tables_its_first_token_and_one_actor(fresh: RegistryClient, settings: Settings) -> None:
    assert fresh.heartbeat()["is_writer"]
    info, secret = create_token(fresh, "owner", Role.ADMIN, None)
    owner = fresh.read(tokens.authenticate, identity.hash_token(secret))
    assert owner is not None
    assert [t.token_id for t in RegistryClient.start(settings).read(tokens.listed)] == [info.token_id]
    with pytest.raises(Conflict, match="last admin"):
        RegistryClient.connect().write(tokens.revoke, info.token_id, by=owner)
    assert fresh.heartbeat()["epoch"] == 1
    assert fresh.read(versions.models) == []


def test_errors_cross_the_call_as_their_own_classes(client: RegistryClient) -> None:
    import ray

    with pytest.raises(NotFound) as missing:
        client.read(aliases.get, "absent", ALIAS)
    assert type(missing.value) is NotFound
    assert missing.value.args == ("alias", "absent@champion", "aliases of this model: none yet")
    with pytest.raises(NotFound):
        ray.get(client.handle.version.remote("absent", 1))
    with pytest.raises(InvalidInput, match="digest"):
        client.write(versions.register, replace(candidate(1), digest="x"), by=ANN)
    with pytest.raises(InvalidInput, match="is no operation of the registry's record to write"):
        ray.get(client.handle.write.remote("rayplat.registry.record.aliases:move", ()))
    register(client, 1)
    with pytest.raises(Forbidden, match="is protected"):
        go_live(client, 1, ALIAS)
    free(client)
    with pytest.raises(StaleGeneration) as other:
        client.write(aliases.set, MODEL, FREE, 1, 7, by=ANN)
    assert type(other.value) is StaleGeneration


def test_a_listener_hears_of_a_move_at_once_and_acknowledges(client: RegistryClient) -> None:
    free(client)
    for n in (1, 2):
        register(client, n)
    first = go_live(client, 1)
    assert client.listen(MODEL, FREE, 0, 5) == first
    assert client.listen(MODEL, FREE, 1, 0.05) is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.listen, MODEL, FREE, 1, 30)
        while client.heartbeat()["listeners"] == 0:
            pass
        second = go_live(client, 2)
        assert waiting.result(5) == second
    client.ack(MODEL, FREE, second.generation, "replica-a")
    assert client.acks(MODEL, FREE) == {"replica-a": 2}
    assert client.read(audit.verify) == len(client.read(audit.listed)) == 5


def test_of_twenty_concurrent_moves_one_wins(client: RegistryClient) -> None:
    import ray

    free(client)
    for n in (1, 2):
        register(client, n)
    name, asked = name_of(aliases.set, "write"), range(20)
    won = []
    for call in [client.handle.write.remote(name, (MODEL, FREE, 1 + n % 2, 0), {"by": ANN}) for n in asked]:
        try:
            won.append(ray.get(call))
        except StaleGeneration:
            continue
    assert client.read(aliases.history, MODEL, FREE) == won
    assert len(won) == 1


def test_a_killed_actor_comes_back_with_everything(client: RegistryClient) -> None:
    free(client)
    for n in (1, 2):
        register(client, n)
    before = go_live(client, 1)
    was = client.heartbeat()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.listen, MODEL, FREE, before.generation, 20)
        while client.heartbeat()["listeners"] == 0:
            pass
        os.kill(was["pid"], signal.SIGKILL)
        assert client.read(aliases.get, MODEL, FREE) == before  # a read meets the restart, and is sent again
        now = client.heartbeat()
        assert (now["pid"] != was["pid"], now["epoch"], now["is_writer"]) == (True, was["epoch"] + 1, True)
        after = go_live(client, 2)
        assert waiting.result(20) == after
    assert client.read(audit.verify) == len(client.read(audit.listed))


def test_a_write_that_meets_a_restart_takes_effect_once(client: RegistryClient) -> None:
    free(client)
    register(client, 1)
    os.kill(client.heartbeat()["pid"], signal.SIGKILL)
    head = go_live(client, 1)
    assert client.read(aliases.history, MODEL, FREE) == [head]


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
        with pytest.raises(Unavailable, match=r"no answer to .*versions:models within 0\.3 s"):
            RegistryClient(client.handle, timeout_s=0.3).read(versions.models)
    finally:
        os.kill(pid, signal.SIGCONT)
    other = ray.remote(num_cpus=0)(type("Gone", (), {"packed": lambda self, *args: []})).remote()
    ray.kill(other)
    with pytest.raises(Unavailable, match="the registry is not available"):
        RegistryClient(other).read(versions.models)
    with pytest.raises(Unavailable, match="'rayplat up' starts it"):
        RegistryClient.connect(namespace="elsewhere")
