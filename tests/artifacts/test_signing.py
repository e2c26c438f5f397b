"""Signed statements: the public tools accept them, ours refuse whatever is not about this very version."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from rayplat.artifacts import dsse, keys, signing
from rayplat.errors import InvalidInput, NotFound, NotTrusted
from tests.artifacts.forgeries import MLMODELS, STATEMENTS, Signed, accepted, size
from tests.artifacts.formats import samples


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return Signed(tmp_path)


def test_a_statement_is_good_for_its_version(signed: Signed) -> None:
    found = signed.verify(signed.statement)
    assert found.key_id == signed.key.public.key_id
    assert found.signed_at >= signed.newer.registered_at


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_is_not_about_this_version_is_refused_with_a_reason(name: str, signed: Signed) -> None:
    with pytest.raises(NotTrusted) as caught:
        STATEMENTS[name](signed)
    assert "flight-delay/" in str(caught.value) or "other/" in str(caught.value)
    assert len(caught.value.reason) > 10


def test_the_reason_names_the_older_version(signed: Signed) -> None:
    older = signed.mixed(bundle=signed.statement, provenance=signed.old_statement)
    with pytest.raises(NotTrusted, match=r"it speaks of flight-delay/1 .* not of flight-delay/2"):
        signed.verify(older)


def test_the_corpus_as_the_benchmark_counts_it(tmp_path: Path) -> None:
    assert accepted(tmp_path) == []
    assert size() == len(MLMODELS) + len(STATEMENTS) > 25


def test_the_envelope_is_dsse_and_in_toto(signed: Signed) -> None:
    """Read the way any other verifier would: base64, JSON, the pre-authentication encoding, ECDSA over it."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = serialization.load_pem_public_key((signed.folder / keys.PUBLIC).read_bytes())
    bundle = json.loads(signed.files(signed.statement)["model.sig"])
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    for envelope in (bundle["dsseEnvelope"], json.loads(signed.files(signed.statement)["provenance.json"])):
        payload = base64.b64decode(envelope["payload"])
        kind = envelope["payloadType"].encode()
        encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        signature = base64.b64decode(envelope["signatures"][0]["sig"])
        public.verify(signature, encoded, ec.ECDSA(hashes.SHA256()))
        assert json.loads(payload)["_type"] == "https://in-toto.io/Statement/v1"


def test_the_library_of_in_toto_takes_both_statements(signed: Signed) -> None:
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2

    for content in signed.files(signed.statement).values():
        document = json.loads(content)
        payload = base64.b64decode(document.get("dsseEnvelope", document)["payload"])
        parsed = json_format.Parse(payload, statement_pb2.Statement())
        assert parsed.subject[0].digest["sha256"]
        assert parsed.predicate_type in ("https://model_signing/signature/v1.0", "https://slsa.dev/provenance/v1")


def test_provenance_lists_what_went_in(signed: Signed) -> None:
    found = json.loads(base64.b64decode(json.loads(signed.files(signed.statement)["provenance.json"])["payload"]))
    definition = found["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"] == [{"name": "training_set", "digest": {"sha256": "d" * 64}}]
    assert definition["externalParameters"]["run"] == "run-2"


# --- keys -------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: keys.ensure(tmp_path / "keys").public.key_id, range(16)))
    assert len(made) == 1
    assert (tmp_path / "keys" / "signing.pem").stat().st_mode & 0o777 == 0o600
    assert {p.name for p in (tmp_path / "keys").iterdir()} == {"signing.pem", "signing.pub"}


