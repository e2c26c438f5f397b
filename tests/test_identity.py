from __future__ import annotations

import re

import pytest

from rayplat import identity
from rayplat.errors import Forbidden, Unauthenticated
from rayplat.types import Principal, Role

ANN = Principal("ann", Role.DEVELOPER)


def test_a_token_names_its_id_and_is_stored_as_a_hash_only() -> None:
    secret, token_id = identity.new_token()
    assert re.fullmatch(rf"rpt_{token_id}_[0-9a-f]{{64}}", secret)
    assert len(identity.hash_token(secret)) == 64
    assert secret not in identity.hash_token(secret)
    assert identity.same_hash(identity.hash_token(secret), identity.hash_token(secret))
    assert not identity.same_hash(identity.hash_token(secret), identity.hash_token(identity.new_token()[0]))


def test_bearer_reads_a_header_value_and_a_mapping_of_headers() -> None:
    secret, _ = identity.new_token()
    assert identity.bearer(f"Bearer {secret}") == secret
    assert identity.bearer(f"bearer  {secret} ".encode()) == secret
    assert identity.bearer({"AUTHORIZATION": f"Bearer {secret}"}) == secret


@pytest.mark.parametrize(
    "header", [None, "", b"", {}, "Basic YTpi", "Bearer", "Bearer x", "Bearer rpt_1_2", "Bearer rpt_é", b"\xff\xfe"]
)
def test_bearer_refuses_what_is_no_platform_token_and_does_not_echo_it(header: object) -> None:
    with pytest.raises(Unauthenticated) as e:
        identity.bearer(header)  # type: ignore[arg-type]
    assert "rpt_1_2" not in str(e.value)


def test_roles_include_the_ones_before_them() -> None:
    for wanted in (Role.VIEWER, Role.DEVELOPER):
        identity.require(ANN, wanted)
    for wanted in (Role.APPROVER, Role.ADMIN):
        with pytest.raises(Forbidden, match=f"ann may not do this: it needs the role {wanted.value}"):
            identity.require(ANN, wanted)
    with pytest.raises(Unauthenticated):
        identity.require(None, Role.VIEWER)


def test_the_cache_is_fresh_for_its_ttl_and_stale_only_when_asked() -> None:
    now = [0.0]
    cache = identity.TokenCache(ttl_s=5, stale_s=60, clock=lambda: now[0])
    secret, _ = identity.new_token()
    assert cache.get(secret) is None
    assert cache.stale(secret) is None
    cache.put(secret, ANN)
    now[0] = 5.0
    assert cache.get(secret) == ANN
    now[0] = 5.1
    assert cache.get(secret) is None
    assert cache.stale(secret) == ANN
    now[0] = 65.1
    assert cache.stale(secret) is None


def test_the_cache_forgets_a_revoked_token_keeps_no_secret_and_is_bounded() -> None:
    cache = identity.TokenCache(ttl_s=5, size=2)
    secrets = [identity.new_token()[0] for _ in range(3)]
    for secret in secrets:
        cache.put(secret, ANN)
    assert [cache.get(s) for s in secrets] == [None, ANN, ANN]
    cache.put(secrets[1], None)
    assert cache.get(secrets[1]) is None
    assert cache.stale(secrets[1]) is None
    assert secrets[2] not in repr(vars(cache))
