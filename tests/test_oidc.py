from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from rayplat import identity
from rayplat.errors import Unauthenticated, Unavailable
from rayplat.oidc import Oidc
from rayplat.settings import OidcSettings
from rayplat.types import Principal, PrincipalKind, Role

NOW = 1_800_000_000
AUDIENCE = "rayplat"
ROLES = {"ml-approvers": "approver", "ml-devs": "developer", "ml-admins": "admin"}


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    return {
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "other": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "weak": rsa.generate_private_key(public_exponent=65537, key_size=1024),
        "p384": ec.generate_private_key(ec.SECP384R1()),
    }


class Provider:
    """An identity provider on this machine: its discovery document and key set, over HTTP."""

    def __init__(self) -> None:
        provider = self
        self.documents: dict[str, Any] = {}
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                found = provider.documents.get(self.path)
                self.send_response(200 if found is not None else 500)
                self.end_headers()
                self.wfile.write(found if isinstance(found, bytes) else json.dumps(found).encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def publish(self, **keys: Any) -> None:
        found = []
        for kid, key in keys.items():
            algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
            found.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"})
        self.documents["/keys"] = {"keys": found}
        discovery = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        self.documents["/.well-known/openid-configuration"] = discovery

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def provider(keys: dict[str, Any]) -> Iterator[Provider]:
    made = Provider()
    made.publish(one=keys["rsa"], two=keys["ec"])
    yield made
    made.close()


class Clock:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


def oidc(provider: Provider, clock: Clock | None = None, **more: Any) -> Oidc:
    settings = OidcSettings(issuer=provider.issuer, audience=AUDIENCE, roles=ROLES, **more)
    return Oidc(settings, clock=clock or Clock(), now=lambda: NOW)


def claims(provider: Provider, **changed: Any) -> dict[str, Any]:
    usual = {"iss": provider.issuer, "aud": AUDIENCE, "sub": "1", "email": "Bob@example.com", "iat": NOW, "nbf": NOW}
    found = {**usual, "exp": NOW + 300, "groups": ["staff", "ml-approvers", "ml-devs"], **changed}
    return {name: value for name, value in found.items() if value is not None}


def token(key: Any, said: dict[str, Any], kid: str | None = "one", algorithm: str = "RS256", **header: Any) -> str:
    headers = {**({} if kid is None else {"kid": kid}), **header}
    return jwt.encode(said, key, algorithm=algorithm, headers=headers)


def test_a_good_token_is_its_callers_with_the_highest_role(provider: Provider, keys: dict[str, Any]) -> None:
    checked = oidc(provider)
    bob = Principal("bob@example.com", Role.APPROVER)
    assert checked.principal(token(keys["rsa"], claims(provider))) == bob
    assert checked.principal(token(keys["ec"], claims(provider), "two", "ES256")) == bob
    assert checked.principal(token(keys["rsa"], claims(provider, aud=["x", AUDIENCE]))) == bob
    one_group = claims(provider, groups="ml-admins")
    assert checked.principal(token(keys["rsa"], one_group)) == Principal("bob@example.com", Role.ADMIN)
    assert provider.asked == ["/.well-known/openid-configuration", "/keys"]


def test_whoever_has_no_claim_of_a_person_is_a_service(provider: Provider, keys: dict[str, Any]) -> None:
    checked = oidc(provider, name_claim="sub", person_claim="email")
    service = token(keys["rsa"], claims(provider, sub="ci-runner", email=None))
    assert checked.principal(service) == Principal("ci-runner", Role.APPROVER, PrincipalKind.SERVICE)


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": NOW - 31},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"iat": None},
        {"iat": NOW + 31},
        {"nbf": NOW + 31},
        {"iss": "https://elsewhere.example.com"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"email": None},
        {"email": 7},
        {"email": "not an address"},
        {"email": "rayplat"},
        {"email": "\u212aate@example.com"},  # the Kelvin sign, whose lower case is a plain k
        {"email_verified": False},
        {"groups": ["staff"]},
        {"groups": None},
        {"groups": {"ml-admins": True}},
    ],
)
def test_a_token_that_says_something_else_is_nobodys(
    provider: Provider, keys: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert oidc(provider).principal(token(keys["rsa"], claims(provider, **changed))) is None


def test_clocks_may_differ_a_little(provider: Provider, keys: dict[str, Any]) -> None:
    for changed in ({"exp": NOW - 29}, {"iat": NOW + 29}, {"nbf": NOW + 29}):
        assert oidc(provider).principal(token(keys["rsa"], claims(provider, **changed))) is not None


def test_a_token_that_was_signed_otherwise_is_nobodys(provider: Provider, keys: dict[str, Any]) -> None:
    checked, said = oidc(provider), claims(provider)
    public = (
        keys["rsa"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    good = token(keys["rsa"], said)
    head, body, signature = good.split(".")
    forged_body = base64.urlsafe_b64encode(json.dumps({**said, "groups": "ml-admins"}).encode()).rstrip(b"=").decode()
    forged = [
        token(keys["other"], said),
        f"{head}.{forged_body}.{signature}",
        f"{head}.{body}.",
        f"{unsigned_head('none')}.{body}.",
        f"{unsigned_head('None')}.{body}.{signature}",
        hmac_with(public, said),
        token(keys["rsa"], said, algorithm="RS512"),
        token(keys["rsa"], said, algorithm="PS256"),
        token(keys["ec"], said, "one", "ES256"),  # a key of another kind than the header says
        token(keys["rsa"], said, "two"),
        token(keys["rsa"], said, None),
        token(keys["rsa"], said, crit=["b64"], b64=False),
        token(keys["other"], said, jwk=json.loads(RSAAlgorithm.to_jwk(keys["other"].public_key()))),
        token(keys["other"], said, jku=f"{provider.issuer}/other"),
        "eyJ.eyJ.x",
    ]
    assert checked.principal(good) is not None
    for wrong in forged:
        assert checked.principal(wrong) is None


def unsigned_head(algorithm: str) -> str:
    return base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "one"}).encode()).rstrip(b"=").decode()


