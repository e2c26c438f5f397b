"""Where a table or a folder of tables lies, and how its bytes are reached. Knows storage options; nothing of logs.

Options are those of delta-rs (``AWS_ENDPOINT_URL``, ``AWS_REGION``, …, in any case): the same mapping opens the log
through delta-rs and the data files through a pyarrow file system.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow.fs as pafs

from rayplat.errors import InvalidInput

_UNSAFE = "allow_unsafe_rename"


@dataclass(frozen=True)
class Place:
    """A folder: a local path or a URI such as ``s3://bucket/tables``. Can be sent to workers; its text shows no
    options, because they hold secrets."""

    uri: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, uri: str, options: Mapping[str, str] | None = None) -> Place:
        """Raises `InvalidInput` for an option that would lose commits."""
        for name, value in (options or {}).items():
            if _UNSAFE in name.lower() and str(value).lower() in ("true", "1", "yes"):
                raise InvalidInput("storage_options", f"{name} loses commits of concurrent writers; leave it out")
        local = uri.removeprefix("file://") if uri.startswith("file://") else uri
        path = uri if "://" in local else os.path.abspath(local)
        return cls(path.rstrip("/"), tuple(sorted((str(k), str(v)) for k, v in (options or {}).items())))

    @property
    def name(self) -> str:
        """The last part of the path: a table's name."""
        return self.uri.rpartition("/")[2]

    @property
    def storage_options(self) -> dict[str, str] | None:
        """As delta-rs takes them."""
        return dict(self.options) or None

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system; one per process, place and options."""
        return _opened(self.uri.partition("://")[0] if "://" in self.uri else "", self.uri, self.options)

    @property
    def root(self) -> str:
        """The folder as the file system knows it."""
        return inside(self.uri)

    def under(self, name: str) -> Place:
        """The folder ``name`` in this one."""
        return Place(f"{self.uri}/{name}", self.options)

    def resolve(self, path: str) -> str:
        """The path, as the file system knows it, of a data file that the log calls ``path`` (relative or absolute)."""
        return inside(path) if is_absolute(path) else f"{self.root}/{path}"


def is_absolute(path: str) -> bool:
    return "://" in path or path.startswith(("/", "file:"))


def inside(uri: str) -> str:
    """``uri`` without its scheme."""
    if uri.startswith("file:"):
        return "/" + uri.removeprefix("file:").lstrip("/")
    return uri.partition("://")[2] if "://" in uri else uri


def _opened(scheme: str, uri: str, options: tuple[tuple[str, str], ...]) -> pafs.FileSystem:
    if scheme in ("s3", "s3a"):
        return _s3(options)
    return pafs.LocalFileSystem() if not scheme else _other(uri)


@lru_cache(maxsize=32)
def _other(uri: str) -> pafs.FileSystem:
    found, _ = pafs.FileSystem.from_uri(uri)
    return found


@lru_cache(maxsize=32)
def _s3(options: tuple[tuple[str, str], ...]) -> pafs.FileSystem:
    """What delta-rs is told, told to pyarrow. Without keys both look where AWS clients look (environment, roles)."""
    given = {k.lower().removeprefix("aws_"): v for k, v in options}

    def one(*names: str) -> str | None:
        return next((given[name] for name in names if name in given), None)

    def flag(name: str) -> bool:
        return str(given.get(name, "false")).lower() in ("true", "1", "yes")

    endpoint = one("endpoint_url", "endpoint_url_s3", "endpoint") or os.environ.get("AWS_ENDPOINT_URL")
    scheme = "http" if (endpoint or "").startswith("http://") else "https"
    if scheme == "http" and not flag("allow_http") and os.environ.get("AWS_ALLOW_HTTP", "").lower() != "true":
        raise InvalidInput("storage_options", f"{endpoint} is not encrypted; allow it with AWS_ALLOW_HTTP=true")
    return pafs.S3FileSystem(
        access_key=one("access_key_id"),
        secret_key=one("secret_access_key"),
        session_token=one("session_token", "token"),
        region=one("region", "default_region"),
        anonymous=flag("skip_signature"),
        scheme=scheme,
        endpoint_override=endpoint.partition("://")[2].rstrip("/") if endpoint else None,
        force_virtual_addressing=flag("virtual_hosted_style_request"),
        allow_bucket_creation=False,
    )
