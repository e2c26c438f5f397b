"""The contract of the store on a real S3 service, and what only S3 has to promise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from rayplat.artifacts.gc import gc
from rayplat.artifacts.places import s3 as s3_place
from rayplat.artifacts.places.place import TEMPORARY, object_name
from rayplat.artifacts.places.s3 import S3Place
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import InvalidInput, Unavailable
from tests.artifacts.store_contract import StoreContract, names, overwrite, replaced
from tests.servers import S3, free_port

_NUMBERS = itertools.count()
PART = 5 << 20  # the least that S3 takes for a part that is not the last


def opened(s3: S3, **options: str) -> ArtifactStore:
    return ArtifactStore(f"{s3.uri}/artifacts-{next(_NUMBERS)}", {**s3.options, **options})


@pytest.mark.services
class TestS3(StoreContract):
    @pytest.fixture
    def store(self, s3: S3) -> ArtifactStore:  # type: ignore[override]
        return opened(s3)


@pytest.fixture
def store(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArtifactStore]:
    monkeypatch.setattr(s3_place, "PART", PART)
    return opened(s3)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Three whole parts and a tail."""
    file = tmp_path / "large"
    file.write_bytes(b"".join(bytes([n]) * PART for n in range(3)) + b"tail")
    return file


@pytest.mark.services
def test_an_interrupted_large_upload_goes_on_from_the_parts_that_arrived(
    store: ArtifactStore, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = S3Place._part

    def breaks(self: S3Place, digest: str, upload: str, part: dict[str, int], content: bytes) -> None:
        if part["PartNumber"] == 3:
            raise Unavailable("the artifact store", "the line is cut")
        real(self, digest, upload, part, content)

    with monkeypatch.context() as patch:
        patch.setattr(S3Place, "_part", breaks)
        with pytest.raises(Unavailable, match="the line is cut"):
            store.put_file(large, "model")
    assert len(names(store.place, TEMPORARY)) == 1
    ref = store.put_file(large, "model")
    assert ref.size_bytes == 3 * PART + 4
    assert PART <= ref.new_bytes <= PART + 4  # the tail may have arrived
    assert store.get_file(ref.digest, tmp_path / "copy").read_bytes() == large.read_bytes()
    assert store.put_file(large, "model").new_bytes == 0
    assert names(store.place, TEMPORARY) == []


@pytest.mark.services
def test_parts_of_something_else_are_sent_again(store: ArtifactStore, large: Path) -> None:
    digest = ArtifactStore(large.parent / "aside").put_file(large, "model").digest
    place = store.place
    assert isinstance(place, S3Place)
    upload, _ = place._upload(digest)
    place._part(digest, upload, {"PartNumber": 1}, b"\xff" * PART)
    assert store.put_file(large, "model").new_bytes == large.stat().st_size
    assert store.verify(digest).intact


@pytest.mark.services
def test_a_large_file_that_changes_meanwhile_is_refused(
    store: ArtifactStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = S3Place._upload

    def changes(self: S3Place, digest: str) -> object:
        large.write_bytes(b"x" * large.stat().st_size)
        return real(self, digest)

    monkeypatch.setattr(S3Place, "_upload", changes)
    with pytest.raises(InvalidInput, match="changed while it was stored"):
        store.put_file(large, "model")
    assert names(store.place, TEMPORARY) == names(store.place, "objects/") == []


@pytest.mark.services
def test_writers_of_one_large_file_at_once_end_in_one_object(store: ArtifactStore, large: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        refs = list(pool.map(lambda _: store.put_file(large, "model"), range(3)))
    assert len(set(refs)) == 1
    assert names(store.place, "objects/") == [object_name(refs[0].digest)]
    assert store.verify().intact


@pytest.mark.services
def test_unfinished_uploads_are_ended_when_nobody_goes_on_with_them(store: ArtifactStore, large: Path) -> None:
    digest = ArtifactStore(large.parent / "aside").put_file(large, "model").digest
    assert isinstance(store.place, S3Place)
    store.place._upload(digest)
    now = [store.timing.now()]
    store = ArtifactStore.on(store.place, replaced(store, now))
    gc(store, dict, timedelta(hours=1), dry_run=False)
    assert len(names(store.place, TEMPORARY)) == 1
    now[0] += 3600 + 900 + 60
    gc(store, dict, timedelta(hours=1), dry_run=False)
    assert names(store.place, TEMPORARY) == []


@pytest.mark.services
def test_a_damaged_object_of_the_same_size_is_named_by_verify(store: ArtifactStore) -> None:
    ref = store.put_bytes(b"hello", "note")
    overwrite(store.place, ref.digest, b"hellO")
    assert [p.reason.split(":")[0] for p in store.verify().problems] == ["damaged"]


@pytest.mark.services
def test_refusals_of_the_service_say_what_to_do(s3: S3) -> None:
    with pytest.raises(Unavailable, match="refuses these keys"):
        opened(s3, AWS_ACCESS_KEY_ID="nobody").put_bytes(b"x", "note")
    with pytest.raises(Unavailable, match="there is no bucket 'nowhere'; make it"):
        ArtifactStore("s3://nowhere/x", s3.options).verify()


def test_a_service_that_is_not_there_is_one_clear_error() -> None:
    options = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "aws_allow_http": "true",
    }
    store = ArtifactStore("s3://bucket/x", options)
    for ask in (lambda: store.put_bytes(b"x", "note"), lambda: store.get_bytes("sha256:" + "0" * 64), store.verify):
        with pytest.raises(Unavailable, match=r"cannot be reached.*check AWS_ENDPOINT_URL and the network"):
            ask()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"AWS_ENDPOINT": "https://x"}, "'aws_endpoint' is none of AWS_ACCESS_KEY_ID, "),
        ({"AWS_ENDPOINT_URL": "http://x"}, "not encrypted: say AWS_ALLOW_HTTP=true"),
        ({"AWS_ENDPOINT_URL": "no url", "AWS_REGION": "us-east-1"}, "cannot be used"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        ArtifactStore("s3://bucket/x", options)
