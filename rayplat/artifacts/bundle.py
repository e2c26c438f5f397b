"""The model bundle: one folder with everything that is needed to answer with a model, and nothing that runs code.

::

    data/model.pt2    the graph and its weights (torch.export); numbers are normalised inside it
    rayplat.json      ModelSpec, vocabularies, an input example and the outputs it must give
    MLmodel, …        the same model as MLflow describes it (written by `rayplat.tracking`)

Knows neither MLflow nor the registry; torch is imported when a bundle is written or loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.artifacts import pt2
from rayplat.artifacts.encoding import Encoding
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Corrupt, InvalidInput, NotFound, SchemaMismatch
from rayplat.types import FeatureSpec, ModelSpec

SPEC_FILE = "rayplat.json"
GRAPH_FILE = "data/model.pt2"
FORMAT = "rayplat-bundle/1"
_TOLERANCE = 1e-5

Outputs = dict[str, npt.NDArray[np.float32]]


class LoadedModel:
    """A model in memory. `predict` may be called from several threads at once."""

    def __init__(
        self, spec: ModelSpec, encoding: Encoding, forward: Callable[..., Any], example: Mapping[str, Any]
    ) -> None:
        self.spec = spec
        self.encoding = encoding
        self._forward = forward
        self._example = example

    def predict(self, columns: Mapping[str, Any]) -> Outputs:
        """FP32 [n] per output. ``columns``: n values per feature, numbers with NaN or None for missing, strings or
        None. Raises `SchemaMismatch`, see `Encoding.encode`."""
        return self.predict_encoded(*self.encoding.encode(columns))

    def predict_encoded(self, x: npt.NDArray[np.float32], c: npt.NDArray[np.int64]) -> Outputs:
        """`predict` for what `Encoding.encode` or `Encoding.encode_table` returned."""
        import torch

        with torch.inference_mode():
            results = self._forward(torch.from_numpy(x), torch.from_numpy(c))
        return {name: tensor.numpy() for name, tensor in zip(self.spec.outputs, results, strict=True)}

    @property
    def example(self) -> Mapping[str, Any]:
        """``{"columns": …, "outputs": …}``: the rows that `warm_up` runs."""
        return self._example

    def warm_up(self) -> None:
        """Run the stored example; raises `Corrupt` where the outputs are not the stored ones (within 1e-5)."""
        found = self.predict(self._example["columns"])
        for name, expected in self._example["outputs"].items():
            if not np.allclose(found[name], expected, rtol=0, atol=_TOLERANCE, equal_nan=False):
                raise Corrupt(f"the model {self.spec.model!r}", f"{name} {expected}", f"{found[name].tolist()}")


def write_bundle(
    folder: Path, exported: Any, spec: ModelSpec, encoding: Encoding, input_example: Mapping[str, Any]
) -> LoadedModel:
    """Write a bundle into ``folder`` and return the model as it loads from there.

    ``exported`` is a ``torch.export.ExportedProgram`` of ``(numeric [n, d] float32, categorical [n, c] int64)`` to
    one float32 [n] per output of ``spec``; ``input_example`` holds a few rows by column.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pt2.save(exported, folder / GRAPH_FILE)
    stored: dict[str, Any] = {"format": FORMAT, "spec": asdict(spec), "encoding": encoding.to_json()}
    model = LoadedModel(spec, encoding, _load_graph(folder, spec, encoding), {})
    outputs = model.predict(input_example)
    stored["example"] = {
        "columns": {name: [_plain(v) for v in input_example[name]] for name in _names(spec)},
        "outputs": {name: values.tolist() for name, values in outputs.items()},
    }
    (folder / SPEC_FILE).write_text(json.dumps(stored, indent=1, sort_keys=True, allow_nan=False) + "\n")
    model._example = stored["example"]
    return model


def read_spec(folder: Path) -> ModelSpec:
    """What the model in ``folder`` expects, without loading it. Raises NotFound, InvalidInput."""
    return _read(folder)[0]


def spec_of(store: ArtifactStore, digest: str) -> ModelSpec:
    """The same of a bundle in ``store``, of which nothing else is read. Raises NotFound, Corrupt, InvalidInput."""
    for entry in store.manifest(digest).entries:
        if entry.path == SPEC_FILE:
            return _parse(store.get_bytes(entry.digest))[0]
    raise NotFound("model bundle", digest, f"the tree holds no {SPEC_FILE}")


def parse_spec(content: bytes) -> ModelSpec:
    """The spec in the bytes of a `SPEC_FILE`. Raises InvalidInput."""
    return _parse(content)[0]


def read_example(folder: Path) -> dict[str, dict[str, list[Any]]]:
    """``{"columns": …, "outputs": …}`` of the stored example, by column."""
    example: dict[str, dict[str, list[Any]]] = _read(folder)[2]
    return example


def load_bundle(folder: Path) -> LoadedModel:
    """The model in ``folder``, which may be removed afterwards. Limits torch to one thread in this process: a
    request of a few rows only loses time to more.

    Raises NotFound (no bundle there), InvalidInput (a graph with anything but listed operators and raw tensors),
    SchemaMismatch (the graph does not take what the spec says).
    """
    import torch

    torch.set_num_threads(1)
    folder = Path(folder)
    spec, encoding, example = _read(folder)
    return LoadedModel(spec, encoding, _load_graph(folder, spec, encoding), example)


def _load_graph(folder: Path, spec: ModelSpec, encoding: Encoding) -> Callable[..., Any]:
    graph = pt2.load(folder / GRAPH_FILE)
    expected = [(-1, len(encoding.numeric)), (-1, len(encoding.categorical))]
    if graph.shapes != expected:
        said = f"takes inputs of shape {graph.shapes}, the spec of {spec.model!r} says {expected}"
        raise SchemaMismatch("model.pt2", said)
    return graph.forward


def _read(folder: Path) -> tuple[ModelSpec, Encoding, Any]:
    try:
        content = (Path(folder) / SPEC_FILE).read_bytes()
    except FileNotFoundError:
        raise NotFound("model bundle", str(folder), f"it would hold {SPEC_FILE}") from None
    return _parse(content)


def _parse(content: bytes) -> tuple[ModelSpec, Encoding, Any]:
    try:
        stored = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise InvalidInput(SPEC_FILE, f"not valid JSON: {e}") from e
    try:
        if stored["format"] != FORMAT:
            raise InvalidInput(SPEC_FILE, f"format {stored['format']!r} is not {FORMAT!r}")
        fields = dict(stored["spec"])
        fields["features"] = tuple(FeatureSpec(**feature) for feature in fields["features"])
        fields["outputs"] = tuple(fields["outputs"])
        spec = ModelSpec(**fields)
        return spec, Encoding.from_json(spec.features, stored["encoding"]), stored["example"]
    except (KeyError, TypeError, AttributeError) as e:
        raise InvalidInput(SPEC_FILE, f"a field is absent or wrong: {e!r}") from e


def _names(spec: ModelSpec) -> list[str]:
    return [feature.name for feature in spec.features]


def _plain(value: Any) -> Any:
    """A JSON value: numbers as float, NaN and None as null."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    return None if np.isnan(number) else number


def _load_pyfunc(path: str) -> Any:
    """MLflow's way in: ``mlflow.pyfunc.load_model`` calls this and then ``predict(pandas.DataFrame)``."""
    return _Pyfunc(load_bundle(Path(path)))


class _Pyfunc:
    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def predict(self, frame: Any, params: Any = None) -> Any:  # noqa: ARG002 - MLflow's signature
        columns = {name: frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame}
        return type(frame)(self._model.predict(columns))
