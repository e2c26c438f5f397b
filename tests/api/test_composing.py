"""Composing through the verb: parts resolved once, pinned, checked; the result is a version like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rayplat.artifacts import formats, schema
from rayplat.cli import connection, graph_file
from rayplat.cli.main import app
from rayplat.errors import Conflict, InvalidInput, NeedsWaiver, NotFound
from rayplat.registry.record import decisions, versions
from rayplat.serve.loader import VersionLoader, registry_waiver
from rayplat.services.lineage import Lineage
from rayplat.services.models import Models
from rayplat.services.verbs import Context
from rayplat.services.waivers import Waivers
from rayplat.types import ModelVersion, Role
from tests.api.conftest import Served
from tests.api.fakes import ADMIN, AUTHOR, TRAINING_SET
from tests.artifacts.formats import samples


@pytest.fixture(scope="module")
def parts(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Two boosters, registered as ``trees`` (its challenger is its first version) and ``more-trees``."""
    context = replace(served.context, principal=AUTHOR)
    root = tmp_path_factory.mktemp("parts")
    contents = {"trees": {"m.ubj": samples.xgboost_bytes()}, "more-trees": {"m.lgb": samples.lightgbm_text()}}
    for model, files in contents.items():
        for name, content in files.items():
            register(context, samples.put(root / model, name, content), model)
    point(context, 1)
    return context


def point(context: Context, version: int) -> None:
    """Let ``trees@challenger`` be a version."""
    context.registry.write(decisions.break_glass, "trees", version, "challenger", "there is no other way yet", by=ADMIN)


def register(context: Context, folder: Path, model: str) -> ModelVersion:
    digest = context.artifacts.put_tree(folder, "model").digest
    return Models(context).register(model, digest, "run-of-parts", TRAINING_SET)


def graph(**more: Any) -> dict[str, Any]:
    nodes: dict[str, Any] = {"one": {"model": "trees@challenger"}, "two": {"model": "more-trees/1"}}
    nodes["both"] = {"mean": ["one", "two"]}
    return {"model": "mixed", "nodes": nodes, "outputs": {"probability": "both"}, **more}


def test_a_composed_model_is_a_version_like_any_other(parts: Context) -> None:
    version = Models(parts).compose(graph())
    assert (version.model, version.version, version.format) == ("mixed", 1, "graph")
    assert Models(parts).verify("mixed", 1).digest == version.digest
    assert Models(parts).compose(graph()).version == 1
    loaded = VersionLoader(parts.settings, lambda *_: None).load("mixed", 1, version.digest)
    assert [part[:2] for part in loaded.parts] == [("trees", 1), ("more-trees", 1)]
    rows = {name: np.array(values) for name, values in samples.ROWS.items()}
    alone = [VersionLoader(parts.settings).load(m, n, d).predict(rows, {})["prediction"] for m, n, d in loaded.parts]
    np.testing.assert_allclose(loaded.predict(rows, {})["probability"], np.mean(alone, axis=0), rtol=1e-6)
    assert loaded.signature.output_names == ("probability",)


def test_an_alias_that_moves_later_changes_nothing(parts: Context, tmp_path: Path) -> None:
    before = Models(parts).compose(graph())
    second = register(parts, samples.put(tmp_path / "json", "m.json", samples.xgboost_bytes("json")), "trees")
    point(parts, second.version)
    assert Models(parts).version("mixed", 1).digest == before.digest
    after = Models(parts).compose(graph())
    assert (after.version, after.digest != before.digest) == (before.version + 1, True)


def test_promotion_compares_what_it_takes_and_gives(parts: Context) -> None:
    def found(declared: dict[str, Any]) -> Any:
        digest = Models(parts).compose(declared).digest
        return schema.of_tree(formats.stored_tree(parts.artifacts, digest))

    one, other = found(graph()), found(graph(outputs={"score": "both"}))
    assert [f.name for f in one.inputs] == ["a", "b", "c"]
    assert schema.problems(one, one) == ()
    assert schema.problems(other, one) == ("the output 'probability' was removed",)