def test_a_keys_id_is_the_sha256_of_its_public_half(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = keys.ensure(tmp_path)
    public = serialization.load_pem_public_key((tmp_path / keys.PUBLIC).read_bytes())
    spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert key.public.key_id == hashlib.sha256(spki).hexdigest()
    assert key.public.key_id in repr(key)
    assert "PRIVATE" not in repr(key)


def test_statements_of_a_rotated_key_stay_good_until_it_is_taken_out(signed: Signed) -> None:
    new = keys.rotate(signed.folder)
    assert new.public.key_id != signed.key.public.key_id
    assert signed.verify(signed.statement).key_id == signed.key.public.key_id
    again = signing.sign_version(signed.store, new, signed.newer)
    assert signed.verify(again).key_id == new.public.key_id
    (signed.folder / "trusted" / f"{signed.key.public.key_id}.pub").unlink()
    with pytest.raises(NotTrusted, match="the trusted ones are"):
        signed.verify(signed.statement)


def test_a_key_that_others_can_read_or_that_is_none(tmp_path: Path) -> None:
    keys.ensure(tmp_path)
    (tmp_path / keys.PRIVATE).chmod(0o644)
    with pytest.raises(InvalidInput, match="chmod 600"):
        keys.load(tmp_path / keys.PRIVATE)
    (tmp_path / "other").write_bytes(b"-----BEGIN NOTHING-----")
    (tmp_path / "other").chmod(0o600)
    with pytest.raises(InvalidInput, match="PEM"):
        keys.load(tmp_path / "other")
    with pytest.raises(NotFound, match="rayplat up"):
        keys.load(tmp_path / "none")


def test_an_external_key_signs_in_place_of_the_platforms(tmp_path: Path) -> None:
    outside = keys.ensure(tmp_path / "outside")
    key = keys.platform_key(tmp_path / "home", tmp_path / "outside" / keys.PRIVATE)
    assert key.public.key_id == outside.public.key_id
    assert set(keys.trusted(tmp_path / "home").by_id) == {outside.public.key_id}
    assert not (tmp_path / "home" / keys.PRIVATE).exists()


@pytest.mark.parametrize("curve", ["SECP384R1", "SECP521R1"])
def test_other_curves_that_the_public_tool_knows(curve: str, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = keys.SigningKey(ec.generate_private_key(getattr(ec, curve)()))
    envelope = dsse.seal({"_type": dsse.STATEMENT_TYPE}, key)
    trusted = keys.TrustedKeys.of([key.public])
    assert dsse.unseal(envelope, trusted, "it")[1] == key.public.key_id
    for broken in ({}, [], {"payloadType": "x"}, envelope | {"signatures": []}, envelope | {"payload": "%"}):
        with pytest.raises(NotTrusted):
            dsse.unseal(broken, trusted, "it")


# --- the public tool --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model_signing() -> str:
    """The released command, in an environment of its own: its libraries do not go together with whylogs'."""
    place = Path(sys.prefix) / "model-signing-1.1.1"
    command = place / "bin" / "model_signing"
    if not (place / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        wanted = ["model-signing==1.1.1", "pyopenssl"]
        subprocess.run([str(place / "bin" / "pip"), "install", "--quiet", *wanted], check=True)
        (place / "ready").touch()
    return str(command)


def ask(tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.services
def test_the_public_tool_accepts_a_checkout_and_refuses_a_changed_one(
    model_signing: str, signed: Signed, tmp_path: Path
) -> None:
    source = samples.put(tmp_path / "names", "data/model b.bin", "x")
    for path in ("data-1", "data/a", "é/ü.txt", "MLmodel", ".gitattributes"):
        samples.put(source, path, path)
    facts = replace(signed.newer, digest=signed.store.put_tree(source, "model").digest)
    statement = signing.sign_version(signed.store, signed.key, facts)
    signed.store.checkout(statement, tmp_path / "sig")
    out = signed.store.checkout(facts.digest, tmp_path / "out")
    verify = ("verify", "key", "--signature", tmp_path / "sig" / "model.sig", "--public_key")
    good = ask(model_signing, *verify, signed.folder / keys.PUBLIC, out)
    assert good.returncode == 0, good.stderr
    stranger = keys.ensure(tmp_path / "stranger")
    assert stranger.public.key_id != signed.key.public.key_id
    assert ask(model_signing, *verify, tmp_path / "stranger" / keys.PUBLIC, out).returncode != 0
    samples.put(out, "extra", "x")
    assert "Extra files" in ask(model_signing, *verify, signed.folder / keys.PUBLIC, out).stderr


@pytest.mark.services
def test_what_the_public_tool_signs_is_good_here(model_signing: str, signed: Signed, tmp_path: Path) -> None:
    out = signed.store.checkout(signed.newer.digest, tmp_path / "out")
    made = tmp_path / "theirs.sig"
    done = ask(model_signing, "sign", "key", "--signature", made, "--private_key", signed.folder / keys.PRIVATE, out)
    assert done.returncode == 0, done.stderr
    trusted, tree = keys.trusted(signed.folder), signed.store.manifest(signed.newer.digest)
    assert signing.verify_tree(made.read_bytes(), tree, trusted) == signed.key.public.key_id
    with pytest.raises(NotTrusted, match="another tree"):
        signing.verify_tree(made.read_bytes(), signed.store.manifest(signed.older.digest), trusted)
