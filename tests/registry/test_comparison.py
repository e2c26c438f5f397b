"""Two registered versions side by side: bundles as they are written, and trees of other makers."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import NotFound
from rayplat.registry import comparison, sheet
from rayplat.tracking import Tracking, describe_model
from rayplat.types import Change, FeatureSpec, ModelDiff, ModelSpec, ModelVersion, RunInfo, TableVersion

FLIGHTS = TableVersion("flights", "tables/flights", "id-1", 3, "sha256:" + "1" * 64, "sha256:" + "2" * 64, 100)
MODEL = "flight-delay"
AT = datetime(2026, 1, 1, tzinfo=UTC)


class Runs(Tracking):
    """Tracked runs by id, kept here."""

    def __init__(self, **params: dict[str, str]) -> None:
        super().__init__("unused")
        self._params = params

    def get(self, run_id: str) -> RunInfo:
        if run_id not in self._params:
            raise NotFound("run", run_id)
        metrics: dict[str, float | None] = {"loss": len(run_id) / 10}
        return RunInfo(run_id, "flights", run_id, "FINISHED", AT, AT, self._params[run_id], metrics, {})


def version(number: int, digest: str, **changes: Any) -> ModelVersion:
    made = ModelVersion(
        MODEL, number, digest, "r", "ann", AT, "sha256:" + "d" * 64, (FLIGHTS,), {"auc": 0.7, "rows": 5000.0}
    )
    return replace(made, **changes)


def write(folder: Path) -> None:
    """A real bundle, as `train` leaves it: exported graph and spec."""
    import torch

    from rayplat.artifacts.bundle import write_bundle
    from rayplat.artifacts.encoding import Encoding

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return x.sum(1) * 0.01 + c.sum(1) * 0.01 + 0.1

    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.int64))
    exported = torch.export.export(Net(), example, dynamic_shapes=({0: batch}, {0: batch}))
    spec = ModelSpec(MODEL, "flight", (DISTANCE, CARRIER), {"schedule": "sha256:" + "5" * 64})
    row = {"distance": [1.0], "carrier": ["UA"]}
    write_bundle(folder, exported, spec, Encoding((DISTANCE, CARRIER), (("UA",),)), row)


DISTANCE, CARRIER = FeatureSpec("distance", "numeric"), FeatureSpec("carrier", "categorical")
WIND = FeatureSpec("wind", "numeric", nullable=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArtifactStore, str, str, str]:
    """A store with three bundles: the second has other weights, the third takes other features."""
    root = tmp_path_factory.mktemp("comparison")
    store, digests = ArtifactStore(root / "artifacts"), []
    write(root / "first")
    for n, name in enumerate(("first", "again", "other")):
        folder = root / name
        if n:
            shutil.copytree(root / "first", folder)
            (folder / "data" / "model.pt2").write_bytes(b"other weights")
        if name == "other":
            stored = json.loads((folder / "rayplat.json").read_text())
            features = (replace(DISTANCE, nullable=False), WIND, CARRIER)
            stored["spec"]["features"] = [asdict(f) for f in features]
            stored["example"]["columns"]["wind"] = [1.0]
            (folder / "rayplat.json").write_text(json.dumps(stored))
        describe_model(folder, f"r{n}")
        digests.append(store.put_tree(folder, "model").digest)
    return store, digests[0], digests[1], digests[2]


def tree(store: ArtifactStore, folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return store.put_tree(folder, "model").digest


def names(section: Any) -> dict[str, Change]:
    return {item.name: item.change for item in section}


def test_only_what_differs_between_two_trainings_is_told(pair: tuple[ArtifactStore, str, str, str]) -> None:
    store, first, again, _ = pair
    newer = replace(FLIGHTS, version=5, manifest_digest="sha256:" + "3" * 64, row_count=120)
    a = version(1, first, run_id="r1", pins=(FLIGHTS,))
    b = version(
        2, again, run_id="r2", pins=(newer,), metrics={"auc": 0.75, "rows": 5000.0}, training_set="sha256:" + "e" * 64
    )
    runs = Runs(r1={"lr": "0.1", "seed": "1"}, r2={"lr": "0.2", "seed": "1"})
    found = comparison.diff(a, b, store, runs)
    assert (found.a, found.b, found.notes) == ("flight-delay/1", "flight-delay/2", ())
    assert names(found.identity) == {"digest": Change.CHANGED, "run": Change.CHANGED, "training set": Change.CHANGED}
    assert [(m.name, m.a, m.b, round(m.difference or 0, 6)) for m in found.metrics] == [("auc", 0.7, 0.75, 0.05)]
    assert [(p.name, p.a, p.b) for p in found.params] == [("lr", "0.1", "0.2")]
    assert found.signature == found.environment == ()
    [pin] = found.pins
    assert (pin.table, pin.version_a, pin.version_b, pin.rows_a, pin.rows_b, pin.recreated) == (
        "flights",
        3,
        5,
        100,
        120,
        False,
    )
    roles = {f.path: f.role for f in found.files}
    assert roles["data/model.pt2"] == "weights"
    assert roles["MLmodel"] == "metadata"
    assert "rayplat.json" not in roles
    assert "requirements.txt" not in roles
    assert not found.same_payload


def test_everything_shows_what_is_the_same_too(pair: tuple[ArtifactStore, str, str, str]) -> None:
    store, first, again, _ = pair
    found = comparison.diff(version(1, first), version(2, again), store, None, everything=True)
    assert names(found.signature) == dict.fromkeys(
        ("entity", "feature carrier", "feature distance", "output probability", "view schedule"), Change.SAME
    )
    assert names(found.environment)["torch"] is Change.SAME
    assert {f.path for f in found.files if f.change is Change.SAME} >= {"requirements.txt", "input_example.json"}
    assert comparison.only_differences(found) == comparison.diff(version(1, first), version(2, again), store, None)


def test_digests_of_what_a_version_consists_of_are_compared(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    digest = tree(store, tmp_path / "m", weights="x")
    a = version(1, digest, format="onnx", code_digest="sha256:1", env_digest="sha256:2", payload_digest="sha256:3")
    b = replace(a, version=2, format="pt2", code_digest=None, env_digest="sha256:4", statement="sha256:5")
    found = comparison.diff(a, b, store, None)
    assert [(i.name, i.change, i.a, i.b) for i in found.identity] == [
        ("code", Change.REMOVED, "sha256:1", None),
        ("environment", Change.CHANGED, "sha256:2", "sha256:4"),
        ("format", Change.CHANGED, "onnx", "pt2"),
    ]


def test_features_that_came_went_or_changed_their_type(pair: tuple[ArtifactStore, str, str, str]) -> None:
    store, first, _, other = pair
    there = comparison.diff(version(1, first), version(3, other), store, None)
    assert [(s.name, s.change, s.a, s.b) for s in there.signature] == [
        ("feature distance", Change.CHANGED, "numeric", "numeric, never missing"),
        ("feature wind", Change.ADDED, None, "numeric, never missing"),
    ]
    back = comparison.diff(version(3, other), version(1, first), store, None)
    assert [(s.name, s.change) for s in back.signature] == [
        ("feature distance", Change.CHANGED),
        ("feature wind", Change.REMOVED),
    ]


def test_a_version_has_no_difference_to_itself(pair: tuple[ArtifactStore, str, str, str]) -> None:
    store, first, _, _ = pair
    same = version(1, first)
    found = comparison.diff(same, same, store, Runs(r={"lr": "1"}))
    assert found == ModelDiff(found.a, found.b)
    assert found.same_payload


def test_a_table_that_was_made_again_under_its_name_is_another_table(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    digest = tree(store, tmp_path / "m", weights="x")
    weather = replace(FLIGHTS, table="weather")
    a = version(1, digest, pins=(FLIGHTS, weather))
    b = version(2, digest, pins=(replace(FLIGHTS, table_id="id-2"),))
    changed, gone = comparison.diff(a, b, store, None).pins
    assert (changed.change, changed.version_a, changed.version_b, changed.recreated) == (Change.CHANGED, 3, 3, True)
    assert (gone.table, gone.change, gone.version_b) == ("weather", Change.REMOVED, None)


def test_trees_of_mlflow_are_compared_by_mlflows_signature(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")

    def model(name: str, inputs: Any, requirements: str, params: Any = None) -> str:
        signature = f"signature:\n  inputs: '{json.dumps(inputs)}'\n  outputs: null\n"
        signature += f"  params: '{json.dumps(params)}'\n" if params else "  params: null\n"
        files = {"MLmodel": signature, "requirements.txt": requirements, "code/net.py": name, "model.onnx": "w"}
        return tree(store, tmp_path / name, **files)

    column = {"type": "double", "name": "x", "required": True}
    tensor = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}
    first = model("a", [column], "numpy==2.1\nscikit_learn==1.5 # pinned\ntorch\n")
    other = model(
        "b",
        [{**column, "type": "float", "required": False}, tensor],
        "numpy==2.2\nscikit-learn==1.5\npandas>=2,<3\n--index-url https://packages.example\n",
        [{"name": "top", "type": "long", "default": 3, "shape": None}],
    )
    found = comparison.diff(version(1, first), version(2, other), store, None)
    assert [(s.name, s.a, s.b) for s in found.signature] == [
        ("feature 1", None, "tensor float32 [-1, 4]"),
        ("feature x", "double", "float, may be missing"),
        ("param top", None, "long = 3"),
    ]
    assert [(e.name, e.a, e.b) for e in found.environment] == [
        ("--index-url https://packages.example", None, "yes"),
        ("numpy", "2.1", "2.2"),
        ("pandas", None, ">=2,<3"),
        ("torch", "any", None),
    ]
    assert {f.path: f.role for f in found.files} == {
        "MLmodel": "metadata",
        "requirements.txt": "metadata",
        "code/net.py": "code",
    }
    assert not found.same_payload


def test_what_cannot_be_read_is_noted_and_the_rest_is_compared(
    tmp_path: Path, pair: tuple[ArtifactStore, str, str, str]
) -> None:
    store, first, _, _ = pair
    absent = version(2, "sha256:" + "9" * 64, metrics={"auc": 0.8})
    found = comparison.diff(version(1, first), absent, store, Runs(r={}))
    assert [note.split(":")[0] for note in found.notes] == ["the files of flight-delay/2 cannot be read"]
    assert names(found.metrics) == {"auc": Change.CHANGED, "rows": Change.REMOVED}
    assert found.files == found.signature == found.environment == ()
    untracked = comparison.diff(version(1, first, run_id="gone"), version(2, first), store, Runs(r={"lr": "1"}))
    assert untracked.notes == ("the run of flight-delay/1 cannot be read: run 'gone' does not exist",)
    assert untracked.params == untracked.metrics == ()
    bare = tree(store, tmp_path / "bare", weights="w")
    found = comparison.diff(version(1, first), version(2, bare), store, None)
    assert found.notes == (
        "flight-delay/2 carries no signature: signatures are not compared",
        "flight-delay/2 says nothing of its environment: packages are not compared",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("signature: {inputs: 'not json'}", "its signature is no list of columns"),
        ("signature: {inputs: '[1]'}", "its signature is no list of columns"),
        ("- a\n- b", "holds no mapping"),
        ("a: [", "is no valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is no valid YAML"),
        ("signature: nothing", "its signature is no list of columns"),
    ],
)
def test_a_damaged_description_is_noted(tmp_path: Path, text: str, reason: str) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    read = sheet.read(version(1, tree(store, tmp_path / "m", MLmodel=text)), store, None)
    assert read.signature is None
    assert len(read.notes) == 1
    assert read.notes[0].startswith("the signature of flight-delay/1 cannot be read: MLmodel: ")
    assert reason in read.notes[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# only a comment\n\n", {}),
        ("Torch===2.1\n", {"torch": "2.1"}),
        ("a_b.c == 1.0 ; python_version < '4'", {"a-b-c": "== 1.0 ; python_version < '4'"}),
        ("ray[serve, tune]==2.60", {"ray[serve, tune]": "2.60"}),
        ("numpy==2.* \npandas~=2.2", {"numpy": "==2.*", "pandas": "~=2.2"}),
        ("a==1 --hash=sha256:0 \\\n  --hash=sha256:1\nb", {"a": "1", "b": "any"}),
        ("-r other.txt\n./wheel.whl", {"-r other.txt": "yes", "./wheel.whl": "yes"}),
        ("x @ https://h.example/x.whl#sha256=0", {"x": "@ https://h.example/x.whl#sha256=0"}),
        ("git+https://h.example/x", {"git+https://h.example/x": "yes"}),
    ],
)
def test_requirements_by_name(text: str, expected: dict[str, str]) -> None:
    assert sheet.requirements(text) == expected


def test_an_environment_of_conda_names_python_and_packages(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    text = "dependencies:\n- python=3.11.9\n- pip<=24\n- pip:\n  - mlflow==3.17.2\n  - numpy\n"
    found = sheet.read(version(1, tree(store, tmp_path / "m", **{"conda.yaml": text})), store, None).environment
    assert found == {"python": "3.11.9", "pip": "<=24", "mlflow": "3.17.2", "numpy": "any"}
