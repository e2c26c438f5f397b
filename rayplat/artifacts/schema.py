"""What a model takes and gives, as the tree says it: our spec, or the signature in its MLmodel. Pure comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rayplat.artifacts import bundle
from rayplat.artifacts.formats import descriptor, graph
from rayplat.artifacts.formats.tree import Tree
from rayplat.types import ModelSpec, Signature, TensorSpec

_MAX_SPEC_BYTES = 64 << 20
_SAME = {"double": "number", "float": "number", "numeric": "number", "categorical": "string"}
_SAME |= {"BYTES": "string", "INT64": "long", "INT32": "integer", "BOOL": "boolean"}
_SAME |= {"FP16": "number", "FP32": "number", "FP64": "number"}


@dataclass(frozen=True)
class Field:
    """One input or output. ``kind`` is the type's name; ``required``: a request without it is refused."""

    name: str
    kind: str
    required: bool = True


@dataclass(frozen=True)
class Schema:
    """``keys`` are what features are looked up by, none where a request brings them."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    keys: tuple[str, ...] = ()


def of_spec(spec: ModelSpec) -> Schema:
    """The schema of a model of ours: every feature is an input, every output a number."""
    inputs = tuple(Field(f.name, _kind(f.kind), not f.nullable) for f in spec.features)
    keys = (spec.entity,) if spec.views else ()
    return Schema(inputs, tuple(Field(name, "number") for name in spec.outputs), keys)


def of_signature(signature: Signature) -> Schema:
    """The schema of whatever has a signature: floats of any width are numbers. What is looked up need not be sent, but
    a request that sends it may be refused for a missing value."""
    looked_up = bool(signature.keys)
    inputs = (Field(s.name, _tensor(s), not s.nullable if looked_up else s.required) for s in signature.inputs)
    return Schema(tuple(inputs), tuple(Field(s.name, _tensor(s)) for s in signature.outputs), signature.keys)


def of_tree(tree: Tree) -> Schema | None:
    """The schema of the model in ``tree``; None where it declares none. Raises `InvalidInput` for a damaged one."""
    if graph.FILE in tree.sizes:
        return of_signature(graph.signature_of(graph.parse(tree.read(graph.FILE, _MAX_SPEC_BYTES))))
    if bundle.SPEC_FILE in tree.sizes:
        return of_spec(bundle.parse_spec(tree.read(bundle.SPEC_FILE, _MAX_SPEC_BYTES)))
    described = descriptor.read(tree)
    if described is None or not (described.inputs or described.outputs):
        return None
    sides = (described.inputs, described.outputs)
    inputs, outputs = (tuple(Field(n, _kind(k), r) for n, k, r in side) for side in sides)
    return Schema(inputs, outputs)


def problems(candidate: Schema | None, champion: Schema | None) -> tuple[str, ...]:
    """Why requests and readers of ``champion`` would not do for ``candidate``, field by field; nothing where they do.

    An input may be added where it is optional, and become optional; an output may be added."""
    if champion is None:
        return ()
    if candidate is None:
        return ("the model declares no inputs and outputs, the version that is served now does",)
    return (*_inputs(candidate, champion), *_outputs(candidate, champion), *_keys(candidate, champion))


def _inputs(candidate: Schema, champion: Schema) -> Iterator[str]:
    new, old = ({f.name: f for f in schema.inputs} for schema in (candidate, champion))
    for name, was in old.items():
        now = new.get(name)
        if now is None:
            yield f"the input {name!r} was removed"
        elif now.kind != was.kind:
            yield f"the input {name!r} is {now.kind} and was {was.kind}"
        elif now.required and not was.required:
            yield f"the input {name!r} is required and was optional"
    for name, now in new.items():
        if name not in old and now.required:
            yield f"the input {name!r} was added and is required"


def _outputs(candidate: Schema, champion: Schema) -> Iterator[str]:
    new = {f.name: f for f in candidate.outputs}
    for was in champion.outputs:
        if was.name not in new:
            yield f"the output {was.name!r} was removed"
        elif new[was.name].kind != was.kind:
            yield f"the output {was.name!r} is {new[was.name].kind} and was {was.kind}"


def _keys(candidate: Schema, champion: Schema) -> Iterator[str]:
    if champion.keys and champion.keys != candidate.keys:
        now = ", ".join(candidate.keys) or "nothing"
        yield f"features are looked up by {now}, and were by {', '.join(champion.keys)}"


def _kind(name: str) -> str:
    return _SAME.get(name, name)


def _tensor(spec: TensorSpec) -> str:
    kind = _kind(spec.logical or spec.datatype)
    return kind if len(spec.shape) == 1 else f"{kind} {list(spec.shape)}"
