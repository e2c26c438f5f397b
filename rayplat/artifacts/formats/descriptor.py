"""MLflow's ``MLmodel``: what a model folder says about itself. A hint that must agree with the bytes, never an order.

Read as plain YAML with limits; nothing that it names is imported or opened here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rayplat.artifacts.formats.tree import Tree
from rayplat.errors import InvalidInput

FILE = "MLmodel"
OURS = "rayplat.artifacts.bundle"
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 40
# flavor of MLflow: the formats that it stands for, when it is only data
FORMATS = {
    "sklearn": {"skops"},
    "xgboost": {"xgboost", "skops"},
    "lightgbm": {"lightgbm", "skops"},
    "onnx": {"onnx"},
    "pytorch": {"torch_export"},
    "transformers": {"safetensors"},
}
_LOADERS = {f"mlflow.{flavor}" for flavor in FORMATS} | {OURS}
_PATHS = ("data", "model_data", "model_path", "pickled_model")
_CODE_KEYS = {
    "code": "brings code paths",
    "model_code_path": "is a model from code",
    "python_model": "is a pickled Python model",
    "cloudpickle_version": "is a cloudpickled model",
    "artifacts": "is a Python model with artifacts",
    "custom_objects": "brings custom objects",
}


@dataclass(frozen=True)
class Claim:
    """``flavor`` says that its model is at ``path`` (a file or a folder; "" where it names none)."""

    flavor: str
    path: str


@dataclass(frozen=True)
class Descriptor:
    """``code`` says why following this MLmodel would run code, "" where not. ``inputs`` and ``outputs`` are what the
    signature lists: name, type, whether it is required."""

    claims: tuple[Claim, ...]
    code: str
    inputs: tuple[tuple[str, str, bool], ...] = ()
    outputs: tuple[tuple[str, str, bool], ...] = ()


def read(tree: Tree) -> Descriptor | None:
    """The MLmodel of ``tree``; None where it has none. Raises `InvalidInput` for one that is no plain description."""
    if FILE not in tree.sizes:
        return None
    content = parse(tree.read(FILE, _MAX_BYTES))
    flavors = content.get("flavors")
    if not isinstance(flavors, dict) or not all(isinstance(conf, dict) for conf in flavors.values()):
        raise InvalidInput(FILE, "it lists no flavors")
    claims = tuple(Claim(str(name), _path(conf)) for name, conf in flavors.items() if name in FORMATS)
    code = next((why for name, conf in flavors.items() for why in _code(str(name), conf)), "")
    signature = content.get("signature") if isinstance(content.get("signature"), dict) else {}
    return Descriptor(claims, code, _columns(signature, "inputs"), _columns(signature, "outputs"))


def parse(content: bytes) -> dict[str, Any]:
    """YAML without tags, references or deep nesting. Raises `InvalidInput`."""
    import yaml

    try:
        depth = 0
        for event in yaml.parse(content, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _MAX_DEPTH:
                raise InvalidInput(FILE, f"it nests deeper than {_MAX_DEPTH} or repeats parts by reference")
        found = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError) as e:
        raise InvalidInput(FILE, f"not plain YAML: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from e
    if not isinstance(found, dict):
        raise InvalidInput(FILE, "not a YAML mapping")
    return found


def _code(flavor: str, conf: dict[str, Any]) -> Iterator[str]:
    """Why loading by this flavor would run code from the tree, or from elsewhere."""
    loader = conf.get("loader_module")
    if flavor == "python_function" and str(loader) not in _LOADERS:
        yield f"it is loaded by the module {str(loader)[:100]!r}"
    yield from (f"its flavor {flavor!r} {_CODE_KEYS[key]}" for key in _CODE_KEYS if conf.get(key))
    kind = conf.get("model_class")
    if kind is not None and not str(kind).startswith(f"{flavor}."):
        yield f"its flavor {flavor!r} makes a {str(kind)[:100]!r}"
    for key in _PATHS:
        value = conf.get(key)
        if value is not None and (not isinstance(value, str) or _leaves(value)):
            yield f"its flavor {flavor!r} reads {str(value)[:100]!r}, outside of the tree"


def _leaves(path: str) -> bool:
    return path.startswith(("/", "~")) or "\\" in path or ":" in path or "\0" in path or ".." in path.split("/")


def _path(conf: dict[str, Any]) -> str:
    found = next((conf[key] for key in _PATHS if isinstance(conf.get(key), str)), "")
    return "" if found in (".", "./") else found.removeprefix("./").rstrip("/")


def _columns(signature: Any, side: str) -> tuple[tuple[str, str, bool], ...]:
    """MLflow keeps a signature's sides as JSON text: a list of columns or tensors, the latter maybe without names."""
    import json

    try:
        listed = json.loads(signature.get(side) or "[]")
        return tuple((str(c.get("name", i)), _type(c), bool(c.get("required", True))) for i, c in enumerate(listed))
    except (ValueError, TypeError, AttributeError, RecursionError, KeyError) as e:
        raise InvalidInput(FILE, f"its signature's {side} cannot be read") from e


def _type(column: dict[str, Any]) -> str:
    if column["type"] == "tensor":
        spec = column["tensor-spec"]
        return f"tensor {spec['dtype']}{list(spec['shape'])}"
    return str(column["type"])
