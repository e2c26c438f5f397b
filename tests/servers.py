"""Real servers for tests marked ``services``: PostgreSQL, Redis and an S3 server, each on ports and folders of its
own, started when first asked for and ended by their own process ids. `.ci/services` installs what they need."""

from __future__ import annotations

import glob
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_START_S = 60
_WEED_GRPC = 10_000  # every SeaweedFS port p has a gRPC port p + 10000


@dataclass(frozen=True)
class S3:
    """A bucket on a real S3 server. ``options`` are the ``storage_options`` of tables in it."""

    uri: str
    options: dict[str, str]


@contextmanager
def redis_server(port: int | None = None) -> Iterator[str]:
    """The URL of a Redis server without persistence, on ``port`` or a free one."""
    folder, port = Path(tempfile.mkdtemp(prefix="rp-redis-")), port or free_port()
    program = _program("redis-server")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with _running(command, lambda: _listens(port), folder / "log"):
        yield f"redis://127.0.0.1:{port}/0"
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_server() -> Iterator[str]:
    """The SQLAlchemy-free URL (``postgresql://``) of an empty database. PostgreSQL refuses to run as root: there it
    runs as the user ``postgres``."""
    folder, port = Path(tempfile.mkdtemp(prefix="rp-pg-")), free_port()
    data, user = folder / "data", "postgres" if os.geteuid() == 0 else None
    if user:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    initdb, server = _postgres("initdb"), _postgres("postgres")
    setup = [initdb, "-D", str(data), "-U", "rayplat", "-A", "trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(setup, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
    command = [server, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    command += ["-c", f"unix_socket_directories={folder}"]
    with _running(command, lambda: _answers_sql(port), Path(tempfile.gettempdir()) / f"{folder.name}.log", user):
        yield f"postgresql://rayplat@127.0.0.1:{port}/postgres"
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3_server() -> Iterator[S3]:
    """A bucket ``lake`` on SeaweedFS."""
    folder = Path(tempfile.mkdtemp(prefix="rp-s3-"))
    s3, master, volume, filer = (free_port(_WEED_GRPC) for _ in range(4))
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": "rayplat", "secretKey": "rayplat-secret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [_program("weed"), "-logtostderr=true", "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-s3.config={folder / 's3.json'}", "-bucket=lake", f"-master.port={master}"]
    command += [f"-volume.port={volume}", f"-filer.port={filer}", "-admin.ui=false", "-webdav=false"]
    command += ["-master.telemetry=false"]
    options = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
        "AWS_ACCESS_KEY_ID": "rayplat",
        "AWS_SECRET_ACCESS_KEY": "rayplat-secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
    }
    with _running(command, lambda: _bucket(options), folder / "log"):
        yield S3("s3://lake", options)
    shutil.rmtree(folder, ignore_errors=True)


def free_port(above: int = 0) -> int:
    """A port that is free now, and so is the one ``above`` it."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
        if port + above < 65_536 and not _listens(port + above):
            return port


@contextmanager
def _running(command: Sequence[str], ready: Callable[[], bool], log: Path, user: str | None = None) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, user=user, cwd=log.parent, start_new_session=True
        )
    try:
        until = time.monotonic() + _START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # PostgreSQL: end at once, others: end
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        beside = Path(sys.executable).with_name(name)
        found = str(beside) if beside.exists() else None
    if found is None:
        raise RuntimeError(f"{name} is not installed; run .ci/services")
    return found


def _postgres(name: str) -> str:
    packaged = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return packaged[-1] if packaged else _program(name)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers_sql(port: int) -> bool:
    import psycopg

    try:
        with psycopg.connect(f"postgresql://rayplat@127.0.0.1:{port}/postgres", connect_timeout=2) as db:
            return db.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def _bucket(options: dict[str, str]) -> bool:
    """Whether the bucket is there, asked with the keys: before it is, an unsigned request is refused just the same."""
    import pyarrow.fs as pafs

    s3 = pafs.S3FileSystem(
        access_key=options["AWS_ACCESS_KEY_ID"],
        secret_key=options["AWS_SECRET_ACCESS_KEY"],
        region=options["AWS_REGION"],
        endpoint_override=options["AWS_ENDPOINT_URL"],
        connect_timeout=2,
        request_timeout=2,
    )
    try:
        return bool(s3.get_file_info("lake").type == pafs.FileType.Directory)
    except OSError:
        return False
