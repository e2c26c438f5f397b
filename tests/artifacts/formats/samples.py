"""Small real models in each format, model folders as MLflow lays them out, and files that would run code if loaded."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np

COLUMNS = ("a", "b", "c")
ROWS = {"a": [0.1, 0.9], "b": [0.2, 0.8], "c": [0.5, 0.5]}
DIGEST = "sha256:" + "7" * 64


def rows(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).random((n, 3)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 1).astype(np.float32)


def xgboost_bytes(kind: str = "ubj") -> bytes:
    import xgboost

    x, y = rows()
    data = xgboost.DMatrix(x, y, feature_names=list(COLUMNS))
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 3)
    return bytes(booster.save_raw(kind))


def lightgbm_text() -> str:
    import lightgbm

    x, y = rows()
    options = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    data = lightgbm.Dataset(x, y, feature_name=list(COLUMNS))
    return str(lightgbm.train(options, data, 3).model_to_string())


def onnx_model(operator: str = "MatMul", domain: str = "", location: str | None = None):
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((3, 1), dtype=np.float32), "w")
    if location is not None:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)
    nodes = [
        helper.make_node(operator, ["x", "w"], ["z"], domain=domain),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def skops_bytes(model=None) -> bytes:
    import skops.io
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = rows()
    fitted = model if model is not None else make_pipeline(StandardScaler(), LogisticRegression())
    return bytes(skops.io.dumps(fitted.fit(x, y)))


def safetensors_bytes() -> bytes:
    from safetensors.numpy import save

    return bytes(save({"weight": np.ones((3, 1), dtype=np.float32), "bias": np.zeros(1, dtype=np.float32)}))


def describe(folder: Path, flavor: str, path: str, **more) -> Path:
    """An MLmodel like the one MLflow writes for ``flavor``; ``more`` goes into the python_function flavor."""
    keys = {"sklearn": ("pickled_model", "model_path"), "pytorch": ("model_data", "data")}.get(flavor, ("data", "data"))
    inputs = [{"type": "double", "name": name, "required": True} for name in COLUMNS]
    content = {
        "flavors": {
            flavor: {keys[0]: path, "code": None},
            "python_function": {keys[1]: path, "loader_module": f"mlflow.{flavor}", "python_version": "3.11.7"} | more,
        },
        "model_uuid": "0" * 32,
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps([{"type": "double", "name": "prediction"}])},
        "utc_time_created": "2026-01-01 00:00:00.000000",
    }
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MLmodel").write_text(yaml.safe_dump(content))
    return folder


def put(folder: Path, path: str, content: bytes | str) -> Path:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


# --- what must never run ----------------------------------------------------------------------------


def call(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls ``module.name(argument)`` when it is loaded; nothing is imported to write it."""
    text = argument.encode()
    return b"\x80\x04c" + f"{module}\n{name}\n".encode() + b"X" + len(text).to_bytes(4, "little") + text + b"\x85R."


def local_repository(where: Path) -> bytes:
    """A pickle that calls ``torch.hub.load(where, 'canary', source='local')``."""
    calls = _Call("torch.hub", "load", (str(where), "canary"), {"source": "local"})
    return pickle.dumps(calls)


class _Call:
    def __init__(self, module: str, name: str, args: tuple, kwargs: dict) -> None:
        self._what = (module, name, args, kwargs)

    def __reduce__(self):
        import functools
        import importlib

        module, name, args, kwargs = self._what
        return functools.partial(getattr(importlib.import_module(module), name), *args, **kwargs), ()


def torch_archive(payload: bytes) -> bytes:
    """A ``.pt`` as ``torch.save`` writes it, with ``payload`` as its pickle."""
    return zipped({"archive/data.pkl": payload, "archive/version": b"3\n", "archive/byteorder": b"little"})


def zipped(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def object_array(payload: bytes) -> bytes:
    """A ``.npy`` of Python objects: its header, and a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + payload
