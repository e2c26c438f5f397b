from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rayplat import identity
from rayplat.errors import AlreadyExists, Conflict, Forbidden, InvalidInput, InvalidName, NotFound
from rayplat.registry.record import audit, tokens
from rayplat.registry.record.database import Record
from rayplat.types import Principal, PrincipalKind, Role, TokenInfo
from tests.registry.desk import BOB, ROOT


def make(
    record: Record, name: str, role: Role, by: Principal | None, expires_at: datetime | None = None
) -> tuple[TokenInfo, str]:
    secret, token_id = identity.new_token()
    wanted = TokenInfo(token_id, name, role, datetime.now(UTC), "", expires_at)
    return record.write(lambda tx: tokens.create(tx, wanted, identity.hash_token(secret), by)), secret


def who(record: Record, secret: str, at: datetime | None = None) -> Principal | None:
    return record.read(lambda s: tokens.authenticate(s, identity.hash_token(secret), at))


def test_the_first_token_needs_nobody_and_every_other_an_admin(record: Record) -> None:
    _, owner = make(record, "owner", Role.ADMIN, None)
    assert who(record, owner) == Principal("owner", Role.ADMIN)
    with pytest.raises(Forbidden, match="only the first token"):
        make(record, "mallory", Role.ADMIN, None)
    with pytest.raises(Forbidden, match="needs the role admin"):
        make(record, "mallory", Role.ADMIN, BOB)
    info, ann = make(record, "ann", Role.DEVELOPER, ROOT)
    assert info.created_by == "root"
    assert who(record, ann) == Principal("ann", Role.DEVELOPER)


def test_secrets_and_hashes_are_neither_listed_nor_audited(record: Record) -> None:
    _, secret = make(record, "owner", Role.ADMIN, None)
    seen = repr(record.read(tokens.listed)) + repr(record.read(lambda s: audit.listed(s, 10)))
    assert secret not in seen
    assert identity.hash_token(secret) not in seen


def test_revoked_expired_and_unknown_tokens_are_nobodys(record: Record) -> None:
    make(record, "owner", Role.ADMIN, None)
    soon = datetime.now(UTC) + timedelta(hours=1)
    info, ann = make(record, "ann", Role.DEVELOPER, ROOT, soon)
    assert info.expires_at == soon
    assert who(record, ann, soon - timedelta(seconds=1)) is not None
    assert who(record, ann, soon) is None
    assert who(record, identity.new_token()[0]) is None
    revoked = record.write(lambda tx: tokens.revoke(tx, info.token_id, ROOT))
    assert revoked.revoked_at is not None
    assert who(record, ann) is None
    assert record.write(lambda tx: tokens.revoke(tx, info.token_id, ROOT)) == revoked


def test_the_last_admin_token_stays(record: Record) -> None:
    owner, _ = make(record, "owner", Role.ADMIN, None)
    make(record, "ann", Role.APPROVER, ROOT)
    with pytest.raises(Conflict, match="last admin token"):
        record.write(lambda tx: tokens.revoke(tx, owner.token_id, ROOT))
    make(record, "second", Role.ADMIN, ROOT)
    record.write(lambda tx: tokens.revoke(tx, owner.token_id, ROOT))


def test_bad_wishes_are_refused(record: Record) -> None:
    make(record, "owner", Role.ADMIN, None)
    with pytest.raises(InvalidName, match="principal"):
        make(record, "Ann Smith", Role.VIEWER, ROOT)
    for moment in (datetime.now(UTC) - timedelta(seconds=1), datetime.now() + timedelta(days=1)):
        with pytest.raises(InvalidInput, match="expires_at"):
            make(record, "ann", Role.VIEWER, ROOT, moment)
    with pytest.raises(NotFound, match="token"):
        record.write(lambda tx: tokens.revoke(tx, "0" * 12, ROOT))
    with pytest.raises(Forbidden):
        record.write(lambda tx: tokens.revoke(tx, "0" * 12, BOB))


def test_a_repeated_creation_is_one_token_and_a_taken_id_is_refused(record: Record) -> None:
    secret, token_id = identity.new_token()
    wanted = TokenInfo(token_id, "owner", Role.ADMIN, datetime.now(UTC), "")
    first = record.write(lambda tx: tokens.create(tx, wanted, identity.hash_token(secret), None))
    assert record.write(lambda tx: tokens.create(tx, wanted, identity.hash_token(secret), None)) == first
    with pytest.raises(AlreadyExists):
        record.write(lambda tx: tokens.create(tx, wanted, identity.hash_token("other"), ROOT))
    assert len(record.read(tokens.listed)) == 1


def test_a_service_is_known_as_one_and_nobody_is_both(record: Record) -> None:
    make(record, "owner", Role.ADMIN, None)
    secret, token_id = identity.new_token()
    wanted = TokenInfo(token_id, "ci", Role.APPROVER, datetime.now(UTC), "", kind=PrincipalKind.SERVICE)
    record.write(lambda tx: tokens.create(tx, wanted, identity.hash_token(secret), ROOT))
    service = who(record, secret)
    assert service == Principal("ci", Role.APPROVER, PrincipalKind.SERVICE)
    with pytest.raises(Conflict, match="ci has a token as a service"):
        make(record, "ci", Role.VIEWER, ROOT)


def test_a_name_may_be_an_e_mail_address_but_not_the_platforms(record: Record) -> None:
    make(record, "owner", Role.ADMIN, None)
    make(record, "ann.lee+ml@example.co.uk", Role.DEVELOPER, ROOT)
    for name in ("Ann@example.com", "ann@", "@example.com", "a@b@c", "ann@exa mple", "änn@example.com", "rayplat"):
        with pytest.raises(InvalidName, match="principal"):
            make(record, name, Role.VIEWER, ROOT)


def test_the_last_use_is_noted_once_a_minute_and_never_goes_back(record: Record) -> None:
    _, secret = make(record, "owner", Role.ADMIN, None)
    token_hash, now, gathered = identity.hash_token(secret), datetime.now(UTC), identity.LastUse(60)
    assert record.read(tokens.listed)[0].last_used_at is None
    assert gathered.note(token_hash, now) == {token_hash: now}
    assert gathered.note(token_hash, now + timedelta(seconds=59)) == {}
    later = now + timedelta(seconds=60)
    assert gathered.note(token_hash, later) == {token_hash: later}
    for at in (later, now):
        record.write(lambda tx, at=at: tokens.used(tx, {token_hash: at, "0" * 64: at}))
    assert record.read(tokens.listed)[0].last_used_at == later
    assert len(record.read(lambda s: audit.listed(s, 10))) == 1
