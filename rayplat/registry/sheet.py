"""All that can be read of one model version without loading it: its files, signature, environment and tracked run.

What cannot be read becomes a note and never an error: the rest is still told. No code of a model is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rayplat.artifacts import bundle
from rayplat.artifacts.manifest import Entry
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import InvalidInput, RayplatError
from rayplat.tracking import Tracking
from rayplat.types import ModelVersion
from rayplat.types.comparison import Plain

T = TypeVar("T")
Values = Mapping[str, Plain]

MLMODEL = "MLmodel"
REQUIREMENTS = ("requirements.txt", "conda.yaml")
PYTHON = "python_env.yaml"
_LARGEST_DOCUMENT = 4 << 20
_PACKAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*(.*)")


@dataclass(frozen=True)
class Sheet:
    """What is known of one version. None: it could not be read, which ``notes`` explain."""

    version: ModelVersion
    params: Values | None = None
    metrics: Values = field(default_factory=dict)
    spec: Values | None = None
    signature: Values | None = None
    environment: Values | None = None
    files: tuple[Entry, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.version.model}/{self.version.version}"


def read(version: ModelVersion, store: ArtifactStore, tracking: Tracking | None) -> Sheet:
    """Everything there is about a version. Never raises for what is missing or damaged: it is noted."""
    notes: list[str] = []
    name = f"{version.model}/{version.version}"

    def attempt(what: str, step: Callable[[], T]) -> T | None:
        try:
            return step()
        except RayplatError as e:
            notes.append(f"{what} of {name} cannot be read: {e}")
            return None

    tree = attempt("the files", lambda: store.manifest(version.digest))
    files = {} if tree is None else {e.path: e for e in tree.entries}
    run = None if tracking is None else attempt("the run", lambda: tracking.get(version.run_id))
    spec = attempt("the spec", lambda: _spec(store, version.digest)) if bundle.SPEC_FILE in files else None
    signature = attempt("the signature", lambda: _signature(_text(store, files[MLMODEL]))) if MLMODEL in files else None
    return Sheet(
        version,
        params=None if run is None else dict(run.params),
        metrics={} if run is None else dict(run.metrics),
        spec=spec,
        signature=signature,
        environment=attempt("the environment", lambda: _environment(store, files)),
        files=None if tree is None else tree.entries,
        notes=tuple(notes),
    )


def columns(version: ModelVersion, store: ArtifactStore) -> list[tuple[str, str]]:
    """Name and type of each feature and output, as far as the files say."""
    found = read(version, store, None)
    declared = found.spec or found.signature or {}
    words = ("feature ", "output ")
    return [(name.partition(" ")[2], str(kind)) for name, kind in declared.items() if name.startswith(words)]


# --- inside ---------------------------------------------------------------------------------------


def _text(store: ArtifactStore, entry: Entry) -> str:
    if entry.size > _LARGEST_DOCUMENT:
        raise InvalidInput(entry.path, f"has {entry.size} bytes, more than {_LARGEST_DOCUMENT} are not read")
    try:
        return store.get_bytes(entry.digest).decode()
    except UnicodeDecodeError as e:
        raise InvalidInput(entry.path, f"is not UTF-8: {e.reason}") from e


def _spec(store: ArtifactStore, digest: str) -> Values:
    spec = bundle.spec_of(store, digest)
    features = {f"feature {f.name}": f.kind if f.nullable else f"{f.kind}, never missing" for f in spec.features}
    views = {f"view {name}": view for name, view in spec.views.items()}
    return {"entity": spec.entity, **features, **{f"output {name}": "float32" for name in spec.outputs}, **views}


def _signature(text: str) -> Values | None:
    """Inputs, outputs and params that ``MLmodel`` declares; None where it declares nothing."""
    declared = _yaml(MLMODEL, text).get("signature")
    if not declared:
        return None
    found: dict[str, Plain] = {}
    try:
        for section, word in (("inputs", "feature"), ("outputs", "output"), ("params", "param")):
            for place, column in enumerate(json.loads(declared.get(section) or "[]")):
                found[f"{word} {column.get('name', place)}"] = _type(column)
    except (ValueError, TypeError, AttributeError) as e:
        raise InvalidInput(MLMODEL, f"its signature is no list of columns: {e}") from e
    return found


def _type(column: Mapping[str, Any]) -> str:
    """A column's type as text: ``double``, ``tensor float32 [-1, 4]``, ``long = 3`` for a param's default."""
    kind = str(column.get("type"))
    if "tensor-spec" in column:
        tensor = column["tensor-spec"]
        kind = f"tensor {tensor.get('dtype')} {tensor.get('shape')}"
    elif kind in ("array", "object", "map"):
        nested = {k: v for k, v in column.items() if k not in ("name", "required", "type", "default")}
        kind = f"{kind} {json.dumps(nested, sort_keys=True)}"
    if "default" in column:
        return f"{kind} = {json.dumps(column['default'])}"
    return kind if column.get("required", True) else f"{kind}, may be missing"


def _environment(store: ArtifactStore, files: Mapping[str, Entry]) -> Values | None:
    """Packages and their versions, and ``python``; None where the tree says nothing of them."""
    source = next((name for name in REQUIREMENTS if name in files), None)
    found: dict[str, Plain] = {}
    if source == "requirements.txt":
        found |= requirements(_text(store, files[source]))
    elif source is not None:
        found |= _conda(_yaml(source, _text(store, files[source])))
    if PYTHON in files:
        python = _yaml(PYTHON, _text(store, files[PYTHON])).get("python")
        found |= {"python": str(python)} if python is not None else {}
    return found if source is not None or found else None


def requirements(text: str) -> dict[str, Plain]:
    """Package name (PEP 503) to what is asked of it: ``2.1`` for ``==2.1``, else the specifier, ``any`` for none.
    Lines that name no package (``-r``, ``--index-url``) stand for themselves."""
    found: dict[str, Plain] = {}
    for line in text.replace("\\\n", " ").splitlines():
        wanted = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not wanted:
            continue
        match = _PACKAGE.fullmatch(wanted)
        if match is None or wanted.startswith("-") or "://" in wanted.split(";")[0].split("@")[0]:
            found[wanted] = "yes"
            continue
        name, extras, rest = match[1], match[2] or "", re.split(r"\s--hash", match[3])[0].strip()
        exact = re.fullmatch(r"={2,3}\s*([^\s,;*]+)", rest)
        found[re.sub(r"[-_.]+", "-", name).lower() + extras] = exact[1] if exact else rest or "any"
    return found


def _conda(tree: Mapping[str, Any]) -> dict[str, Plain]:
    lines: list[str] = []
    for dependency in tree.get("dependencies") or []:
        if isinstance(dependency, str):
            lines.append(re.sub(r"(?<![=<>!~])=(?!=)", "==", dependency))
        elif isinstance(dependency, dict):
            lines += [str(line) for line in dependency.get("pip") or []]
    return requirements("\n".join(lines))


def _yaml(name: str, text: str) -> dict[str, Any]:
    import yaml

    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as e:
        raise InvalidInput(name, f"is no valid YAML: {str(e).splitlines()[0]}") from e
    if not isinstance(tree, dict):
        raise InvalidInput(name, "holds no mapping")
    return tree
