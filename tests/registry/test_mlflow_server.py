"""A real MLflow server as the platform starts it, and a plain client over HTTP: what is refused, what works."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from rayplat import settings as settings_module
from rayplat.artifacts.store import ArtifactStore
from rayplat.platform import mlflow_server, processes
from rayplat.platform.state import new_state, prepare_home
from rayplat.registry.adopt import MlflowSource, adopt
from rayplat.registry.local import LocalRegistry
from rayplat.registry.record import versions
from rayplat.registry.record.database import Defaults, Record
from rayplat.settings import Settings
from tests.registry.desk import MLFLOW_ALIASES, MODEL, ROOT, Desk
from tests.servers import free_port


@dataclass(frozen=True)
class Served:
    """A platform's MLflow server, and the record behind it."""

    settings: Settings
    url: str
    desk: Desk

    @property
    def client(self) -> Any:
        from rayplat.tracking import prepare_mlflow

        prepare_mlflow()
        from mlflow import MlflowClient

        return MlflowClient(self.url, self.url)


@pytest.fixture(scope="module")
def served(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("mlflow-server") / "home"
    prepare_home(home)
    shutil.copy(empty_database, home / "rayplat.db")
    settings = settings_module.load(home, environ={}, mlflow={"port": free_port()})
    record = Record(settings.database_url, defaults=Defaults(settings.artifacts_root))
    desk = Desk(record)
    for n in (1, 2):
        desk.register(n)
    desk.move(1)
    mark = new_state().mark
    pid, url = mlflow_server.start(settings, mark, set())
    try:
        mlflow_server.wait(settings, pid, url, mark, timeout_s=180)
        yield Served(settings, url, desk)
    finally:
        processes.end([psutil.Process(pid), *psutil.Process(pid).children(recursive=True)])
        record.close()


@pytest.mark.services
def test_a_plain_client_is_refused_over_http_and_told_what_to_do(served: Served) -> None:
    from mlflow.exceptions import MlflowException

    client = served.client
    attempts = {
        "rayplat promote flight-delay 2 champion": lambda: client.set_registered_model_alias(MODEL, "champion", "2"),
        "rayplat rollback": lambda: client.delete_registered_model_alias(MODEL, "champion"),
        "alias 'champion'": lambda: client.delete_model_version(MODEL, "1"),
        "in use by": lambda: client.delete_registered_model(MODEL),
        "registered in rayplat's record": lambda: client.rename_registered_model(MODEL, "other"),
        "aliases and no stages": lambda: client.transition_model_version_stage(MODEL, "2", "Production"),
        "written by the record": lambda: client.set_model_version_tag(MODEL, "1", "rayplat.digest", "forged"),
    }
    for words, attempt in attempts.items():
        with pytest.raises(MlflowException, match=words) as info:
            attempt()
        assert info.value.error_code == "PERMISSION_DENIED"
    assert served.desk.rows(MLFLOW_ALIASES) == [(MODEL, "champion", 1)]
    assert client.get_model_version_by_alias(MODEL, "champion").version == "1"


@pytest.mark.services
def test_a_plain_client_works_on_its_own_models_and_runs(served: Served, tmp_path: Path) -> None:
    client = served.client
    run = client.create_run(client.create_experiment("plain"))
    client.log_text(run.info.run_id, "hello", "notes/a.txt")
    client.log_dict(run.info.run_id, {"a": 1}, "b.json")
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["b.json", "notes"]
    assert Path(client.download_artifacts(run.info.run_id, "notes/a.txt", str(tmp_path))).read_text() == "hello"
    names = Path(served.settings.artifacts_root) / "refs" / run.info.experiment_id / run.info.run_id / "artifacts"
    assert (names / "notes" / "a.txt").is_file(), "what runs log lies in the artifact store"
    assert ArtifactStore(served.settings.artifacts_root).put_bytes(b"hello", "x").new_bytes == 0
    client.create_registered_model("mine")
    client.create_model_version("mine", f"runs:/{run.info.run_id}/notes", run.info.run_id)
    client.set_registered_model_alias("mine", "champion", "1")
    assert client.get_model_version_by_alias("mine", "champion").version == "1"
    client.delete_registered_model("mine")


@pytest.mark.services
@pytest.mark.parametrize("path", ["../x", "%2e%2e/x", "a/../../x"])
def test_no_path_leads_out_of_the_store_over_http(served: Served, path: str, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    client = served.client
    run = client.create_run(client.create_experiment(f"out {path}"))
    with pytest.raises((MlflowException, HTTPError), match=r"Invalid|invalid"):
        client.log_text(run.info.run_id, "x", path + "/y.txt")
    with pytest.raises((MlflowException, HTTPError)):
        client.download_artifacts(run.info.run_id, path, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_home_of_an_earlier_release_keeps_its_files(settings: Settings) -> None:
    assert mlflow_server.artifacts_destination(settings) == f"cas://{settings.artifacts_root}"
    (settings.home / "mlflow").mkdir()
    assert mlflow_server.artifacts_destination(settings) == (settings.home / "mlflow").as_uri()


@pytest.mark.services
def test_a_registry_is_imported_from_a_server(served: Served, empty_database: Path, tmp_path: Path) -> None:
    client = served.client
    run = client.create_run(client.create_experiment("theirs"), tags={"mlflow.user": "carol"})
    client.log_text(run.info.run_id, "weights", "model/weights.txt")
    client.log_metric(run.info.run_id, "auc", 0.7)
    client.create_registered_model("theirs")
    client.create_model_version("theirs", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("theirs", "champion", "1")
    shutil.copy(empty_database, tmp_path / "here.db")
    record = Record(f"sqlite:///{tmp_path / 'here.db'}", defaults=Defaults(str(tmp_path / "store")))
    store = ArtifactStore(tmp_path / "store")
    (found,) = adopt(MlflowSource(served.url), LocalRegistry(record), store, by=ROOT, models=["theirs"])
    assert [(v.version, v.new) for v in found.versions] == [(1, True)]
    assert [(a.alias, a.version) for a in found.aliases] == [("champion", 1)]
    version = record.read(lambda c: versions.get(c, "theirs", 1))
    assert (version.author, version.metrics, version.run_id) == ("carol", {"auc": 0.7}, run.info.run_id)
    assert store.get_bytes(store.manifest(version.digest).entries[0].digest) == b"weights"
    record.close()
