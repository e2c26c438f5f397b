"""Objects in a bucket of an S3 service that keeps conditional writes (``If-None-Match: *``) and lists what was written.

A large object goes up in parts; an upload that was interrupted goes on from the parts that arrived. Unfinished uploads
are listed under ``tmp/``, so that garbage collection ends those nobody goes on with.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from rayplat.artifacts.places.place import CHUNK, TEMPORARY, Added, Found, Source, Stream, object_name
from rayplat.artifacts.sources import regular
from rayplat.errors import InvalidInput, NotFound, Unavailable

log = logging.getLogger(__name__)

PART = 16 << 20
"""Bytes of one part, and the size up to which an object goes up in one request."""

_MOST_PARTS = 10_000
_ATTEMPTS = 5
_PARTS_AT_ONCE = 3
_SEPARATOR = "?upload="
_OPTIONS = {
    "aws_endpoint_url": "endpoint_url",
    "aws_access_key_id": "aws_access_key_id",
    "aws_secret_access_key": "aws_secret_access_key",
    "aws_session_token": "aws_session_token",
    "aws_region": "region_name",
}
_SWITCHES = {"aws_allow_http", "aws_virtual_hosted_style_request"}
_TABLES_ONLY = {"aws_conditional_put", "aws_s3_allow_unsafe_rename", "timeout", "connect_timeout", "conditional_put"}
Keep = Callable[[], None]
_Parts = list[dict[str, Any]]


class S3Place:
    """A `Place` below ``prefix`` in ``bucket``.

    ``options`` are named like the tables' (in any case): AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN, AWS_REGION, AWS_ALLOW_HTTP and AWS_VIRTUAL_HOSTED_STYLE_REQUEST (``true`` or ``false``). Keys
    that are not given come from where boto3 looks for them. Raises `InvalidInput` for other options.
    """

    parallel = 8

    def __init__(self, bucket: str, prefix: str, options: Mapping[str, str]) -> None:
        self._bucket, self._prefix = bucket, prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._url = f"s3://{bucket}/{self._prefix}".rstrip("/")
        self._client: Any = _client(self._url, {key.lower(): value for key, value in options.items()})

    def add(self, sources: Iterable[Source], keep: Keep) -> list[Added]:
        added: list[Added | Future[Added]] = []
        running: deque[Future[Added]] = deque()
        with ThreadPoolExecutor(self.parallel, "rayplat-upload") as pool:
            try:
                for source in sources:
                    keep()
                    if isinstance(source, Path) and _size(source) > PART:
                        added.append(self._large(source, keep, pool))
                        continue
                    while len(running) >= 2 * self.parallel:
                        running.popleft().result()
                    running.append(pool.submit(self._small, source))
                    added.append(running[-1])
                found = []
                for one in added:
                    keep()
                    found.append(one.result() if isinstance(one, Future) else one)
                return found
            finally:
                for left in running:
                    left.cancel()

    def write(self, name: str, content: bytes, durable: bool = True) -> None:  # noqa: ARG002 - S3 is always durable
        with self._calls():
            self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=content)

    def open(self, name: str) -> Stream:
        with self._calls(name):
            found = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
        return _Body(found["Body"], self)

    def size(self, name: str) -> int | None:
        try:
            with self._calls(name):
                found = self._client.head_object(Bucket=self._bucket, Key=self._key(name))
        except NotFound:
            return None
        return int(found["ContentLength"])

    def list(self, prefix: str) -> Iterator[Found]:
        if prefix == TEMPORARY:
            for upload in self._uploads(""):
                name = upload["Key"].removeprefix(self._prefix)
                at = upload["Initiated"].timestamp()
                yield Found(f"{TEMPORARY}{name}{_SEPARATOR}{upload['UploadId']}", 0, at)
            return
        with self._calls():
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._key(prefix)):
                for entry in page.get("Contents", ()):
                    name = entry["Key"].removeprefix(self._prefix)
                    yield Found(name, int(entry["Size"]), entry["LastModified"].timestamp())

    def delete(self, name: str) -> None:
        key, separator, upload = self._key(name.removeprefix(TEMPORARY)).partition(_SEPARATOR)
        with suppress(NotFound), self._calls(name):
            if separator:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
            else:
                self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    # --- one object ---------------------------------------------------------------------------------

    def _small(self, source: Source) -> Added:
        executable = False
        if isinstance(source, Path):
            with regular(source) as file:
                executable = bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR)
                content = file.read()
        else:
            content = source
        hashed = hashlib.sha256(content)
        digest = "sha256:" + hashed.hexdigest()
        if self.size(object_name(digest)) == len(content):
            return Added(digest, len(content), executable, 0)
        checksum = base64.b64encode(hashed.digest()).decode()
        new = self._conditionally(digest, len(content), self._client.put_object, Body=content, ChecksumSHA256=checksum)
        return Added(digest, len(content), executable, len(content) if new else 0)

    def _conditionally(self, digest: str, size: int, send: Callable[..., Any], **arguments: Any) -> bool:
        """Make the object exist; False where somebody else has just done so. One of a wrong size is replaced."""
        from botocore.exceptions import ClientError

        name = object_name(digest)
        condition = {"IfNoneMatch": "*"}
        for _ in range(_ATTEMPTS):
            with self._calls(name):
                try:
                    send(Bucket=self._bucket, Key=self._key(name), **condition, **arguments)
                    return True
                except ClientError as e:
                    if _status(e) not in (409, 412):
                        raise
            found = self.size(name)
            if found == size:
                return False
            if found is not None:
                log.warning("artifact %s in %s has a wrong size (%d) and is written anew", digest, self._url, found)
                condition = {}
        raise Unavailable("the artifact store", f"{self._url} refuses {digest} without a reason; repeat the call")

    def _large(self, path: Path, keep: Keep, pool: ThreadPoolExecutor) -> Added:
        with regular(path) as file:
            about = os.fstat(file.fileno())
            executable, size = bool(about.st_mode & stat.S_IXUSR), about.st_size
            hashed = hashlib.sha256()
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
                keep()
            digest = "sha256:" + hashed.hexdigest()
            for _ in range(_ATTEMPTS):
                if self.size(object_name(digest)) == size:
                    return Added(digest, size, executable, 0)
                try:
                    return Added(digest, size, executable, self._in_parts(file, digest, size, keep, pool))
                except NotFound:  # somebody else has completed the upload that this one went on with
                    continue
        raise Unavailable("the artifact store", f"others end the upload of {digest} again and again; repeat it")

    def _in_parts(self, file: FileIO, digest: str, size: int, keep: Keep, pool: ThreadPoolExecutor) -> int:
        """Send what has not arrived yet; how many bytes. Raises `NotFound` when the upload is gone."""
        upload, there = self._upload(digest)
        part_size = max(PART, -(-size // _MOST_PARTS))
        hashed, written = hashlib.sha256(), 0
        parts = _Parts()
        sending: deque[Future[None]] = deque()
        file.seek(0)
        while chunk := _whole(file, part_size):
            keep()
            hashed.update(chunk)
            number, tag = len(parts) + 1, f'"{hashlib.md5(chunk, usedforsecurity=False).hexdigest()}"'
            parts.append({"PartNumber": number, "ETag": tag})
            if there.get(number) == (tag, len(chunk)):
                continue
            while len(sending) >= _PARTS_AT_ONCE:
                sending.popleft().result()
            sending.append(pool.submit(self._part, digest, upload, parts[-1], chunk))
            written += len(chunk)
        while sending:
            sending.popleft().result()
            keep()
        if "sha256:" + hashed.hexdigest() != digest:
            self.delete(f"{TEMPORARY}{object_name(digest)}{_SEPARATOR}{upload}")
            raise InvalidInput("file", f"{file.name!r} changed while it was stored; repeat it when it is complete")
        complete = self._client.complete_multipart_upload
        if not self._conditionally(digest, size, complete, UploadId=upload, MultipartUpload={"Parts": parts}):
            self.delete(f"{TEMPORARY}{object_name(digest)}{_SEPARATOR}{upload}")
        return written

    def _part(self, digest: str, upload: str, part: dict[str, Any], content: bytes) -> None:
        """Send one part, and note the tag that the service gave it (not everywhere the MD5)."""
        number, key = part["PartNumber"], self._key(object_name(digest))
        with self._calls():
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=content
            )
        part["ETag"] = answer["ETag"]

    def _upload(self, digest: str) -> tuple[str, dict[int, tuple[str, int]]]:
        """The upload to go on with, and (tag, size) of the parts that have arrived."""
        key = self._key(object_name(digest))
        begun = [upload for upload in self._uploads(object_name(digest)) if upload["Key"] == key]
        with self._calls():
            if not begun:
                return self._client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"], {}
            upload = max(begun, key=lambda u: (u["Initiated"], u["UploadId"]))["UploadId"]
            pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload)
            parts = [part for page in pages for part in page.get("Parts", ())]
        return upload, {part["PartNumber"]: (part["ETag"], int(part["Size"])) for part in parts}

    def _uploads(self, prefix: str) -> Sequence[Mapping[str, Any]]:
        with self._calls():
            pages = self._client.get_paginator("list_multipart_uploads")
            found = pages.paginate(Bucket=self._bucket, Prefix=self._key(prefix))
            return [upload for page in found for upload in page.get("Uploads", ())]

    def _key(self, name: str) -> str:
        return self._prefix + name

    @contextmanager
    def _calls(self, name: str = "") -> Iterator[None]:
        """What S3 answers, as our errors with what to do."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as e:
            code, status = str(e.response.get("Error", {}).get("Code", "")), _status(e)
            if code == "NoSuchBucket":
                reason = f"there is no bucket {self._bucket!r}; make it, or correct artifacts.root"
            elif status == 404:
                raise NotFound("object", name or self._url) from None
            elif status in (401, 403):
                reason = f"{self._url} refuses these keys ({code}); check AWS_ACCESS_KEY_ID and what it may do there"
            else:
                reason = f"{self._url} answers {status} {code}; repeat the call, and look at the service if that stays"
            raise Unavailable("the artifact store", reason) from e
        except (BotoCoreError, OSError) as e:
            reason = f"{self._url} cannot be reached ({type(e).__name__}); check AWS_ENDPOINT_URL and the network"
            raise Unavailable("the artifact store", f"{reason}, then repeat the call: it goes on where it was") from e


