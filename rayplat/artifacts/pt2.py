"""Reads ``.pt2`` graphs (torch.export) without running anything that the file brings along.

``torch.export.load`` unpickles weights and sample inputs that ask for it, resolves operator names by attribute
lookup and evaluates size expressions: a crafted archive runs code. So an archive is read as plain zip and JSON
first, and only raw tensors, listed operators and plain symbols are let through. This list is ours, not the file's.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rayplat.errors import InvalidInput

_NAMES = """
    abs.default add.Tensor addmm.default bmm.default cat.default clamp.default clamp.Tensor clamp_max.default
    clamp_min.default cos.default div.Tensor embedding.default exp.default expand.default flatten.using_ints
    gelu.default isnan.default layer_norm.default leaky_relu.default linear.default log.default log1p.default
    logical_not.default matmul.default mean.dim mul.Tensor nan_to_num.default neg.default permute.default
    pow.Tensor_Scalar relu.default reshape.default select.int sigmoid.default silu.default sin.default
    slice.Tensor softmax.int sqrt.default squeeze.dim stack.default sub.Tensor sum.dim_IntList t.default
    tanh.default transpose.int unsqueeze.default view.default where.self
"""
OPERATORS = frozenset(f"torch.ops.aten.{name}" for name in _NAMES.split())
_RECORD = re.compile(
    r"[^/]+/(data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|\.data/(version|serialization_id))"
)
_MAX_RECORD_BYTES = 2 << 30
_WORD = re.compile(r"[A-Za-z0-9_.]*")
_SYMBOL = re.compile(r"[a-z][a-z0-9_]{0,30}|\d+|Symbol\('[a-z]\d+'(, (positive|integer)=True)*\)")
_GUARD = re.compile(r"L\['\w+'\]\.size\(\)\[\d+\] == L\['\w+'\]\.size\(\)\[\d+\]")
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def save(exported: Any, path: Path) -> None:
    """Write a ``torch.export.ExportedProgram`` so that `load` accepts it: no sample inputs, no source traces."""
    import torch

    exported._example_inputs = None  # torch pickles them otherwise; ours are in rayplat.json
    for node in exported.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "custom"):
            node.meta.pop(key, None)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(exported, path)


@dataclass(frozen=True)
class Graph:
    """``forward``: a plain function of the inputs returning a tuple of tensors. ``shapes`` are the inputs', with -1 for
    the batch, ``dtypes`` their types as numpy calls them; ``outputs`` tensors come out."""

    forward: Callable[..., Any]
    shapes: list[tuple[int, ...]]
    dtypes: list[str]
    outputs: int


def load(path: Path) -> Graph:
    """The graph in an archive. Raises `InvalidInput` for anything that is not plainly data."""
    audit(path)
    import torch

    try:
        exported = torch.export.load(path)
        signature, tensors = exported.graph_signature, {**exported.state_dict, **exported.constants}
        bound = [tensors[spec.target].detach() for spec in signature.input_specs if spec.target is not None]
        inputs = [node for node in exported.graph.nodes if node.name in signature.user_inputs]
        shapes = [_shape(node) for node in inputs]
        dtypes = [str(node.meta["val"].dtype).removeprefix("torch.") for node in inputs]
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as e:
        raise InvalidInput(path.name, f"torch cannot read this graph: {e}") from e
    _forget_sources()
    forward = exported.graph_module.forward
    return Graph(lambda *given: forward(*bound, *given), shapes, dtypes, len(signature.user_outputs))


def _forget_sources() -> None:
    """torch keeps the generated code of every graph for tracebacks: a host that loads thousands would grow."""
    import linecache

    from torch.fx import graph_module

    sources = getattr(getattr(graph_module, "_loader", None), "eval_cache", {})
    for name in list(sources):
        sources.pop(name, None)
        linecache.cache.pop(name, None)


def audit(path: Path, file: BinaryIO | None = None) -> None:
    """Raises `InvalidInput` naming the first thing in the archive that is not raw tensors and a plain graph.
    ``file`` is read in place of ``path``."""
    try:
        with zipfile.ZipFile(file or path) as archive:
            for info in archive.infolist():
                _check_record(path, info)
            names = {name.split("/", 1)[1]: name for name in archive.namelist()}
            for config in ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json"):
                if any(entry["use_pickle"] for entry in json.loads(archive.read(names[config]))["config"].values()):
                    raise InvalidInput(path.name, f"{config} asks for a pickled tensor")
            model = json.loads(archive.read(names["models/model.json"]))
        _check_graph(path, model)
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise InvalidInput(path.name, f"not a pt2 archive: {e}") from e
    except (KeyError, TypeError, AttributeError) as e:
        raise InvalidInput(path.name, f"not a pt2 archive as torch {_torch_version()} writes it: {e!r}") from e


def _check_record(path: Path, info: zipfile.ZipInfo) -> None:
    if not _RECORD.fullmatch(info.filename):
        raise InvalidInput(path.name, f"the record {info.filename!r} has no place in a graph of raw tensors")
    if info.filename.endswith("sample_inputs/model.pt") and info.file_size:
        raise InvalidInput(path.name, "it holds pickled sample inputs; save it with rayplat's write_bundle")
    if info.file_size > _MAX_RECORD_BYTES:
        raise InvalidInput(path.name, f"the record {info.filename!r} is over {_MAX_RECORD_BYTES} bytes")


def _check_graph(path: Path, model: dict[str, Any]) -> None:
    module = model["graph_module"]
    for node in module["graph"]["nodes"]:
        if node["target"] not in OPERATORS:
            raise InvalidInput(path.name, f"the operator {node['target']!r} is not on the list of permitted ones")
        if node["metadata"]:
            raise InvalidInput(path.name, "its nodes carry metadata; save it with rayplat's write_bundle")
    for guard in model.get("guards_code") or ():
        if not _GUARD.fullmatch(guard):
            raise InvalidInput(path.name, f"the guard {guard!r} is more than an equality of sizes")
    if module.get("treespec_namedtuple_fields"):
        raise InvalidInput(path.name, "its inputs are named tuples; tensors are expected")
    for call in module["module_call_graph"]:
        for spec in ("in_spec", "out_spec") if call.get("signature") else ():
            kinds = {value for key, value in _strings(json.loads(call["signature"][spec])) if key == "type"}
            if not kinds <= _CONTAINERS:
                raise InvalidInput(path.name, f"its inputs are {sorted(map(str, kinds))}; tensors are expected")
    for symbol in model.get("range_constraints") or {}:
        if not _SYMBOL.fullmatch(symbol):
            raise InvalidInput(path.name, f"{symbol!r} is no plain size symbol")
    for key, value in _strings(module["graph"]):
        rule = _SYMBOL if key == "expr_str" else _WORD
        if isinstance(value, str) and key in ("expr_str", "name", "as_name", "as_string") and not rule.fullmatch(value):
            raise InvalidInput(path.name, f"{value!r} is no plain name or symbol")


def _strings(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a JSON tree with the key that it stands under."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _strings(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from _strings(value, key)
    else:
        yield key, tree


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in node.meta["val"].shape)


def _torch_version() -> str:
    from importlib.metadata import version

    return version("torch")
