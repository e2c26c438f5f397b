"""Formats that are only data: real models are told and answer; damaged, dangerous and mixed-up files are refused."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rayplat.artifacts import formats
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Corrupt, InvalidInput, NeedsWaiver, RayplatError, SchemaMismatch, TooLarge
from tests.artifacts.formats import samples

pytestmark = pytest.mark.services  # real XGBoost, LightGBM, ONNX and skops, in processes of their own too


@pytest.fixture(scope="session")
def models() -> dict[str, tuple[str, str, bytes]]:
    """(flavor of MLflow, path, bytes) by format."""
    return {
        "xgboost": ("xgboost", "model.ubj", samples.xgboost_bytes()),
        "xgboost json": ("xgboost", "model.json", samples.xgboost_bytes("json")),
        "lightgbm": ("lightgbm", "model.lgb", samples.lightgbm_text().encode()),
        "onnx": ("onnx", "model.onnx", samples.onnx_model().SerializeToString()),
        "skops": ("sklearn", "model.skops", samples.skops_bytes()),
    }


KINDS = ("xgboost", "xgboost json", "lightgbm", "onnx", "skops")


def lay(folder: Path, model: tuple[str, str, bytes]) -> Path:
    flavor, path, content = model
    return samples.put(samples.describe(folder, flavor, path), path, content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_folder_is_told_and_answers(kind, models, tmp_path):
    folder = lay(tmp_path / "m", models[kind])
    found = formats.detect(folder)
    assert (found.name, found.runs_code, found.files) == (kind.split()[0], False, (models[kind][1],))
    predictor = formats.load(folder, samples.DIGEST, tried=True)
    by_name = predictor.predict(samples.ROWS)
    whole = predictor.predict({"rows": np.array(list(samples.ROWS.values())).T})
    for name, values in by_name.items():
        assert len(values) == 2
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)
    with pytest.raises(SchemaMismatch, match="c: this column"):
        predictor.predict({"a": [1.0], "b": [1.0]})


@pytest.mark.parametrize("kind", KINDS)
def test_without_an_mlmodel_the_bytes_say_it(kind, models, tmp_path):
    _, path, content = models[kind]
    assert formats.detect(samples.put(tmp_path / "m", path, content)).name == kind.split()[0]


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused_at_every_length(kind, models, tmp_path):
    flavor, path, content = models[kind]
    for share in (0.0, 0.01, 0.2, 0.5, 0.9, 0.99):
        folder = lay(tmp_path / f"m{share}", (flavor, path, content[: int(len(content) * share)]))
        with pytest.raises((InvalidInput, NeedsWaiver)):
            formats.load(folder, samples.DIGEST, tried=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_never_leads_past_an_error_of_ours(kind, models, tmp_path):
    flavor, path, content = models[kind]
    random = np.random.default_rng(1)
    for i in range(40):
        damaged = bytearray(content)
        damaged[int(random.integers(len(damaged)))] ^= int(random.integers(1, 256))
        try:
            formats.detect(lay(tmp_path / f"m{i}", (flavor, path, bytes(damaged))))
        except RayplatError:
            continue


def test_a_file_that_crashes_its_library_is_refused(models, tmp_path):
    """LightGBM 4.7 ends the process over parameters that are cut off; a process of its own takes that."""
    text = models["lightgbm"][2].split(b"\nparameters:")[0] + b"\nparameters:\n[boosting: gbdt]\n[objective"
    with pytest.raises(InvalidInput, match=r"ends the process|LightGBM cannot read"):
        formats.attempt(samples.put(tmp_path, "model.lgb", text), formats.Format("lightgbm", False, ("model.lgb",)))


def test_a_first_load_elsewhere_says_nothing_about_a_sound_model(models, tmp_path):
    found = formats.Format("onnx", False, ("model.onnx",))
    formats.attempt(samples.put(tmp_path, "model.onnx", models["onnx"][2]), found)
    with pytest.raises(InvalidInput, match="onnxruntime cannot read"):
        formats.attempt(samples.put(tmp_path, "model.onnx", models["onnx"][2][:-9]), found)


@pytest.mark.parametrize("flavor", ["xgboost", "lightgbm", "onnx", "pytorch", "sklearn"])
def test_an_mlmodel_that_says_another_format_is_refused(flavor, models, tmp_path):
    for i, kind in enumerate(KINDS):
        if models[kind][0] == flavor:
            continue
        _, path, content = models[kind]
        folder = samples.put(samples.describe(tmp_path / f"{i}", flavor, path), path, content)
        if (flavor, kind) in {("xgboost", "skops"), ("lightgbm", "skops")}:
            assert formats.detect(folder).name == "skops"  # MLflow does save their estimators so; skops decides
            continue
        with pytest.raises(InvalidInput, match="forged"):
            formats.detect(folder)


def test_an_mlmodel_that_points_elsewhere_is_refused(models, tmp_path):
    folder = samples.describe(tmp_path / "m", "xgboost", "other.ubj")
    with pytest.raises(InvalidInput, match=r"other\.ubj"):
        formats.detect(samples.put(folder, "model.ubj", models["xgboost"][2]))


def test_two_models_need_an_mlmodel_that_says_which(models, tmp_path):
    folder = samples.put(tmp_path / "m", "one.ubj", models["xgboost"][2])
    samples.put(folder, "two.ubj", models["xgboost"][2])
    with pytest.raises(InvalidInput, match="several"):
        formats.detect(folder)
    assert formats.detect(samples.describe(folder, "xgboost", "two.ubj")).files == ("two.ubj",)


def test_a_tree_without_a_model(tmp_path):
    with pytest.raises(InvalidInput, match="no model"):
        formats.detect(samples.put(tmp_path / "m", "README.md", "hello"))


def test_a_link_in_the_folder(models, tmp_path):
    folder = lay(tmp_path / "m", models["xgboost"])
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="link"):
        formats.detect(folder)


# --- ONNX -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret.bin", "a/../../secret.bin", "not-there.bin", ""])
def test_onnx_weights_outside_of_the_tree(location, tmp_path):
    folder = samples.put(tmp_path / "m", "model.onnx", samples.onnx_model(location=location).SerializeToString())
    (tmp_path / "secret.bin").write_bytes(b"\0" * 12)
    with pytest.raises(InvalidInput, match="weights"):
        formats.detect(folder)


def test_onnx_weights_beside_the_graph(tmp_path):
    folder = samples.put(tmp_path / "m", "deep/model.onnx", samples.onnx_model(location="w.bin").SerializeToString())
    samples.put(folder, "deep/w.bin", np.ones(3, dtype=np.float32).tobytes())
    answers = formats.load(folder, samples.DIGEST, tried=True).predict({"x": np.ones((2, 3), dtype=np.float32)})
    np.testing.assert_allclose(answers["y"], 1 / (1 + np.exp(-3.0)), rtol=1e-5)


@pytest.mark.parametrize("domain", ["com.microsoft", "my.ops", "ai.onnx.contrib"])
def test_onnx_operators_of_others(domain, tmp_path):
    content = samples.onnx_model("Anything", domain).SerializeToString()
    with pytest.raises(InvalidInput, match=domain):
        formats.detect(samples.put(tmp_path / "m", "model.onnx", content))


def test_onnx_graphs_without_end(tmp_path):
    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(40):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(InvalidInput, match="nested"):
        formats.detect(samples.put(tmp_path / "m", "m.onnx", b"\x08\x09" + field(7, graph)))


# --- skops ------------------------------------------------------------------------------------------


def test_forests_are_trusted_and_their_trees_are_checked(tmp_path):
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(3, max_depth=3, random_state=0)
    folder = samples.put(tmp_path / "m", "model.skops", samples.skops_bytes(forest))
    answers = formats.load(folder, samples.DIGEST, tried=True).predict({"rows": np.zeros((2, 3), dtype=np.float32)})
    assert answers["probability"].shape == (2, 2)


def test_a_function_in_a_skops_file_counts_as_code(tmp_path):
    from sklearn.preprocessing import FunctionTransformer

    folder = samples.put(tmp_path / "m", "model.skops", samples.skops_bytes(FunctionTransformer(np.log1p)))
    assert formats.detect(folder).runs_code


@pytest.mark.parametrize("record", ["../evil.npy", "/etc/x.npy", "x.py", "a/b.npy"])
def test_a_skops_file_with_other_records(record, tmp_path):
    content = samples.zipped({"schema.json": b"{}", record: b""})
    with pytest.raises(RayplatError):
        formats.load(samples.put(tmp_path / "m", "model.skops", content), samples.DIGEST)


# --- XGBoost, LightGBM ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b'{"learner":' * 100_000, b'{"learner":' + b"[" * 1_000_000, b"{L\0\0\0\0\0\0\0\x07learner" * 50_000]
)
def test_xgboost_of_absurd_nesting(content, tmp_path):
    with pytest.raises(InvalidInput, match="nested"):
        formats.detect(samples.put(tmp_path / "m", "model.ubj", content))


@pytest.mark.parametrize("content", [b"binf\0\0\0\0", b"bs64\0\0", b'{"version": [3, 2, 0]}', b'{"learner": {}}'])
def test_what_is_no_model_of_xgboost(content, tmp_path):
    with pytest.raises(InvalidInput):
        formats.detect(samples.put(tmp_path / "m", "model.ubj", content))


@pytest.mark.parametrize(
    ("field", "value"),
    [("left_children", 99), ("left_children", 0), ("split_indices", 3), ("right_children", -7), ("parents", 50)],
)
def test_trees_of_xgboost_that_point_outside(field, value, tmp_path):
    model = json.loads(samples.xgboost_bytes("json"))
    tree = model["learner"]["gradient_booster"]["model"]["trees"][0]
    tree[field][0] = value
    with pytest.raises(InvalidInput):
        formats.detect(samples.put(tmp_path / "m", "model.json", json.dumps(model)))


@pytest.mark.parametrize(("old", "new"), [("left_child=1", "left_child=9"), ("split_feature=0", "split_feature=7")])
def test_trees_of_lightgbm_that_point_outside(old, new, models, tmp_path):
    text = models["lightgbm"][2].decode()
    name = old.split("=")[0]
    line = next(line for line in text.splitlines() if line.startswith(f"{name}="))
    changed = text.replace(line, new + line[len(new) :], 1)
    with pytest.raises(InvalidInput, match="tree"):
        formats.detect(samples.put(tmp_path / "m", "model.lgb", changed))


# --- safetensors ------------------------------------------------------------------------------------


def header(value: object, data: bytes = b"") -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BROKEN = {
    "huge header": (struct.pack("<Q", 1 << 40) + b"{}", TooLarge),
    "no JSON": (header(b"{nope"), InvalidInput),
    "a list": (header([1]), InvalidInput),
    "twice": (header(b'{"a": 1, "a": 2}'), InvalidInput),
    "deep": (header(b'{"a":' + b"[" * 100_000), InvalidInput),
    "outside": (header({"w": F32 | {"data_offsets": [0, 400]}}, b"\0" * 4), InvalidInput),
    "overlap": (header({"w": F32, "v": F32}, b"\0" * 4), InvalidInput),
    "negative": (header({"w": F32 | {"shape": [-1]}}, b"\0" * 4), InvalidInput),
    "shape": (header({"w": F32 | {"shape": [7]}}, b"\0" * 4), InvalidInput),
    "type": (header({"w": F32 | {"dtype": "PICKLE"}}, b"\0" * 4), InvalidInput),
    "rest": (header({"w": F32}, b"\0" * 5), InvalidInput),
    "empty": (b"", InvalidInput),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_safetensors(kind, tmp_path):
    content, error = BROKEN[kind]
    with pytest.raises(error):
        formats.detect(samples.put(tmp_path / "m", "model.safetensors", content))


def test_safetensors_need_the_code_that_computes(tmp_path):
    folder = samples.put(tmp_path / "m", "model.safetensors", samples.safetensors_bytes())
    with pytest.raises(InvalidInput, match="build"):
        formats.load(folder, samples.DIGEST)
    built = formats.load(folder, samples.DIGEST, build=lambda tensors: tensors)
    assert built["weight"].shape == (3, 1)


# --- archives ---------------------------------------------------------------------------------------


def test_a_zip_bomb(tmp_path):
    bomb = samples.zipped({"schema.json": b"0" * (64 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(TooLarge):
        formats.detect(samples.put(tmp_path / "m", "model.skops", bomb))


def test_an_archive_behind_other_bytes(tmp_path):
    content = b"\x80\x04N." + samples.zipped({"a/models/model.json": b"{}"})
    folder = samples.put(tmp_path / "m", "model.pt2", content)
    assert formats.detect(folder).runs_code  # it begins as a pickle
    with pytest.raises(InvalidInput, match="other bytes"):
        formats.detect(samples.put(tmp_path / "n", "model.pt2", b"junk" + content[4:]))


def test_a_json_file_beside_the_model_is_no_model(models, tmp_path):
    folder = lay(tmp_path / "m", models["lightgbm"])
    samples.put(folder, "config.json", '{"version": 1}')
    assert formats.detect(folder).name == "lightgbm"


def test_an_archive_whose_two_tables_differ(tmp_path):
    content = samples.zipped({"schema.json": b"{}"}).replace(b"schema.json", b"hidden.json", 1)
    with pytest.raises(InvalidInput, match="own header"):
        formats.detect(samples.put(tmp_path / "m", "model.skops", content))


# --- the store --------------------------------------------------------------------------------------


def test_bytes_are_verified_before_they_are_read(models, tmp_path):
    store = ArtifactStore(tmp_path / "store")
    folder = lay(tmp_path / "m", models["xgboost"])
    digest = store.put_tree(folder, "model").digest
    assert formats.detect(formats.stored_tree(store, digest)).name == "xgboost"
    answers = formats.load_approved(store, digest, tmp_path / "out", tried=True).predict(samples.ROWS)
    assert answers["prediction"].shape == (2,)
    entry = next(e for e in store.manifest(digest).entries if e.path == "model.ubj")
    name = entry.digest.removeprefix("sha256:")
    stored = next(path for path in (tmp_path / "store").rglob(name) if path.is_file())
    stored.chmod(0o644)
    stored.write_bytes(samples.call("os", "system", f"touch {tmp_path}/canary"))
    with pytest.raises(Corrupt):
        formats.load_approved(store, digest, tmp_path / "again")
    with pytest.raises(Corrupt):
        formats.detect(formats.stored_tree(store, digest))
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "again").exists()


# --- digests of parts -------------------------------------------------------------------------------


def test_the_same_model_saved_twice_has_one_payload_digest(models, tmp_path):
    store = ArtifactStore(tmp_path / "store")
    found = set()
    for i in range(2):
        folder = lay(tmp_path / f"m{i}", models["lightgbm"])
        text = (
            (folder / "MLmodel").read_text().replace("0" * 32, f"{i}" * 32).replace("2026-01-01", f"2026-01-0{i + 1}")
        )
        samples.put(folder, "MLmodel", text + f"run_id: r{i}\n")
        ref = store.put_tree(folder, "model")
        found.add((ref.digest, formats.payload_digest(store.manifest(ref.digest), formats.reader(store))))
    assert len({digest for digest, _ in found}) == 2
    assert len({payload for _, payload in found}) == 1
    other = lay(tmp_path / "other", ("lightgbm", "model.lgb", models["lightgbm"][2] + b"\n"))
    ref = store.put_tree(other, "model")
    assert formats.payload_digest(store.manifest(ref.digest), formats.reader(store)) not in {p for _, p in found}


def test_code_and_environment_have_digests_of_their_own(tmp_path):
    store = ArtifactStore(tmp_path / "store")

    def parts(name: str, files: dict[str, str]) -> tuple[str | None, str | None]:
        for path, text in files.items():
            samples.put(tmp_path / name, path, text)
        tree = store.manifest(store.put_tree(tmp_path / name, "model").digest)
        return formats.code_digest(tree), formats.env_digest(tree, formats.reader(store))

    assert parts("a", {"weights": "1"}) == (None, None)
    one = parts("b", {"code/f.py": "x", "requirements.txt": "numpy==2.0\ntorch==2.13.0\n"})
    same = parts("c", {"code/f.py": "x", "requirements.txt": "# made by\ntorch == 2.13.0\nnumpy==2.0  # pinned\n\n"})
    assert one == same
    assert None not in one
    other = parts("d", {"code/f.py": "y", "requirements.txt": "numpy==2.1\ntorch==2.13.0\n"})
    assert one[0] != other[0]
    assert one[1] != other[1]
