"""Who may ask for what, with the registry up, down, slow, and flooded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rayplat import identity
from rayplat.errors import Forbidden, Unauthenticated, Unavailable
from rayplat.serve.access import CONTROL, PREDICT, Access, remembering
from rayplat.types import Principal, Role


class Registry:
    def __init__(self) -> None:
        self.tokens: dict[str, Principal] = {}
        self.asked = 0
        self.down = False
        self.gate: asyncio.Event | None = None

    def token(self, role: Role = Role.VIEWER) -> str:
        secret, _ = identity.new_token()
        self.tokens[identity.hash_token(secret)] = Principal("someone", role)
        return f"Bearer {secret}"

    async def authenticate(self, token_hash: str) -> Principal | None:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise Unavailable("the registry", "down")
        return self.tokens.get(token_hash)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(test: Callable[[Registry, Access, Clock], Awaitable[None]]) -> None:
    async def go() -> None:
        registry, clock = Registry(), Clock()
        await test(registry, Access(registry, 5.0, clock), clock)

    asyncio.run(go())


def test_a_known_token_is_asked_about_once_and_again_after_its_time() -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        header = registry.token()
        for _ in range(3):
            assert (await access.principal(header)) == Principal("someone", Role.VIEWER)
        assert (await access.principal(header.encode())) is not None
        assert registry.asked == 1
        registry.tokens.clear()
        clock.now = 5.1
        with pytest.raises(Unauthenticated):
            await access.principal(header)

    run(test)


def test_roles() -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        viewer, developer = registry.token(), registry.token(Role.DEVELOPER)
        with pytest.raises(Forbidden, match="needs the role developer, the token has viewer"):
            await access.principal(viewer, CONTROL)
        assert await access.principal(developer, CONTROL)
        assert await access.principal(developer, PREDICT)

    run(test)


@pytest.mark.parametrize("header", [None, "", "Basic abc", "Bearer x", "Bearer rpt_1_2", "Bearer \udce4", b"\xff\xfe"])
def test_what_is_no_token_is_refused_without_asking(header: str | bytes | None) -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        with pytest.raises(Unauthenticated):
            await access.principal(header)
        if header is not None:
            with pytest.raises(Unauthenticated):
                await access.principal(header, public=True)
        assert registry.asked == 0

    run(test)


def test_a_public_endpoint_takes_anybody_for_predictions_only() -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        assert await access.principal(None, PREDICT, True) is None
        assert (await access.principal(registry.token(), PREDICT, True)) is not None  # and knows who is known
        with pytest.raises(Unauthenticated):  # or a revoked token would go on unnoticed
            await access.principal(f"Bearer {identity.new_token()[0]}", PREDICT, True)
        with pytest.raises(Unauthenticated):
            await access.principal(None, CONTROL, True)
        registry.down = True
        assert await access.principal(registry.token(), PREDICT, True) is None

    run(test)


def test_whether_an_endpoint_is_public_is_asked_only_where_it_matters() -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        asked = []

        async def public() -> bool:
            asked.append(clock.now)
            return True

        for wrong in (f"Bearer {identity.new_token()[0]}", "nonsense"):
            with pytest.raises(Unauthenticated):
                await access.principal(wrong, public=public)
        assert await access.principal(registry.token(), public=public)
        assert asked == []
        assert await access.principal(None, public=public) is None
        registry.down = True
        assert await access.principal(registry.token(), public=public) is None
        assert len(asked) == 2

    run(test)


def test_while_the_registry_is_down_good_tokens_go_on_and_new_ones_wait() -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        header = registry.token()
        await access.principal(header)
        registry.down = True
        clock.now = 600.0
        assert await access.principal(header)
        with pytest.raises(Unavailable):
            await access.principal(registry.token())
        clock.now = 3700.0
        with pytest.raises(Unavailable):
            await access.principal(header)

    run(test)


def test_requests_with_the_same_new_token_ask_once_and_floods_are_bounded() -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        registry.gate = asyncio.Event()
        header = registry.token()
        same = [asyncio.create_task(access.principal(header)) for _ in range(50)]
        wrong = [asyncio.create_task(access.principal(f"Bearer {identity.new_token()[0]}")) for _ in range(50)]
        await asyncio.sleep(0)
        registry.gate.set()
        assert all(await asyncio.gather(*same))
        found = await asyncio.gather(*wrong, return_exceptions=True)
        assert {type(e) for e in found} == {Unauthenticated, Unavailable}
        assert registry.asked == 16

    run(test)


def test_a_flood_of_wrong_tokens_does_not_shut_out_those_that_were_good() -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        good, revoked = registry.token(), registry.token()
        for header in (good, revoked):
            await access.principal(header)
        clock.now = 6.0
        registry.gate = asyncio.Event()
        registry.tokens.pop(identity.hash_token(revoked.removeprefix("Bearer ")))
        flood = [asyncio.create_task(access.principal(f"Bearer {identity.new_token()[0]}")) for _ in range(40)]
        await asyncio.sleep(0.01)
        asked = [asyncio.create_task(access.principal(header)) for header in (good, revoked)]
        await asyncio.sleep(0.01)
        registry.gate.set()
        assert await asked[0] == Principal("someone", Role.VIEWER)
        with pytest.raises(Unauthenticated):
            await asked[1]
        assert not any(isinstance(r, Principal) for r in await asyncio.gather(*flood, return_exceptions=True))

    run(test)


def test_a_client_that_leaves_does_not_spoil_the_question_for_others() -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        registry.gate = asyncio.Event()
        header = registry.token()
        first, second = (asyncio.create_task(access.principal(header)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        registry.gate.set()
        assert await second

    run(test)


def test_an_unknown_token_is_not_asked_about_again_at_once() -> None:
    async def test(registry: Registry, access: Access, clock: Clock) -> None:
        header = f"Bearer {identity.new_token()[0]}"
        for _ in range(5):
            with pytest.raises(Unauthenticated):
                await access.principal(header)
        assert registry.asked == 1

    run(test)


def test_the_same_for_threads() -> None:
    down, asked = False, 0

    def ask(secret: str) -> Principal | None:
        nonlocal asked
        asked += 1
        if down:
            raise Unavailable("the registry", "down")
        return Principal("someone", Role.ADMIN) if secret == "good" else None

    known = remembering(ask, 0.0)
    assert known("good") is not None
    assert known("bad") is None
    down = True
    assert known("good") is not None
    with pytest.raises(Unavailable):
        known("bad")
    assert remembering(ask, 60.0) is not None
    assert asked >= 4
