"""Plain MLflow code and the platform: it logs into our store and loads from it, registered versions included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplat.artifacts.store import ArtifactStore
from rayplat.registry.candidate import Candidate
from rayplat.registry.record import aliases, drift, versions
from rayplat.registry.record.database import Defaults, Record
from rayplat.settings import Settings
from rayplat.types import AliasHead
from tests.registry.desk import ANN, BOB, HOLDOUT
from tests.serve import tiny

pytestmark = pytest.mark.services  # MLflow's own client, imports and migrations included


@pytest.fixture
def mlflow(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow on a database of its own, as a person sets it up."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(database_url)
    mlflow.set_registry_uri(database_url)
    yield mlflow
    mlflow.set_tracking_uri("")
    mlflow.set_registry_uri("")


@pytest.fixture
def run_id(mlflow: Any, tmp_path: Path) -> Iterator[str]:
    """An active run of an experiment whose files go into a store."""
    experiment = mlflow.create_experiment("plain", artifact_location=f"cas://{tmp_path}/store")
    with mlflow.start_run(experiment_id=experiment) as run:
        yield run.info.run_id


def test_what_a_run_logs_comes_back(mlflow: Any, run_id: str, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    (tmp_path / "plain.txt").write_text("plain")
    mlflow.log_artifact(str(tmp_path / "plain.txt"), "files")
    mlflow.log_text("text", "files/text.txt")
    mlflow.log_dict({"a": [1, 2]}, "a.json")
    mlflow.log_figure(Figure(), "plots/empty.png")
    listed = [(f.path, f.is_dir) for f in mlflow.artifacts.list_artifacts(run_id=run_id)]
    assert listed == [("a.json", False), ("files", True), ("plots", True)]
    assert mlflow.artifacts.load_text(f"runs:/{run_id}/files/text.txt") == "text"
    assert mlflow.artifacts.load_dict(f"runs:/{run_id}/a.json") == {"a": [1, 2]}
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="files"))
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"plain.txt": "plain", "text.txt": "text"}
    everything = Path(mlflow.artifacts.download_artifacts(mlflow.get_artifact_uri()))
    assert (everything / "plots" / "empty.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_grows(mlflow: Any, run_id: str) -> None:
    for n in range(2):
        mlflow.log_table({"question": [f"q{n}"], "answer": [f"a{n}"]}, "table.json")
    experiment = mlflow.get_run(run_id).info.experiment_id
    found = mlflow.MlflowClient().load_table(experiment, "table.json", run_ids=[run_id])
    assert found["question"].tolist() == ["q0", "q1"]


def test_a_logged_model_loads_by_run_and_by_id(mlflow: Any, run_id: str, tmp_path: Path) -> None:
    def plus_one(numbers: list[float]) -> list[float]:
        return [n + 1 for n in numbers]

    logged = mlflow.pyfunc.log_model(name="model", python_model=plus_one, pip_requirements=["mlflow"])
    for uri in (f"runs:/{run_id}/model", f"models:/{logged.model_id}"):
        assert mlflow.pyfunc.load_model(uri).predict([1.0, 2.0]) == [2.0, 3.0]
    assert (tmp_path / "store" / "refs" / "models" / logged.model_id / "artifacts" / "MLmodel").is_file()
    version = mlflow.register_model(logged.model_uri, "plain-model")
    assert mlflow.pyfunc.load_model(f"models:/plain-model/{version.version}").predict([1.0]) == [2.0]


def test_a_deleted_file_is_gone_from_the_run_only(mlflow: Any, run_id: str, tmp_path: Path) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    mlflow.log_text("one", "a/x.txt")
    get_artifact_repository(mlflow.get_artifact_uri()).delete_artifacts("a")
    assert mlflow.artifacts.list_artifacts(run_id=run_id) == []
    assert ArtifactStore(tmp_path / "store").put_bytes(b"one", "x").new_bytes == 0


# --- registered versions -------------------------------------------------------------------------------


@pytest.fixture
def champion(mlflow: Any, database_url: str, settings: Settings) -> str:
    """The digest of a real bundle that was registered, and is the champion."""
    from rayplat import tracking

    store = ArtifactStore.of(settings)
    folder = store.checkout(tiny.put_bundle(settings, 0.25), settings.home / "bundle")
    folder.chmod(0o755)
    tracking.describe_model(folder, "f" * 32)
    digest = store.put_tree(folder, "model").digest
    record = Record(database_url, defaults=Defaults(settings.artifacts_root))
    wanted = Candidate(tiny.MODEL, digest, "f" * 32, HOLDOUT, (), {"auc": 0.7})
    made = record.write(lambda tx: versions.register(tx, wanted, by=ANN))
    head = AliasHead(tiny.MODEL, "champion", made.version, digest, 0, record.now(), BOB.name)
    record.write(lambda tx: aliases.move(tx, head, 0))
    assert record.read(drift.find) == ()
    record.close()
    return digest


def test_plain_mlflow_loads_the_champion_from_our_store(mlflow: Any, champion: str, settings: Settings) -> None:
    import pandas as pd

    rows = pd.DataFrame({"distance": [100.0, 100.0], "carrier": ["UA", "XX"]})
    for uri in (f"models:/{tiny.MODEL}@champion", f"models:/{tiny.MODEL}/1"):
        found = mlflow.pyfunc.load_model(uri).predict(rows)
        assert found["probability"].tolist() == pytest.approx([0.35, 0.45])
    source = mlflow.MlflowClient().get_model_version(tiny.MODEL, "1").source
    assert source == f"cas://{settings.artifacts_root}/trees/{champion}"
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{tiny.MODEL}@champion"))
    assert (folder / "rayplat.json").read_bytes() == ArtifactStore.of(settings).get_bytes(
        next(e.digest for e in ArtifactStore.of(settings).manifest(champion).entries if e.path == "rayplat.json")
    )
    assert Path(mlflow.artifacts.download_artifacts(f"models:/{tiny.MODEL}/1/MLmodel")).is_file()
    assert Path(mlflow.artifacts.download_artifacts(source, dst_path=str(settings.home))).is_dir()


def test_a_champion_whose_bytes_were_changed_does_not_load(mlflow: Any, champion: str, settings: Settings) -> None:
    from mlflow.exceptions import MlflowException

    entries = ArtifactStore.of(settings).manifest(champion).entries
    name = next(e.digest for e in entries if e.path == "data/model.pt2").removeprefix("sha256:")
    file = Path(settings.artifacts_root) / "objects" / "sha256" / name[:2] / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    with pytest.raises(MlflowException, match="damaged"):
        mlflow.pyfunc.load_model(f"models:/{tiny.MODEL}@champion")
