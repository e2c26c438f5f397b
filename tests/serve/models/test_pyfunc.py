"""Custom pyfunc models: only with a waiver, called as by MLflow's server, and gone when they are dropped."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from rayplat.errors import InvalidInput, NeedsWaiver, PartFailed, SchemaMismatch
from rayplat.serve import loader as loading
from rayplat.settings import Settings
from tests.serve.models import folders

pytestmark = pytest.mark.services  # the models' own libraries take seconds to import


class Scaled(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        factor = (params or {}).get("factor", 2.0)
        return pd.DataFrame({"sum": model_input.sum(axis=1) * factor, "first": model_input["a"]})


class Talks(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return ["said"] * len(model_input)

    def predict_stream(self, context: Any, model_input: Any, params: Any = None) -> Iterator[str]:
        yield from ("once", " ", str(model_input["text"]))


class Seen(mlflow.pyfunc.PythonModel):
    """Answers with the types that it was given."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        return np.array([",".join(str(dtype) for dtype in model_input.dtypes)] * len(model_input))


class Fails(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        raise KeyError("a table of mine")


def scaled(folder: Path, **options: Any) -> Path:
    x, _ = folders.data(3)
    signature = infer_signature(x, Scaled().predict(None, x), params={"factor": 2.0})
    return folders.pyfunc(folder, Scaled(), signature=signature, **options)


def test_without_a_waiver_nothing_of_it_runs(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NeedsWaiver, match="rayplat waiver create"):
        folders.load(settings, scaled(tmp_path / "m"))


def test_a_waiver_is_looked_up_for_the_very_digest(settings: Settings, tmp_path: Path, monkeypatch: Any) -> None:
    asked = []
    monkeypatch.setattr(loading, "registry_waiver", lambda *named: asked.append(named))
    digest = folders.put(settings, scaled(tmp_path / "m"))
    with pytest.raises(NeedsWaiver):
        loading.VersionLoader(settings).load("m", 7, digest)
    assert asked == [("m", 7, digest)]


def test_frames_and_parameters(settings: Settings, tmp_path: Path) -> None:
    loaded = folders.load(settings, scaled(tmp_path / "m"), waiver="w")
    assert [s.name for s in loaded.signature.outputs] == ["sum", "first"]
    assert [(p.name, p.datatype, p.default) for p in loaded.signature.params] == [("factor", "FP64", 2.0)]
    x, _ = folders.data(3)
    np.testing.assert_allclose(loaded.predict(folders.columns(x), {})["sum"], 2 * x.sum(axis=1))
    np.testing.assert_allclose(loaded.predict({"any": x.to_numpy()}, {"factor": 3.0})["sum"], 3 * x.sum(axis=1))
    assert loaded.streamer is None


def test_a_stream_comes_piece_by_piece(settings: Settings, tmp_path: Path) -> None:
    signature = infer_signature(pd.DataFrame({"text": ["a"]}), ["said"])
    loaded = folders.load(settings, folders.pyfunc(tmp_path / "m", Talks(), signature=signature), waiver="w")
    assert loaded.streamer is not None
    pieces = list(loaded.streamer.stream({"text": ["upon"]}, {}))
    assert pieces == [{"prediction": "once"}, {"prediction": " "}, {"prediction": "upon"}]
    with pytest.raises(InvalidInput, match="one row, 2 were given"):
        list(loaded.streamer.stream({"text": ["a", "b"]}, {}))


def test_every_type_of_column_arrives_as_mlflow_gives_it(settings: Settings, tmp_path: Path) -> None:
    kinds = ["boolean", "integer", "long", "float", "double", "string", "binary", "datetime"]
    columns = [ColSpec(kind, kind) for kind in kinds]
    params = ParamSchema([ParamSpec("many", "long", [1], shape=(-1,))])
    signature = mlflow.models.ModelSignature(Schema(columns), Schema([ColSpec("string")]), params)
    loaded = folders.load(settings, folders.pyfunc(tmp_path / "m", Seen(), signature=signature), waiver="w")
    found = [(s.datatype, s.logical) for s in loaded.signature.inputs]
    assert [datatype for datatype, _ in found] == ["BOOL", "INT32", "INT64", "FP32", "FP64", "BYTES", "BYTES", "BYTES"]
    assert [logical for _, logical in found][5:] == ["", "binary", "datetime"]
    assert (loaded.signature.params[0].is_list, loaded.signature.params[0].default) == (True, [1])
    given = {
        "boolean": np.array([True]),
        "integer": np.array([1], dtype=np.int32),
        "long": np.array([1]),
        "float": np.array([1], dtype=np.float32),
        "double": np.array([1.0]),
        "string": ["x"],
        "binary": [b"x"],
        "datetime": ["2013-11-05T14:30:00"],
    }
    (types,) = loaded.predict(given, {})["prediction"]
    assert types == "bool,int32,int64,float32,float64,object,object,datetime64[ns]"


def test_tensors_and_texts_without_names(settings: Settings, tmp_path: Path) -> None:
    class Doubled(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return np.asarray(model_input) * 2

    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    folder = folders.pyfunc(tmp_path / "m", Doubled(), signature=infer_signature(x, x), input_example=x)
    loaded = folders.load(settings, folder, waiver="w")
    assert [(s.name, s.shape) for s in loaded.signature.inputs] == [("input-0", (-1, 2, 2))]
    np.testing.assert_array_equal(loaded.predict({"whatever": x}, {})["prediction"], 2 * x)


def test_a_model_without_a_signature_takes_what_it_is_given(settings: Settings, tmp_path: Path) -> None:
    loaded = folders.load(settings, folders.pyfunc(tmp_path / "m", Talks()), waiver="w")
    assert loaded.signature.open
    assert loaded.predict({"x": np.array([1, 2]), "y": ["a", None]}, {})["prediction"].tolist() == ["said", "said"]


def test_whose_fault_it_is(settings: Settings, tmp_path: Path) -> None:
    x, _ = folders.data(2)
    signature = infer_signature(x, x["a"])
    loaded = folders.load(settings, folders.pyfunc(tmp_path / "m", Fails(), signature=signature), waiver="w")
    with pytest.raises(PartFailed, match="KeyError"):
        loaded.predict(folders.columns(x), {})
    with pytest.raises(SchemaMismatch, match="missing"):
        loaded.predict({"a": np.array([1.0])}, {})


def test_two_versions_with_modules_of_one_name_keep_their_own(settings: Settings, tmp_path: Path) -> None:
    answers = []
    for version in (1, 2):
        code = tmp_path / f"code{version}"
        code.mkdir()
        (code / "my_own_rules.py").write_text(f"ANSWER = {version}\n")
        program = tmp_path / f"model{version}.py"
        program.write_text(
            "import mlflow.pyfunc, my_own_rules\n"
            "class Model(mlflow.pyfunc.PythonModel):\n"
            "    def predict(self, context, model_input, params=None):\n"
            "        return [my_own_rules.ANSWER] * len(model_input)\n"
            "mlflow.models.set_model(Model())\n"
        )
        sys.path.insert(0, str(code))
        try:
            folder = folders.pyfunc(tmp_path / f"m{version}", str(program), code_paths=[str(code / "my_own_rules.py")])
        finally:
            sys.path.remove(str(code))
            sys.modules.pop("my_own_rules", None)
        answers.append(folders.load(settings, folder, waiver="w"))
    path = list(sys.path)
    assert [int(m.predict({"x": np.array([1])}, {})["prediction"][0]) for m in answers] == [1, 2]
    assert "my_own_rules" not in sys.modules
    assert not any("rayplat-model-" in place for place in path)


def test_its_files_stay_while_it_lives_and_go_with_it(settings: Settings, tmp_path: Path) -> None:
    scratch = Path(tempfile.gettempdir())
    before = set(scratch.glob("rayplat-model-*"))
    loaded = folders.load(settings, scaled(tmp_path / "m"), waiver="w")
    assert len(set(scratch.glob("rayplat-model-*")) - before) == 1
    del loaded
    gc.collect()
    assert set(scratch.glob("rayplat-model-*")) == before
    with pytest.raises(NeedsWaiver):
        folders.load(settings, tmp_path / "m")
    assert set(scratch.glob("rayplat-model-*")) == before
