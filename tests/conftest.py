"""Fixtures shared by all tests: settings in a temporary home, the session's Ray cluster."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from rayplat import settings as settings_module
from rayplat.platform import processes, ray_node
from rayplat.platform.state import new_state, prepare_home, secret_file
from rayplat.serve.deployment.flags import SERVE_ENV
from rayplat.settings import Settings
from tests.servers import S3, postgres_server, redis_server, s3_server

# Read by Ray, whylogs and MLflow when they are imported: so before any test imports them.
_HOME = Path(tempfile.mkdtemp(prefix="rp-")) / "home"
atexit.register(shutil.rmtree, _HOME.parent, ignore_errors=True)
prepare_home(_HOME)
secret_file(ray_node.token_file(_HOME), secrets.token_hex(32))
os.environ.update(SERVE_ENV)
os.environ.update(ray_node.auth_env(_HOME))
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP="1",  # this process calls handles from plain threads
    WHYLOGS_NO_ANALYTICS="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    GIT_PYTHON_REFRESH="quiet",
    FEAST_USAGE="False",
)

# The same examples in every run, and no limit on the time of one: a busy machine is no defect.
hypothesis_settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis_settings.load_profile("suite")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Half characters that a model wrote into the log are spelled out: a report with them kills xdist's worker."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a home that no other test knows."""
    home = tmp_path / "home"
    prepare_home(home)
    return settings_module.load(home, environ={})


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's and the registry's tables, made once: MLflow's migrations take seconds. Copy it."""
    from rayplat.registry.record.database import Record

    file = tmp_path_factory.mktemp("registry") / "empty.db"
    Record(f"sqlite:///{file}").close()
    return file


@pytest.fixture(scope="session")
def _head() -> Iterator[tuple[Path, str]]:
    """One local head for the whole session: 2 CPUs, the platform's resource and flags, a token of its own."""
    settings = settings_module.load(
        _HOME,
        environ={},
        ray={"num_cpus": 2, "object_store_bytes": 512 << 20, "gcs_port": 6700, "dashboard_port": 8700},
    )
    mark = new_state().mark
    separate = os.environ.pop("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP")  # this process's affair: no host runs so
    try:
        address, _ = ray_node.start_head(settings, mark)
        os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = separate
        yield _HOME, address
    finally:
        import ray

        ray.shutdown()
        processes.end_marked(mark)


@pytest.fixture
def ray_cluster(_head: tuple[Path, str]) -> str:
    """The session's cluster, with this process connected to it in the namespace ``rayplat``. Its address."""
    home, address = _head
    ray_node.connect(home, address)
    return address


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis server of this session."""
    with redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """An empty PostgreSQL database of this session."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A bucket on an S3 server of this session."""
    with s3_server() as found:
        yield found
