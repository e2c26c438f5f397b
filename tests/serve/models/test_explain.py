"""Explanations: they add up to the answer, agree with the shap package, and say where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayplat.errors import InvalidInput
from rayplat.serve.ports import Explanation
from rayplat.settings import Settings
from tests.artifacts.formats import samples
from tests.serve.models import folders
from tests.serve.tiny import put_bundle, put_features

pytestmark = pytest.mark.services  # the models' own libraries take seconds to import


def table(explanation: Explanation) -> np.ndarray:
    return np.stack(list(explanation.values.values()), axis=1)


def total(explanation: Explanation) -> np.ndarray:
    return table(explanation).sum(axis=1) + explanation.base


def explained(loaded: Any, x: pd.DataFrame, output: str = "prediction", budget: int = 4096) -> Explanation:
    assert loaded.explainer is not None
    found = loaded.explainer.explain(folders.columns(x), output, budget)
    assert list(found.values) == list(x.columns)
    return found


@pytest.mark.parametrize("kind", ["regression", "binary", "classes"])
def test_xgboosts_trees_agree_with_shap(kind: str, settings: Settings, tmp_path: Path) -> None:
    import shap
    import xgboost

    x, y = folders.data()
    options = {"n_estimators": 5, "max_depth": 3, "n_jobs": 1}
    target: Any = {"regression": x["a"] + y, "binary": y, "classes": (x["a"] * 3).astype(int)}[kind]
    made = xgboost.XGBRegressor if kind == "regression" else xgboost.XGBClassifier
    model = made(**options).fit(x, target)
    loaded = folders.load(settings, folders.xgboost(tmp_path / "m", model, x, model.predict(x)))
    rows = x[:5]
    found = explained(loaded, rows)
    assert (found.method, found.output) == ("tree_shap", "prediction" if kind == "regression" else "margin")
    theirs = shap.TreeExplainer(model).shap_values(rows)
    margin = model.predict(rows, output_margin=True)
    if kind == "classes":
        best = margin.argmax(axis=1)
        theirs, margin = theirs[np.arange(5), :, best], margin[np.arange(5), best]
        second = explained(loaded, rows, "prediction[1]")
        np.testing.assert_allclose(total(second), model.predict(rows, output_margin=True)[:, 1], atol=1e-5)
    np.testing.assert_allclose(table(found), theirs, atol=1e-4)
    np.testing.assert_allclose(total(found), margin, atol=1e-5)


def test_lightgbms_trees_agree_with_shap(settings: Settings, tmp_path: Path) -> None:
    import lightgbm
    import shap

    text = samples.lightgbm_text()
    loaded = folders.load(settings, samples.put(tmp_path / "m", "model.lgb", text))
    rows = folders.data(5)[0]
    found = explained(loaded, rows)
    booster = lightgbm.Booster(model_str=text)
    assert (found.method, found.output) == ("tree_shap", "margin")
    theirs = np.asarray(shap.TreeExplainer(booster).shap_values(rows))
    np.testing.assert_allclose(table(found), theirs, atol=1e-6)
    np.testing.assert_allclose(total(found), booster.predict(rows, raw_score=True), atol=1e-6)


def test_a_linear_regression_is_exact(settings: Settings, tmp_path: Path) -> None:
    import shap
    from sklearn.linear_model import LinearRegression

    x, _ = folders.data()
    model = LinearRegression()
    loaded = folders.load(settings, folders.sklearn(tmp_path / "m", model, x, x["a"] * 2 - x["c"]))
    found = explained(loaded, x[:5])
    assert (found.method, found.evaluations) == ("linear", 0)
    np.testing.assert_allclose(total(found), model.predict(x[:5]), atol=1e-9)
    theirs = shap.LinearExplainer(model, shap.maskers.Independent(x[:3])).shap_values(x[:5])
    np.testing.assert_allclose(table(found), theirs, atol=1e-9)


def test_a_classifier_is_explained_by_its_probability_as_shap_does(settings: Settings, tmp_path: Path) -> None:
    import shap
    from sklearn.ensemble import RandomForestClassifier

    x, y = folders.data()
    model = RandomForestClassifier(5, max_depth=3, random_state=0)
    loaded = folders.load(settings, folders.sklearn(tmp_path / "m", model, x, y))
    found = explained(loaded, x[:4])
    assert (found.method, found.output) == ("exact", "probability[1]")
    np.testing.assert_allclose(total(found), model.predict_proba(x[:4])[:, 1], atol=1e-9)
    masker = shap.maskers.Independent(x[:3].to_numpy())
    theirs = shap.explainers.Exact(
        lambda rows: model.predict_proba(pd.DataFrame(rows, columns=x.columns))[:, 1], masker
    )
    np.testing.assert_allclose(table(found), theirs(x[:4].to_numpy()).values, atol=1e-9)


def test_sampled_orders_keep_to_the_budget_and_still_add_up(settings: Settings, tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestRegressor

    random = np.random.default_rng(0)
    x = pd.DataFrame(random.random((100, 15)), columns=[f"f{i}" for i in range(15)])
    y = x["f0"] * x["f1"] + x["f2"]
    model = RandomForestRegressor(5, max_depth=4, random_state=0)
    loaded = folders.load(settings, folders.sklearn(tmp_path / "m", model, x, y))
    for budget in (34, 200, 1000, 5000):
        found = explained(loaded, x[:2], budget=budget)
        assert found.method == "permutation"
        assert found.evaluations <= budget
        np.testing.assert_allclose(total(found), model.predict(x[:2]), atol=1e-9)
    exact = table(explained(loaded, x[:2], budget=200_000))
    near = table(explained(loaded, x[:2], budget=20_000))
    np.testing.assert_allclose(near, exact, atol=0.02)
    assert exact[:, 3:].sum() < exact[:, :3].sum() or abs(exact[:, 3:]).max() < abs(exact[:, :3]).max()
    with pytest.raises(InvalidInput, match="33 evaluations are not enough for 2 rows of 15 inputs; 34 are the least"):
        explained(loaded, x[:2], budget=33)


def test_a_matrix_of_columns_without_names(settings: Settings, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = folders.data()
    model = LogisticRegression()
    loaded = folders.load(settings, folders.sklearn(tmp_path / "m", model, x.to_numpy(), y))
    assert loaded.explainer is not None
    found = loaded.explainer.explain({"any": x[:2].to_numpy()}, "prediction", 1000)
    assert list(found.values) == ["input-0[0]", "input-0[1]", "input-0[2]"]
    np.testing.assert_allclose(total(found), model.predict_proba(x[:2].to_numpy())[:, 1], atol=1e-9)


def test_a_bundle_with_text_among_its_features(settings: Settings) -> None:
    from rayplat.serve.loader import VersionLoader

    put_features(settings)
    loaded = VersionLoader(settings).load("tiny", 1, put_bundle(settings, 0.25))
    assert loaded.explainer is not None
    found = loaded.explainer.explain({"distance": np.array([101.0]), "carrier": ["AA"]}, "probability", 1000)
    assert found.values["distance"].tolist() == pytest.approx([0.1], abs=1e-6)
    assert found.values["carrier"].tolist() == pytest.approx([0.1], abs=1e-6)
    assert found.base.tolist() == pytest.approx([0.251], abs=1e-6)
    with pytest.raises(InvalidInput, match="'nothing' is none of the model's; these are: probability"):
        loaded.explainer.explain({"distance": np.array([1.0]), "carrier": ["AA"]}, "nothing", 1000)


def test_texts_and_arrays_have_no_explanation(settings: Settings, tmp_path: Path) -> None:
    assert folders.load(settings, folders.pretrained(tmp_path / "text", folders.bert())).explainer is None
    bare = samples.put(tmp_path / "onnx", "model.onnx", samples.onnx_model().SerializeToString())
    assert folders.load(settings, bare).explainer is None  # no example to compare with


def test_labels_of_text_without_probabilities_are_refused(settings: Settings, tmp_path: Path) -> None:
    from sklearn.svm import LinearSVC

    x, y = folders.data()
    words = np.where(y == 1, "yes", "no")
    loaded = folders.load(settings, folders.sklearn(tmp_path / "m", LinearSVC(), x, words))
    with pytest.raises(InvalidInput, match="is no number to a row"):
        explained(loaded, x[:1])
    with pytest.raises(InvalidInput, match="'probability' is none"):
        explained(loaded, x[:1], "probability")