class _Body:
    """The answer's bytes, its breaks told like those of any other call."""

    def __init__(self, body: Any, place: S3Place) -> None:
        self._body, self._place = body, place

    def read(self, size: int = -1, /) -> bytes:
        from urllib3.exceptions import HTTPError

        with self._place._calls():
            try:
                return bytes(self._body.read(None if size < 0 else size))
            except HTTPError as e:
                raise ConnectionError(str(e)) from e

    def close(self) -> None:
        self._body.close()


def _client(url: str, options: dict[str, str]) -> Any:
    known = {*_OPTIONS, *_SWITCHES, *_TABLES_ONLY}
    unknown = sorted(set(options) - known)
    if unknown:
        names = ", ".join(sorted(name.upper() for name in {*_OPTIONS, *_SWITCHES}))
        raise InvalidInput("artifacts.storage_options", f"{unknown[0]!r} is none of {names}")
    endpoint = options.get("aws_endpoint_url", "")
    if endpoint.startswith("http://") and options.get("aws_allow_http", "false").lower() != "true":
        raise InvalidInput(
            "artifacts.storage_options", f"{endpoint} is not encrypted: say AWS_ALLOW_HTTP=true to use it"
        )
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    hosted = options.get("aws_virtual_hosted_style_request", "false" if endpoint else "true").lower() == "true"
    config = Config(
        connect_timeout=5,
        read_timeout=20,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=16,
        s3={"addressing_style": "virtual" if hosted else "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    given = {_OPTIONS[key]: value for key, value in options.items() if key in _OPTIONS and value}
    try:
        return boto3.session.Session().client("s3", config=config, **given)
    except (BotoCoreError, ValueError) as e:
        raise InvalidInput("artifacts.storage_options", f"{url} cannot be used with them: {e}") from e


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _size(path: Path) -> int:
    with regular(path) as file:
        return os.fstat(file.fileno()).st_size


def _whole(file: FileIO, size: int) -> bytes:
    """``size`` bytes, fewer only at the end."""
    parts: list[bytes] = []
    while size and (chunk := file.read(size)):
        parts.append(chunk)
        size -= len(chunk)
    return b"".join(parts)
