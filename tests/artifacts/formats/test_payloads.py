"""Nothing that runs code on load is loaded: planted payloads of every kind, and a canary that stays away."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import zlib
from pathlib import Path

import pytest

from rayplat.artifacts import formats
from rayplat.errors import InvalidInput, NeedsWaiver, RayplatError, TooLarge
from tests.artifacts.formats import samples


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that every payload would make."""
    return tmp_path / "canary"


@pytest.fixture
def gadgets(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Pickles that go through functions which scanners let pass."""
    touch = f"open({str(canary)!r}, 'w').close()"
    samples.put(tmp_path / "path", "a_canary_module.py", touch)
    samples.put(tmp_path / "hub", "hubconf.py", touch)
    model = samples.describe(tmp_path / "pyfunc", "sklearn", "x", loader_module="a_canary_module")
    monkeypatch.syspath_prepend(tmp_path / "path")
    return {
        "os.system": samples.call("os", "system", f"touch {canary}"),
        "exec": samples.call("builtins", "exec", touch),
        "importlib": samples.call("importlib", "import_module", "a_canary_module"),
        "torch.hub": samples.local_repository(tmp_path / "hub"),
        "mlflow": samples.call("mlflow.pyfunc", "load_model", str(model)),
        "protocol 0": f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode(),
    }


NAMES = ("os.system", "exec", "importlib", "torch.hub", "mlflow", "protocol 0")


@pytest.mark.parametrize("name", ["os.system", "exec", "importlib", "protocol 0"])
def test_the_payloads_do_run_when_they_are_loaded(name, gadgets, canary):
    pickle.loads(gadgets[name])
    assert canary.exists()


def refused(folder: Path, canary: Path) -> RayplatError:
    """The error that keeps ``folder`` from being loaded, the canary still away."""
    with pytest.raises((NeedsWaiver, InvalidInput, TooLarge)) as caught:
        formats.load(folder, samples.DIGEST)
    assert not canary.exists()
    return caught.value


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_needs_a_waiver_whatever_it_calls(name, gadgets, canary, tmp_path):
    folder = samples.describe(tmp_path / "m", "sklearn", "model.pkl")
    error = refused(samples.put(folder, "model.pkl", gadgets[name]), canary)
    assert isinstance(error, NeedsWaiver)
    for part in (samples.DIGEST, "model.pkl", f"rayplat waiver create {samples.DIGEST}"):
        assert part in str(error)


WRAPPED = {
    "joblib": ("model.joblib", lambda p: p),
    "joblib zlib": ("model.joblib", zlib.compress),
    "joblib gzip": ("model.bin", gzip.compress),
    "joblib bz2": ("model.bin", bz2.compress),
    "joblib xz": ("model.bin", lzma.compress),
    "torch": ("data/model.pt", samples.torch_archive),
    "torch under another name": ("weights.bin", samples.torch_archive),
    "old torch": ("model.pth", lambda p: b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + p),
    "torchscript": ("model.pt", lambda p: samples.zipped({"m/constants.pkl": p, "m/code/__torch__.py": b""})),
    "npy": ("weights.npy", samples.object_array),
    "npz": ("weights.npz", lambda p: samples.zipped({"w.npy": samples.object_array(p)})),
    "archive": ("model.zip", lambda p: samples.zipped({"deep/inside.pkl": p})),
    "keras": ("model.keras", lambda p: samples.zipped({"config.json": b"{}", "metadata.json": b"{}"})),
    "hdf5": ("weights.dat", lambda p: b"\x89HDF\r\n\x1a\n" + p),
    "tensorflow": ("saved_model.pb", lambda p: b"\x08\x01" + p),
    "python model": ("python_model.pkl", lambda p: p),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_payloads_are_told_by_their_bytes(kind, gadgets, canary, tmp_path):
    path, wrap = WRAPPED[kind]
    folder = samples.put(tmp_path / "m", path, wrap(gadgets["os.system"]))
    samples.put(folder, "model.safetensors", b"\x08\0\0\0\0\0\0\0{}      ")  # a harmless model beside it helps nobody
    assert isinstance(refused(folder, canary), NeedsWaiver)


DISGUISED = ("model.ubj", "model.onnx", "model.lgb", "model.skops", "model.safetensors", "data/model.pt2")


@pytest.mark.parametrize("path", DISGUISED)
@pytest.mark.parametrize("payload", ["os.system", "protocol 0"])
def test_a_pickle_under_the_name_of_a_safe_format(path, payload, gadgets, canary, tmp_path):
    refused(samples.put(tmp_path / "m", path, gadgets[payload]), canary)


FORGED = {
    "loader module": {"loader_module": "a_canary_module"},
    "code paths": {"code": "code"},
    "model from code": {"loader_module": "mlflow.pyfunc.loaders.code_model", "model_code_path": "model.py"},
    "python model": {"loader_module": "mlflow.pyfunc.model", "python_model": "model.ubj"},
    "cloudpickle": {"cloudpickle_version": "3.1.2"},
    "outside": {"data": "../../elsewhere"},
    "absolute": {"data": "/etc/passwd"},
    "address": {"data": "http://example.org/model"},
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_mlmodel_counts_as_code(forgery, gadgets, canary, tmp_path):
    folder = samples.describe(tmp_path / "m", "xgboost", "model.ubj", **FORGED[forgery])
    samples.put(folder, "model.ubj", b"{L\0\0\0\0\0\0\0\x07learner{}}")
    samples.put(folder, "a_canary_module.py", "open('canary', 'w')")
    error = refused(folder, canary)
    assert isinstance(error, NeedsWaiver)
    assert "MLmodel" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "flavors: !!python/object/apply:os.system ['touch canary']",
        "a: &a [x, x]\nb: &b [*a, *a]\nflavors: {}",
        "flavors: " + "[" * 5000,
        "- a list",
        "flavors: 3",
        "\x00",
    ],
    ids=["python tag", "references", "nesting", "list", "number", "control"],
)
def test_an_mlmodel_that_is_more_than_plain_yaml(text, canary, tmp_path):
    folder = samples.put(tmp_path / "m", "MLmodel", text)
    assert isinstance(
        refused(samples.put(folder, "model.safetensors", samples.safetensors_bytes()), canary), InvalidInput
    )


def test_a_type_outside_of_the_platforms_list_counts_as_code(canary, tmp_path):
    schema = {
        "__class__": "system",
        "__module__": "os",
        "__loader__": "FunctionNode",
        "content": "",
        "protocol": 2,
        "_skops_version": "0.16",
    }
    folder = samples.describe(tmp_path / "m", "sklearn", "model.skops", skops_trusted_types=["os.system"])
    samples.put(folder, "model.skops", samples.zipped({"schema.json": json.dumps(schema).encode()}))
    error = refused(folder, canary)
    assert isinstance(error, NeedsWaiver)
    assert "os.system" in str(error)


def test_with_a_waiver_it_is_loaded_and_runs(gadgets, canary, tmp_path):
    folder = samples.put(tmp_path / "m", "model.pkl", gadgets["os.system"])
    formats.load(folder, samples.DIGEST, waiver="w1")
    assert canary.exists()
