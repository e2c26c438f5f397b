"""Verbs on platform tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rayplat.registry.client import create_token
from rayplat.registry.record import tokens
from rayplat.services.verbs import Noun, route
from rayplat.types import PrincipalKind, Role, TokenInfo


@dataclass(frozen=True)
class NewToken:
    """``secret`` is shown this once; only its hash is stored."""

    info: TokenInfo
    secret: str


class Tokens(Noun):
    """Who may do what: viewer < developer < approver < admin."""

    NAME = "tokens"

    @route("GET", "/tokens", Role.ADMIN)
    def list(self) -> tuple[TokenInfo, ...]:
        """All tokens, without their secrets."""
        return tuple(self._context.registry.read(tokens.listed))

    @route("POST", "/tokens", Role.ADMIN)
    def create(
        self,
        principal: str,
        role: Role,
        expires_at: datetime | None = None,
        kind: PrincipalKind = PrincipalKind.PERSON,
    ) -> NewToken:
        """A token for ``principal``, a person or a service; a service may do what its role permits, never approve."""
        by = self._context.principal
        info, secret = create_token(self._context.registry, principal, role, by, expires_at, kind=kind)
        return NewToken(info, secret)

    @route("DELETE", "/tokens/{token_id}", Role.ADMIN)
    def revoke(self, token_id: str) -> None:
        """Refuse a token from now on."""
        self._context.registry.write(tokens.revoke, token_id, by=self._context.principal)
