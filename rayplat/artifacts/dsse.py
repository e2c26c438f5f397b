"""Signed envelopes: DSSE 1.0 (https://github.com/secure-systems-lab/dsse) around in-toto statements.

Knows keys and bytes, not what the statements say.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from rayplat.artifacts.keys import SigningKey, TrustedKeys
from rayplat.artifacts.manifest import canonical
from rayplat.errors import NotTrusted

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_MAX_SIGNATURES = 8


def pae(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of ``payload``."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def seal(statement: dict[str, Any], key: SigningKey) -> dict[str, Any]:
    """The envelope of ``statement``, as the JSON object that DSSE describes."""
    payload = canonical(statement)
    signature = {"sig": _encoded(key.sign(pae(payload))), "keyid": key.public.key_id}
    return {"payload": _encoded(payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}


def unseal(envelope: Any, keys: TrustedKeys, what: str) -> tuple[dict[str, Any], str]:
    """The in-toto statement of an envelope that a trusted key has signed, and that key's id.

    Nothing of the payload is parsed before its signature is checked. Raises `NotTrusted`, with ``what`` in its text.
    """
    if not isinstance(envelope, dict) or envelope.get("payloadType") != PAYLOAD_TYPE:
        raise NotTrusted(what, f"it is no DSSE envelope of {PAYLOAD_TYPE}")
    payload, signatures = _decoded(envelope.get("payload"), what), envelope.get("signatures")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= _MAX_SIGNATURES:
        raise NotTrusted(what, "it carries no signature")
    key_id = _signer(signatures, payload, keys, what)
    try:
        statement = json.loads(payload)
    except (ValueError, RecursionError) as e:
        raise NotTrusted(what, "its signed content is not JSON") from e
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        raise NotTrusted(what, "its signed content is no in-toto statement of version 1")
    return statement, key_id


def parse(content: bytes, what: str) -> dict[str, Any]:
    """``content`` as a JSON object. Raises `NotTrusted`."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise NotTrusted(what, "it is not JSON") from e
    if not isinstance(found, dict):
        raise NotTrusted(what, "it is no JSON object")
    return found


def _signer(signatures: list[Any], payload: bytes, keys: TrustedKeys, what: str) -> str:
    message, unknown = pae(payload), None
    for signature in signatures:
        if not isinstance(signature, dict):
            raise NotTrusted(what, "a signature is no JSON object")
        hint = signature.get("keyid") or ""
        try:
            candidates = keys.candidates(str(hint), what)
        except NotTrusted as e:
            unknown = e
            continue
        der = _decoded(signature.get("sig"), what)
        found = next((key.key_id for key in candidates if key.accepts(der, message)), None)
        if found is not None:
            return found
    raise unknown or NotTrusted(what, "its signature does not fit its content and the platform's key")


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _decoded(text: Any, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as e:
        raise NotTrusted(what, "a field of its envelope is not base64") from e
