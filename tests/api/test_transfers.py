"""Artifacts over HTTP: sent in parts, fetched and checked, resumed; what breaks a rule is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from rayplat.errors import AlreadyExists, Conflict, Corrupt, InvalidInput, NotFound
from rayplat.services import spool, transfer
from rayplat.services.artifacts import Artifacts
from rayplat.services.remote import remote
from rayplat.types import Role
from tests.api.conftest import Served


@pytest.fixture(params=["local", "remote"])
def artifacts(served: Served, request: pytest.FixtureRequest) -> Any:
    return Artifacts(served.context) if request.param == "local" else over_http(served)


def over_http(served: Served, role: Role = Role.ADMIN) -> Any:
    http = served.http(role)
    http.base_url = f"{served.url}/api/v1"
    return remote(Artifacts, http)


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_a_file_there_and_back(artifacts: Any, tmp_path: Path) -> None:
    content = os.urandom(1000)
    (tmp_path / "plot.png").write_bytes(content)
    made = artifacts.put(tmp_path / "plot.png", "plot", "run1")
    assert (made.digest, made.kind, made.size_bytes, made.run_id) == (digest_of(content), "plot", 1000, "run1")
    assert made in artifacts.list(run_id="run1")
    assert artifacts.show(made.digest).files == ()
    assert artifacts.get(made.digest, tmp_path / "back.png").read_bytes() == content
    assert artifacts.verify(made.digest).problems == ()


def test_a_tree_there_and_back(artifacts: Any, tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "data").mkdir(parents=True)
    (source / "data" / "weights").write_bytes(os.urandom(5000))
    (source / "empty").write_bytes(b"")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    made = artifacts.put(source, "model")
    assert made == artifacts.put(source, "model")
    shown = artifacts.show(made.digest)
    assert [f.path for f in shown.files] == ["data/weights", "empty", "run.sh"]
    assert [f.executable for f in shown.files] == [False, False, True]
    back = artifacts.get(made.digest, tmp_path / "back")
    for file in shown.files:
        assert (back / file.path).read_bytes() == (source / file.path).read_bytes()
    assert os.access(back / "run.sh", os.X_OK)
    with pytest.raises(AlreadyExists):
        artifacts.get(artifacts.put(source / "empty").digest, back)


def test_what_no_tree_may_hold(artifacts: Any, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to("/etc/hostname")
    with pytest.raises(InvalidInput, match="link"):
        artifacts.put(tmp_path / "tree", "model")
    with pytest.raises(NotFound):
        artifacts.put(tmp_path / "nothing", "model")
    with pytest.raises(NotFound):
        artifacts.get(digest_of(b"never stored"), tmp_path / "x")
    with pytest.raises(InvalidInput, match="digest"):
        artifacts.show("sha256:short")


def test_pins(artifacts: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(10))
    digest = artifacts.put(tmp_path / "a").digest
    pin = artifacts.pin(digest, "evidence in a review")
    assert artifacts.pins(digest) == (pin,)
    assert artifacts.unpin(digest) is None
    assert artifacts.pins(digest) == ()
    with pytest.raises(NotFound):
        artifacts.unpin(digest)
    with pytest.raises(NotFound):
        artifacts.pin(digest_of(b"never stored"), "why not")


def test_only_what_is_missing_is_sent(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 400)
    content = os.urandom(1000)
    (tmp_path / "a").write_bytes(content)
    client = over_http(served)
    digest, sent = digest_of(content), []
    real = transfer.request
    monkeypatch.setattr(transfer, "request", lambda *a, **k: sent.append(k.get("params")) or real(*a, **k))
    client.put(tmp_path / "a")
    assert sent == [None, *({"offset": at, "size": 1000} for at in (0, 400, 800))]
    sent.clear()
    assert client.put(tmp_path / "a").digest == digest
    assert sent == []


def test_an_upload_goes_on_where_it_ended(served: Served, tmp_path: Path) -> None:
    content = os.urandom(1000)
    (tmp_path / "a").write_bytes(content)
    digest = digest_of(content)
    with served.http() as http:
        where = f"/api/v1/transfers/{digest}"
        typed = {"Content-Type": "application/octet-stream"}
        first = http.put(where, params={"offset": 0, "size": 1000}, content=content[:300], headers=typed)
        assert first.json() == {"digest": digest, "received": 300, "stored": False}
        again = http.put(where, params={"offset": 0, "size": 1000}, content=content[:300], headers=typed)
        assert again.status_code == 409
        plain = http.put(where, params={"offset": 300, "size": 1000}, content=b"x")
        assert plain.status_code == 400
        assert "octet-stream" in plain.json()["error"]
        large = http.put(
            where, params={"offset": 300, "size": 1 << 30}, content=b"x" * (spool.PART_BYTES + 1), headers=typed
        )
        assert large.status_code == 413
        assert http.get(where).json()["received"] == 300
    assert over_http(served).put(tmp_path / "a").digest == digest


def test_an_upload_that_is_something_else_is_thrown_away(served: Served) -> None:
    wanted = digest_of(b"wanted")
    artifacts = Artifacts(served.context)
    with pytest.raises(Corrupt):
        artifacts.receive(wanted, 0, 6, b"forged")
    assert artifacts.progress(wanted) == artifacts.progress(wanted)
    assert (artifacts.progress(wanted).received, artifacts.progress(wanted).stored) == (0, False)
    with pytest.raises(NotFound):
        artifacts.add_file(wanted, "file")
    with pytest.raises(Conflict):
        artifacts.receive(wanted, 3, 6, b"ted")


def test_a_download_goes_on_where_it_ended(served: Served, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(content)
    digest = Artifacts(served.context).put(tmp_path / "a").digest
    with served.http() as http:
        assert (
            http.get(f"/api/v1/transfers/{digest}/bytes", params={"offset": 2_000_000}).content == content[2_000_000:]
        )
        assert http.get(f"/api/v1/transfers/{digest}/bytes", params={"offset": len(content)}).content == b""
        assert http.get(f"/api/v1/transfers/{digest_of(b'never stored')}/bytes").status_code == 404
    part = tmp_path / f".back.{digest[7:19]}.part"
    part.write_bytes(content[:1_000_000])
    assert over_http(served).get(digest, tmp_path / "back").read_bytes() == content
    assert not part.exists()
    part.with_name(f".other.{digest[7:19]}.part").write_bytes(b"something else")
    with pytest.raises(Corrupt):
        over_http(served).get(digest, tmp_path / "other")