def test_parts_cannot_be_deleted_below_it(parts: Context) -> None:
    version = Models(parts).compose(graph())
    with pytest.raises(Conflict, match="a part of mixed/"):
        parts.registry.write(versions.delete, "more-trees", 1, "of no use", by=ADMIN)
    upstream = Lineage(parts).upstream(f"model:mixed/{version.version}")
    assert any(TRAINING_SET in node.id for node in upstream.nodes)


def test_names_that_lead_nowhere(parts: Context) -> None:
    def composed(model: str) -> None:
        Models(parts).compose({"model": "x", "nodes": {"one": {"model": model}}, "outputs": {"y": "one"}})

    for reference, error in [("nobody/1", NotFound), ("trees/99", NotFound), ("trees@nothing", NotFound)]:
        with pytest.raises(error):
            composed(reference)
    for reference in ("trees", "trees/", "trees@a@b", "/1"):
        with pytest.raises(InvalidInput, match=r"nodes.one.model"):
            composed(reference)
    with pytest.raises(InvalidInput, match="cannot be a part of itself"):
        Models(parts).compose({"model": "trees", "nodes": {"one": {"model": "trees/1"}}, "outputs": {"y": "one"}})
    with pytest.raises(InvalidInput, match=r"nodes.one: m/1 cannot be loaded"):
        composed("m/1")  # weights without a graph
    with pytest.raises(InvalidInput, match="model"):
        Models(parts).compose({"nodes": {"one": {"model": "trees/1"}}, "outputs": {"y": "one"}})
    with pytest.raises(NotFound):
        Models(parts).version("x", 1)


def test_code_in_a_part_needs_its_waiver_when_it_is_composed_and_when_it_is_loaded(
    parts: Context, tmp_path: Path
) -> None:
    from tests.serve.models.test_pyfunc import scaled

    code = register(parts, scaled(tmp_path / "code"), "code")
    declared = {"model": "careful", "nodes": {"one": {"model": "code/1"}}, "outputs": {"y": "one.sum"}}
    with pytest.raises(NeedsWaiver):
        Models(parts).compose(declared)
    approver = replace(parts, principal=ADMIN)
    waiver = Waivers(approver).create(code.digest, "its author's code was read by two of us")
    version = Models(parts).compose(declared)

    def asked(*named: Any) -> str | None:
        return registry_waiver(*named, registry=parts.registry)

    loaded = VersionLoader(parts.settings, asked).load("careful", 1, version.digest)
    assert loaded.batchable is False
    Waivers(approver).revoke(waiver.waiver_id, "it was not read carefully enough")
    with pytest.raises(NeedsWaiver):
        VersionLoader(parts.settings, asked).load("careful", 1, version.digest)


def test_over_http_and_from_a_file(served: Served, parts: Context, tmp_path: Path, monkeypatch: Any) -> None:
    with served.http(Role.DEVELOPER) as http:
        answer = http.post("/api/v1/model-graphs", json={"graph": graph(model="by-http")}, timeout=60)
        assert (answer.status_code, answer.json()["format"]) == (200, "graph")
        refused = http.post("/api/v1/model-graphs", json={"graph": {"model": "y"}}, timeout=60)
        assert (refused.status_code, refused.json()["code"]) == (422, "InvalidInput")
    with served.http(Role.VIEWER) as http:
        assert http.post("/api/v1/model-graphs", json={"graph": graph()}, timeout=60).status_code == 403
    file = tmp_path / "graph.yaml"
    file.write_text("model: by-file\nnodes:\n  one: {model: trees/1}\noutputs: {y: one}\n")

    class Platform:
        models = Models(parts)

    monkeypatch.setattr(connection, "platform", lambda home, url: Platform())
    done = CliRunner().invoke(app, ["model", "compose", str(file), "--json"])
    assert done.exit_code == 0, done.output
    assert '"by-file"' in done.output
    for content, reason in [("nodes: [", "is no YAML"), ("- a", "is no graph")]:
        file.write_text(content)
        with pytest.raises(InvalidInput, match=reason):
            graph_file.declared(file)
    with pytest.raises(NotFound):
        graph_file.declared(tmp_path / "nothing.yaml")
