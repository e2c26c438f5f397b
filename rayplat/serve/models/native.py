"""Models in formats that are only data: what each knows of its inputs, and MLflow's ways of predicting with them.

An MLmodel beside the model decides the signature and what ``predict`` means: scikit-learn's ``predict_fn``, the labels
of an ``XGBClassifier``, ONNX outputs as columns. Without one the model says what it can: names and width of a matrix,
shapes and types of ONNX and torch.export inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.artifacts.formats import Predictor
from rayplat.artifacts.formats.lightgbm import LightgbmModel
from rayplat.artifacts.formats.onnx import OnnxModel
from rayplat.artifacts.formats.skops import SkopsModel
from rayplat.artifacts.formats.torch_export import GraphModel
from rayplat.artifacts.formats.xgboost import XgboostModel
from rayplat.serve import signatures
from rayplat.serve.models.mlmodel import MLmodel
from rayplat.types import Signature, TensorSpec

PLATFORMS = {
    "torch_export": "pytorch_pt2",
    "onnx": "onnx_onnxv1",
    "skops": "sklearn_skops",
    "xgboost": "xgboost_ubj",
    "lightgbm": "lightgbm_text",
    "graph": "ensemble",
    "safetensors": "transformers_safetensors",
    "code": "mlflow_pyfunc",
}
_ONNX = {"tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(bool)": "BOOL"}
_ONNX |= {f"tensor({sign}int{bits})": f"{sign}INT{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)}
_TORCH = {"float16": "FP16", "float32": "FP32", "float64": "FP64", "bool": "BOOL", "uint8": "UINT8"}
_TORCH |= {f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)}
_PREDICTION = (TensorSpec(signatures.OUTPUT, "FP32"),)

Outputs = Mapping[str, npt.NDArray[Any]]


class Labels:
    """The classes that an ``XGBClassifier`` predicts, from the booster's probabilities, as its own ``predict`` does."""

    def __init__(self, model: XgboostModel) -> None:
        self.model = model

    def predict(self, columns: Mapping[str, Any]) -> Outputs:
        found = self.model.predict(columns)[signatures.OUTPUT]
        labels = found.argmax(axis=1) if found.ndim == 2 else (found > 0.5).astype(np.int64)
        return {signatures.OUTPUT: labels}


class Renamed:
    """A model whose outputs have other names, or lose a second dimension of one (as MLflow gives ONNX outputs)."""

    def __init__(self, model: Predictor, names: Mapping[str, str], *, flat: bool = False) -> None:
        self.model, self._names, self._flat = model, names, flat

    def predict(self, columns: Mapping[str, Any]) -> Outputs:
        found = self.model.predict(columns)
        return {self._names.get(name, name): self._shaped(values) for name, values in found.items()}

    def _shaped(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.reshape(-1) if self._flat and values.ndim == 2 and values.shape[1] == 1 else values


def assembled(model: Predictor, described: MLmodel) -> tuple[Predictor, Signature]:
    """The predictor as its MLmodel wants it, and its signature."""
    own = _known(model)
    declared = described.signature
    if declared is None or declared.open:
        return _mlflow(model, described), own
    if own.matrix is not None:
        declared = signatures.with_matrix(_widened(declared, model))
        if declared.matrix is None and len(declared.inputs) == len(own.inputs) == 1:
            declared = replace(declared, matrix=declared.inputs[0])
    predictor = _mlflow(model, described)
    declared = replace(declared, layout=_layout(model, declared))
    outputs = declared.outputs or own.outputs
    if len(outputs) == 1 and outputs[0].name != signatures.OUTPUT and not isinstance(model, OnnxModel):
        predictor = Renamed(predictor, {signatures.OUTPUT: outputs[0].name})
    if isinstance(model, OnnxModel):
        outputs = _named(outputs, [output.name for output in model.outputs])
    return predictor, replace(declared, outputs=outputs)


def _mlflow(model: Predictor, described: MLmodel) -> Predictor:
    """What MLflow's pyfunc of this flavor would answer with."""
    if isinstance(model, SkopsModel) and described.flavors:
        model.answer_with(str(described.flavor("python_function").get("predict_fn") or "predict"))
    if isinstance(model, XgboostModel):
        kind = str(described.flavor("xgboost").get("model_class") or "")
        if kind.startswith("xgboost.sklearn."):
            model.best_round()
        if kind.endswith("Classifier"):
            return Labels(model)
    if isinstance(model, OnnxModel) and described.signature is not None and described.signature.tabular:
        return Renamed(model, {}, flat=True)
    if isinstance(model, GraphModel) and described.flavors and model.n_outputs == 1:
        return Renamed(model, {"output_0": signatures.OUTPUT})
    return model


def _layout(model: Predictor, declared: Signature) -> str:
    """The form in which MLflow's server gives the answer: ONNX graphs answer a table with a table."""
    if isinstance(model, OnnxModel):
        return "records" if declared.tabular else "arrays"
    return "array"


def _known(model: Predictor) -> Signature:
    """What the model knows of itself."""
    if isinstance(model, XgboostModel | LightgbmModel):
        return signatures.of_matrix(model.names, model.width, _PREDICTION, "FP32")
    if isinstance(model, SkopsModel):
        outputs = tuple(TensorSpec(name, "FP64") for name in model.answers)
        if model.width is None:
            return signatures.opened(outputs)
        return signatures.of_matrix(model.names, model.width, outputs, "FP64")
    if isinstance(model, OnnxModel):
        inputs = tuple(TensorSpec(i.name, _ONNX.get(i.type, "BYTES"), _dims(i.shape)) for i in model.inputs)
        outputs = tuple(TensorSpec(o.name, _ONNX.get(o.type, "BYTES"), _dims(o.shape)) for o in model.outputs)
        return _tensors(inputs, outputs)
    if isinstance(model, GraphModel):
        described = zip(model.inputs, model.dtypes, model.shapes, strict=True)
        inputs = tuple(
            TensorSpec(name, _TORCH.get(dtype, "FP32"), (-1, *shape[1:])) for name, dtype, shape in described
        )
        outputs = tuple(TensorSpec(f"output_{i}", "FP32") for i in range(model.n_outputs))
        return _tensors(inputs, outputs)
    return signatures.opened()


def _tensors(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Signature:
    """A single tensor may come under any name."""
    return Signature(inputs, outputs, matrix=inputs[0] if len(inputs) == 1 else None)


def _widened(signature: Signature, model: Predictor) -> Signature:
    """Numbers of columns go to the model as they were given; float32 only where the signature says so."""
    if not isinstance(model, SkopsModel | LightgbmModel | XgboostModel):
        return signature
    inputs = tuple(replace(s, wide=True) if s.datatype == "FP64" else s for s in signature.inputs)
    return replace(signature, inputs=inputs)


def _named(specs: tuple[TensorSpec, ...], names: list[str]) -> tuple[TensorSpec, ...]:
    if len(specs) != len(names):
        return tuple(TensorSpec(name, "FP32") for name in names)
    return tuple(replace(spec, name=name) for spec, name in zip(specs, names, strict=True))


def _dims(shape: Any) -> tuple[int, ...]:
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return (-1, *sizes[1:])
