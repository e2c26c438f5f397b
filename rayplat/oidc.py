"""Who a token of an identity provider belongs to: JSON web tokens (RFC 7519), checked against the provider's keys.

Only RS256 and ES256 count, each with a key of its own kind, found by the token's ``kid`` in the key set that settings
or the discovery document name; what a token says about where its key lies is not read. Optional: without settings for
a provider only platform tokens are known.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from rayplat.errors import InvalidName, Unavailable
from rayplat.settings import OidcSettings
from rayplat.types import Principal, PrincipalKind, Role, check_principal

log = logging.getLogger(__name__)

# Times are checked here, by a clock that tests can set.
_CHECKS: Any = {"require": ["exp", "iat", "iss", "aud"], "verify_exp": False, "verify_nbf": False, "verify_iat": False}
_KINDS = {"RS256": "RSA", "ES256": "EC"}
_MIN_RSA_BITS = 2048
_MAX_DOCUMENT = 1 << 20
_MAX_KEYS = 100
_TIMEOUT_S = 5.0
_AGAIN_S = 30.0  # between two fetches, whoever asks: an unknown kid costs the provider no more than this
_STALE_S = 86_400.0  # how long known keys count while the provider does not answer
_WHAT = "the identity provider"

Fetch = Callable[[str], dict[str, Any]]


class Refused(Exception):
    """``Refused(reason)``: the token is not good. The reason is logged and never told to the caller."""


class KeySet:
    """The provider's keys by id, fetched when first needed, again after ``keys_s`` and for an id that is not known."""

    def __init__(self, settings: OidcSettings, fetch: Fetch, clock: Callable[[], float]) -> None:
        self._settings, self._fetch, self._clock = settings, fetch, clock
        self._keys: dict[str, Any] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = threading.Lock()

    def get(self, kid: str) -> Any:
        """The key (`jwt.PyJWK`) with this id. Raises `Refused`, or `Unavailable` where no key could ever be fetched."""
        with self._lock:
            now = self._clock()
            wanted = kid not in self._keys or now - self._fetched_at > self._settings.keys_s
            if wanted and now - self._tried_at >= _AGAIN_S:
                self._tried_at = now
                self._refresh(now)
            if now - self._fetched_at > self._settings.keys_s + _STALE_S:
                raise Unavailable(_WHAT, f"its keys cannot be fetched from {self._settings.issuer}")
            if kid not in self._keys:
                raise Refused("its key is not in the provider's key set")
            return self._keys[kid]

    def _refresh(self, now: float) -> None:
        try:
            url = self._settings.jwks_url or self._discovered()
            self._keys = _usable(_secure(url), self._fetch)
            self._fetched_at = now
        except (OSError, ValueError, KeyError, TypeError) as e:
            log.warning("the keys of %s are not fetched: %s: %s", self._settings.issuer, type(e).__name__, e)

    def _discovered(self) -> str:
        issuer = self._settings.issuer
        found = self._fetch(_secure(f"{issuer.rstrip('/')}/.well-known/openid-configuration"))
        if found.get("issuer") != issuer:
            raise ValueError(f"the discovery document is of the issuer {found.get('issuer')!r}")
        return str(found["jwks_uri"])


