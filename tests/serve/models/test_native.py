"""Formats that are only data: a version answers as its library does, by columns and by one matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayplat.errors import InvalidInput, PartFailed, SchemaMismatch
from rayplat.settings import Settings
from tests.artifacts.formats import samples
from tests.serve.models import folders

pytestmark = pytest.mark.services  # the models' own libraries take seconds to import


def test_an_sklearn_classifier_answers_as_its_pyfunc(settings: Settings, tmp_path: Path) -> None:
    import mlflow.pyfunc
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = folders.data()
    folder = folders.sklearn(tmp_path / "m", make_pipeline(StandardScaler(), LogisticRegression()), x, y)
    loaded = folders.load(settings, folder)
    assert [s.name for s in loaded.signature.inputs] == ["a", "b", "c"]
    assert loaded.signature.matrix is not None
    assert loaded.signature.matrix.shape == (-1, 3)
    expected = mlflow.pyfunc.load_model(str(folder)).predict(x)
    by_columns = loaded.predict(folders.columns(x), {})
    np.testing.assert_array_equal(by_columns["prediction"], expected)
    np.testing.assert_array_equal(loaded.predict({"any name": x.to_numpy()}, {})["prediction"], expected)
    assert loaded.signature.output_names == ("prediction",)


@pytest.mark.filterwarnings("error")
def test_a_predict_fn_other_than_predict_is_honoured_without_a_word(settings: Settings, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = folders.data()
    model = LogisticRegression()
    folder = folders.sklearn(tmp_path / "m", model, x, y, pyfunc_predict_fn="predict_proba")
    loaded = folders.load(settings, folder)
    np.testing.assert_allclose(loaded.predict(folders.columns(x), {})["prediction"], model.predict_proba(x), rtol=1e-12)


def test_text_columns_reach_a_column_transformer_by_name(settings: Settings, tmp_path: Path) -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    x, y = folders.data()
    x["carrier"] = np.where(x["c"] > 0.5, "UA", "AA")
    split = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["carrier"]), (StandardScaler(), ["a", "b"])
    )
    model = make_pipeline(split, LogisticRegression())
    loaded = folders.load(settings, folders.sklearn(tmp_path / "m", model, x, y))
    assert [s.datatype for s in loaded.signature.inputs] == ["FP64", "FP64", "FP64", "BYTES"]
    assert loaded.signature.matrix is None
    np.testing.assert_array_equal(loaded.predict(folders.columns(x), {})["prediction"], model.predict(x))


@pytest.mark.parametrize("kind", ["booster", "binary", "classes", "regressor"])
def test_xgboost_answers_as_mlflow_does(kind: str, settings: Settings, tmp_path: Path) -> None:
    import mlflow.pyfunc
    import xgboost

    x, y = folders.data()
    target: Any = {"classes": (x["a"] * 3).astype(int), "regressor": x["a"]}.get(kind, y)
    options = {"n_estimators": 4, "max_depth": 2, "n_jobs": 1}
    if kind == "booster":
        model = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(x, y), 3)
        predictions = model.predict(xgboost.DMatrix(x))
    else:
        made = xgboost.XGBRegressor if kind == "regressor" else xgboost.XGBClassifier
        model = made(**options).fit(x, target)
        predictions = model.predict(x)
    folder = folders.xgboost(tmp_path / "m", model, x, predictions)
    loaded = folders.load(settings, folder)
    expected = mlflow.pyfunc.load_model(str(folder)).predict(x)
    np.testing.assert_allclose(loaded.predict(folders.columns(x), {})["prediction"], expected, rtol=1e-6)
    np.testing.assert_allclose(loaded.predict({"x": x.to_numpy()}, {})["prediction"], expected, rtol=1e-6)


def test_an_early_stopped_estimator_uses_its_best_round(settings: Settings, tmp_path: Path) -> None:
    import xgboost

    x, y = folders.data()
    model = xgboost.XGBRegressor(n_estimators=60, early_stopping_rounds=2, learning_rate=1.0, n_jobs=1)
    model.fit(x[:100], x["a"][:100] + y[:100], eval_set=[(x[100:], x["b"][100:])], verbose=False)
    loaded = folders.load(settings, folders.xgboost(tmp_path / "m", model, x, model.predict(x)))
    np.testing.assert_allclose(loaded.predict(folders.columns(x), {})["prediction"], model.predict(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("path", "content"), [("model.ubj", samples.xgboost_bytes), ("model.lgb", samples.lightgbm_text)]
)
def test_a_bare_booster_says_itself_what_it_takes(path: str, content: Any, settings: Settings, tmp_path: Path) -> None:
    loaded = folders.load(settings, samples.put(tmp_path / "m", path, content()))
    assert ([s.name for s in loaded.signature.inputs], loaded.signature.tabular) == (["a", "b", "c"], True)
    rows = {name: np.array(values) for name, values in samples.ROWS.items()}
    by_name = loaded.predict(rows, {})["prediction"]
    whole = loaded.predict({"x": np.stack(list(rows.values()), axis=1)}, {})["prediction"]
    np.testing.assert_array_equal(by_name, whole)
    with pytest.raises(SchemaMismatch, match="2 columns, the model takes 3"):
        loaded.predict({"x": np.zeros((1, 2))}, {})


def test_onnx_inputs_are_named_and_typed(settings: Settings, tmp_path: Path) -> None:
    folder = samples.put(tmp_path / "m", "model.onnx", samples.onnx_model().SerializeToString())
    loaded = folders.load(settings, folder)
    (only,) = loaded.signature.inputs
    assert (only.name, only.datatype, only.shape) == ("x", "FP32", (-1, 3))
    assert [(s.name, s.shape) for s in loaded.signature.outputs] == [("y", (-1, 1))]
    ones = np.ones((2, 3), dtype=np.float64)
    np.testing.assert_allclose(loaded.predict({"x": ones}, {})["y"], 1 / (1 + np.exp(-3.0)), rtol=1e-5)
    np.testing.assert_array_equal(loaded.predict({"other": ones}, {})["y"], loaded.predict({"x": ones}, {})["y"])
    assert loaded.platform == "onnx_onnxv1"


def test_a_torch_graph_of_several_inputs_takes_them_by_name(settings: Settings, tmp_path: Path) -> None:
    import torch

    folder = folders.exported(
        tmp_path / "m" / "model.pt2", lambda a, b: a - b.sum(1), torch.zeros(2), torch.zeros(2, 3)
    )
    loaded = folders.load(settings, folder)
    assert [(s.name, s.datatype, s.shape) for s in loaded.signature.inputs] == [
        ("input_0", "FP32", (-1,)),
        ("input_1", "FP32", (-1, 3)),
    ]
    answer = loaded.predict({"input_1": np.ones((2, 3)), "input_0": np.array([5.0, 4.0])}, {})
    np.testing.assert_array_equal(answer["output_0"], [2.0, 1.0])


def test_a_model_that_loses_rows_of_its_example_is_not_served(settings: Settings, tmp_path: Path) -> None:
    class Halved:
        def predict(self, context: Any, model_input: pd.DataFrame) -> Any:
            return model_input["a"].to_numpy()[:1]

    import mlflow.pyfunc
    from mlflow.models import infer_signature

    x, _ = folders.data(4)
    halved = type("Halved", (mlflow.pyfunc.PythonModel,), {"predict": Halved.predict})()
    folder = folders.pyfunc(tmp_path / "m", halved, signature=infer_signature(x, x["a"].to_numpy()), input_example=x)
    with pytest.raises(PartFailed, match=r"its output 'prediction' has the shape \(1,\) for an example of 4 rows"):
        folders.load(settings, folder, waiver="w1")


def test_wrong_values_name_the_column(settings: Settings, tmp_path: Path) -> None:
    loaded = folders.load(settings, samples.put(tmp_path / "m", "model.ubj", samples.xgboost_bytes()))
    for columns, reason in [
        ({"a": ["1", "2"], "b": [1, 2], "c": [1, 2]}, "a: a list of numbers"),
        ({"a": [1, 2], "b": [1, 2], "c": [1]}, "the same number of values"),
        ({"a": [1, 2], "b": [1, 2]}, "c: this column is absent"),
    ]:
        with pytest.raises(InvalidInput, match=reason):
            loaded.predict(columns, {})