def hmac_with(public: bytes, said: dict[str, Any]) -> str:
    """A token signed with the public key as if that were a shared secret: PyJWT itself refuses to make one."""
    import hashlib
    import hmac

    parts = [json.dumps({"alg": "HS256", "kid": "one"}).encode(), json.dumps(said).encode()]
    signed = ".".join(base64.urlsafe_b64encode(p).rstrip(b"=").decode() for p in parts)
    tag = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), hashlib.sha256)).rstrip(b"=").decode()
    return f"{signed}.{tag}"


def test_a_new_key_is_found_and_unknown_ids_do_not_flood_the_provider(provider: Provider, keys: dict[str, Any]) -> None:
    clock = Clock()
    checked = oidc(provider, clock, jwks_url=f"{provider.issuer}/keys")
    assert checked.principal(token(keys["rsa"], claims(provider))) is not None
    provider.publish(three=keys["other"])
    for _ in range(50):
        assert checked.principal(token(keys["other"], claims(provider), "three")) is None
    assert len(provider.asked) == 1
    clock.at += 30
    assert checked.principal(token(keys["other"], claims(provider), "three")) is not None
    assert checked.principal(token(keys["rsa"], claims(provider))) is None  # it was taken back
    assert len(provider.asked) == 2


def test_a_provider_that_is_down_leaves_known_keys_good_for_a_day(provider: Provider, keys: dict[str, Any]) -> None:
    clock = Clock()
    checked = oidc(provider, clock)
    good = token(keys["rsa"], claims(provider))
    assert checked.principal(good) is not None
    provider.documents.clear()
    clock.at += 3700
    assert checked.principal(good) is not None
    clock.at += 86_400
    with pytest.raises(Unavailable, match="identity provider"):
        checked.principal(good)
    with pytest.raises(Unavailable):
        oidc(provider).principal(good)


def test_documents_that_cannot_be_right_are_not_used(provider: Provider, keys: dict[str, Any]) -> None:
    good = token(keys["rsa"], claims(provider))
    key_set, discovery = provider.documents["/keys"], provider.documents["/.well-known/openid-configuration"]
    for changed in (
        {"/.well-known/openid-configuration": {**discovery, "issuer": "https://evil.example.com"}},
        {"/.well-known/openid-configuration": {**discovery, "jwks_uri": "http://hooks.example.com/keys"}},
        {"/keys": b"<html>"},
        {"/keys": []},
        {"/keys": {"keys": "none"}},
        {"/keys": b" " * (2 << 20)},
    ):
        provider.documents = {"/keys": key_set, "/.well-known/openid-configuration": discovery, **changed}
        with pytest.raises(Unavailable):
            oidc(provider).principal(good)


def test_weak_keys_and_keys_for_other_uses_do_not_count(provider: Provider, keys: dict[str, Any]) -> None:
    provider.publish(weak=keys["weak"], p384=keys["p384"], enc=keys["rsa"], alg=keys["rsa"])
    provider.documents["/keys"]["keys"][2]["use"] = "enc"
    provider.documents["/keys"]["keys"][3]["alg"] = "RS512"
    said = claims(provider)
    for wrong in (token(keys["weak"], said, "weak"), token(keys["rsa"], said, "enc"), token(keys["rsa"], said, "alg")):
        assert oidc(provider).principal(wrong) is None
    assert oidc(provider).principal(token(keys["p384"], said, "p384", "ES384")) is None


def test_a_header_holds_a_web_token_only_where_it_may(provider: Provider, keys: dict[str, Any]) -> None:
    good = token(keys["rsa"], claims(provider))
    assert identity.bearer(f"Bearer {good}", jwt=True) == good
    with pytest.raises(Unauthenticated):
        identity.bearer(f"Bearer {good}")
    for wrong in (f"Bearer {good}x.y", "Bearer eyJ.x", f"Bearer eyJ{'a' * 20_000}.b.c", f"Basic {good}"):
        with pytest.raises(Unauthenticated):
            identity.bearer(wrong, jwt=True)