class Oidc:
    """Checks tokens of one provider. Safe to use from several threads."""

    def __init__(
        self,
        settings: OidcSettings,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._now = settings, now
        self._keys = KeySet(settings, fetch or fetch_json, clock)

    def principal(self, token: str) -> Principal | None:
        """Whose token this is; None where it is not good, for whatever reason. Raises `Unavailable` where the
        provider's keys cannot be had."""
        try:
            return self._caller(self._claims(token))
        except Refused as e:
            log.info("a token of %s is refused: %s", self._settings.issuer, e)
            return None

    def _claims(self, token: str) -> dict[str, Any]:
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            algorithm, kid = header.get("alg"), header.get("kid")
            if algorithm not in _KINDS or "crit" in header:
                raise Refused(f"its algorithm {algorithm!r} or its critical headers are not accepted")
            if not isinstance(kid, str) or not kid:
                raise Refused("it names no key")
            key = self._keys.get(kid)
            if key.key_type != _KINDS[algorithm]:
                raise Refused(f"its key is no key for {algorithm}")
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                options=_CHECKS,
            )
        except (jwt.PyJWTError, ValueError, TypeError) as e:
            raise Refused(f"{type(e).__name__}: {e}") from e
        self._check_times(claims)
        return claims

    def _check_times(self, claims: dict[str, Any]) -> None:
        now, leeway_s = self._now(), self._settings.leeway_s
        times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
        if not all(isinstance(t, int | float) and not isinstance(t, bool) and abs(t) < 1e12 for t in times.values()):
            raise Refused("a time in it is no number")
        if times["exp"] <= now - leeway_s:
            raise Refused("it has expired")
        if times.get("nbf", 0) > now + leeway_s or times["iat"] > now + leeway_s:
            raise Refused("it is not valid yet")

    def _caller(self, claims: dict[str, Any]) -> Principal:
        settings = self._settings
        name, role = claims.get(settings.name_claim), _role(claims.get(settings.role_claim), settings.roles)
        if not isinstance(name, str):
            raise Refused(f"it has no claim {settings.name_claim!r}")
        if not name.isascii():  # before it is put in lower case: that makes the Kelvin sign a plain k
            raise Refused(f"its claim {settings.name_claim!r} holds other characters than ASCII")
        if settings.name_claim == "email" and claims.get("email_verified", True) not in (True, "true"):
            raise Refused("its e-mail address is not verified")
        try:
            checked = check_principal(name.lower())
        except InvalidName as e:
            raise Refused(str(e)) from e
        if role is None:
            raise Refused(f"no value of its claim {settings.role_claim!r} has a role")
        person = settings.person_claim is None or bool(claims.get(settings.person_claim))
        return Principal(checked, role, PrincipalKind.PERSON if person else PrincipalKind.SERVICE)


def fetch_json(url: str) -> dict[str, Any]:
    """The JSON object at ``url``: bounded in size and time, no redirect, no proxy. Raises `OSError`, `ValueError`."""
    import httpx

    content = b""
    try:
        options: dict[str, Any] = {"timeout": _TIMEOUT_S, "trust_env": False, "follow_redirects": False}
        with httpx.stream("GET", url, headers={"accept": "application/json"}, **options) as answer:
            if answer.status_code != 200:
                raise ValueError(f"{url} answered {answer.status_code}")
            for part in answer.iter_bytes():
                content += part
                if len(content) > _MAX_DOCUMENT:
                    raise ValueError(f"{url} has more than {_MAX_DOCUMENT} bytes")
    except httpx.HTTPError as e:
        raise OSError(f"{url}: {e}") from e
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"{url} holds no JSON object")
    return found


def _secure(url: str) -> str:
    """``url`` itself: https, or plain http to this machine."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not local:
        raise ValueError(f"{url} is not https://")
    return url


def _usable(url: str, fetch: Fetch) -> dict[str, Any]:
    """The keys that may sign tokens: RSA of 2048 bits or more, EC on P-256, of use ``sig``, each with an id."""
    import jwt

    found: dict[str, Any] = {}
    documents = fetch(url).get("keys")
    if not isinstance(documents, list) or not all(isinstance(d, dict) for d in documents):
        raise ValueError(f"{url} holds no key set")
    for document in documents[:_MAX_KEYS]:
        kid, use = document.get("kid"), document.get("use", "sig")
        if not isinstance(kid, str) or use != "sig" or document.get("kty") not in _KINDS.values():
            continue
        algorithm = next(a for a, kind in _KINDS.items() if kind == document["kty"])
        if document.get("alg", algorithm) != algorithm or document.get("crv", "P-256") != "P-256":
            continue
        try:
            key = jwt.PyJWK(document, algorithm)
        except jwt.PyJWTError:
            continue
        if document["kty"] == "EC" or key.key.key_size >= _MIN_RSA_BITS:
            found[kid] = key
    return found


def _role(claim: Any, roles: Mapping[str, str]) -> Role | None:
    values: Iterable[Any] = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    known = [Role(roles[v]) for v in values if isinstance(v, str) and v in roles]
    return max(known, key=list(Role).index, default=None)
