"""The platform's signing key, and the public keys whose signatures it trusts: files in one folder of its home.

::

    keys/signing.pem       private, PKCS #8 PEM, mode 0600, made once
    keys/signing.pub       its public half, for `model_signing verify key --public_key`
    keys/trusted/*.pub     public keys of earlier or other signers that still count

Keys are on the NIST curves P-256 (what the platform makes), P-384 or P-521. A key's id is the sha256, in hex, of its
DER-encoded SubjectPublicKeyInfo.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayplat.errors import InvalidInput, NotFound, NotTrusted, Unavailable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

PRIVATE, PUBLIC, TRUSTED = "signing.pem", "signing.pub", "trusted"
_MAX_KEY_BYTES = 16_384


@dataclass(frozen=True)
class PublicKey:
    """Checks signatures: ECDSA with the hash that goes with the curve's size."""

    inner: ec.EllipticCurvePublicKey

    @cached_property
    def key_id(self) -> str:
        return hashlib.sha256(_public_bytes(self.inner, pem=False)).hexdigest()

    @cached_property
    def pem(self) -> bytes:
        return _public_bytes(self.inner, pem=True)

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` (ASN.1 DER) is this key's over ``message``."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.inner.verify(signature, message, _scheme(self.inner.curve))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """The private key. Its repr shows the id only."""

    inner: ec.EllipticCurvePrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.public.key_id})"

    @cached_property
    def public(self) -> PublicKey:
        return PublicKey(self.inner.public_key())

    def sign(self, message: bytes) -> bytes:
        """An ASN.1 DER signature of ``message``."""
        return self.inner.sign(message, _scheme(self.inner.curve))


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys by id."""

    by_id: Mapping[str, PublicKey]

    @classmethod
    def of(cls, keys: Iterable[PublicKey]) -> TrustedKeys:
        return cls({key.key_id: key for key in keys})

    def candidates(self, key_id: str, what: str) -> list[PublicKey]:
        """The keys that a signature with the hint ``key_id`` may be of; all of them for an empty hint."""
        if not key_id:
            return list(self.by_id.values())
        if key_id not in self.by_id:
            known = ", ".join(k[:12] for k in self.by_id) or "none"
            raise NotTrusted(what, f"it was signed with the key {key_id[:80]!r}, the trusted ones are {known}")
        return [self.by_id[key_id]]


def ensure(folder: Path) -> SigningKey:
    """The key in ``folder``, made if there is none yet; of several processes at once one makes it."""
    private = Path(folder) / PRIVATE
    if not private.exists():
        _create(private, _private_pem())
    key = load(private)
    _publish(Path(folder) / PUBLIC, key.public.pem)
    return key


def rotate(folder: Path) -> SigningKey:
    """A new key in place of the present one, whose public half stays trusted. Statements it signed stay good."""
    folder = Path(folder)
    old = ensure(folder)
    _publish(folder / TRUSTED / f"{old.public.key_id}.pub", old.public.pem)
    _write(folder / PRIVATE, _private_pem(), 0o600)
    return ensure(folder)


def load(path: Path) -> SigningKey:
    """The private key in ``path``. Raises NotFound, or InvalidInput for another kind of key or an open file mode."""
    from cryptography.hazmat.primitives import serialization

    content = _read(path, "signing key")
    if path.stat().st_mode & 0o077:
        raise InvalidInput("signing key", f"{path} can be read by others: chmod 600 it")
    try:
        found = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError) as e:
        raise InvalidInput("signing key", f"{path} holds no PEM private key without a password") from e
    return SigningKey(_checked(found, path))


def load_public(path: Path) -> PublicKey:
    """The public key in ``path``. Raises NotFound, InvalidInput."""
    from cryptography.hazmat.primitives import serialization

    try:
        found = serialization.load_pem_public_key(_read(path, "public key"))
    except ValueError as e:
        raise InvalidInput("public key", f"{path} holds no PEM public key") from e
    return PublicKey(_checked(found, path))


def trusted(folder: Path, *more: Path) -> TrustedKeys:
    """The platform's own public key, those below ``trusted/`` and those in ``more`` (files)."""
    folder = Path(folder)
    own = [folder / PUBLIC] if (folder / PUBLIC).exists() else []
    return TrustedKeys.of(load_public(path) for path in [*own, *sorted((folder / TRUSTED).glob("*.pub")), *more])


def platform_key(folder: Path, external: Path | None = None) -> SigningKey:
    """The key that signs: ``external`` where the settings name one (its public half is published in ``folder``),
    else the one of ``folder``, made if need be."""
    if external is None:
        return ensure(folder)
    key = load(external)
    _publish(Path(folder) / PUBLIC, key.public.pem)
    return key


def _private_pem() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_bytes(key: ec.EllipticCurvePublicKey, *, pem: bool) -> bytes:
    from cryptography.hazmat.primitives import serialization

    encoding = serialization.Encoding.PEM if pem else serialization.Encoding.DER
    return key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def _scheme(curve: ec.EllipticCurve) -> ec.ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    by_size: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    return ec.ECDSA(by_size[curve.key_size])


def _checked(key: Any, path: Path) -> Any:
    name = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise InvalidInput("key", f"{path} is a key of the kind {name}; P-256, P-384 or P-521 is needed")
    return key


def _read(path: Path, kind: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except FileNotFoundError:
        raise NotFound(kind, str(path), "'rayplat up' makes the platform's key") from None
    except OSError as e:
        raise Unavailable(kind, f"{path} cannot be read: {e.strerror}") from e


def _create(path: Path, content: bytes) -> None:
    """``path`` with ``content``, unless it exists; never half of it."""
    _write(path, content, 0o600, keep=True)


def _publish(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        _write(path, content, 0o644)


def _write(path: Path, content: bytes, mode: int, *, keep: bool = False) -> None:
    """A file that appears whole; ``keep`` leaves one that is there already."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if keep:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return
        else:
            temporary.replace(path)
    except OSError as e:
        raise Unavailable("the platform's key", f"{path} cannot be written: {e.strerror}") from e
    finally:
        temporary.unlink(missing_ok=True)
