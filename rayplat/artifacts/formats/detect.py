"""What a tree holds, decided by its bytes. What it says about itself (`descriptor`) must agree, and can only forbid."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from rayplat.artifacts.formats import archives, descriptor, payloads
from rayplat.artifacts.formats.descriptor import Claim, Descriptor
from rayplat.artifacts.formats.format import Format, Reader
from rayplat.artifacts.formats.graph import GraphReader
from rayplat.artifacts.formats.lightgbm import LightgbmReader
from rayplat.artifacts.formats.onnx import OnnxReader
from rayplat.artifacts.formats.safetensors import SafetensorsReader
from rayplat.artifacts.formats.skops import SCHEMA, SkopsReader
from rayplat.artifacts.formats.torch_export import TorchExportReader
from rayplat.artifacts.formats.tree import Tree, folder_tree
from rayplat.artifacts.formats.xgboost import XgboostReader
from rayplat.errors import InvalidInput

CODE = "code"
# in the order of preference
READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        TorchExportReader(),
        SafetensorsReader(),
        OnnxReader(),
        SkopsReader(),
        XgboostReader(),
        LightgbmReader(),
        GraphReader(),
    )
}
_BROKEN = (
    struct.error,
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    RecursionError,
    MemoryError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
)


def detect(model: Path | Tree) -> Format:
    """The format of the model in a folder, or in a tree of the store (`stored_tree`). Loads and runs nothing of it.

    Raises `InvalidInput`: no known format, an ambiguous or damaged one, or an MLmodel that says otherwise than the
    bytes; `TooLarge` for what is over a limit.
    """
    tree = model if isinstance(model, Tree) else folder_tree(model)
    try:
        return _detect(tree)
    except _BROKEN as e:
        raise InvalidInput("model", f"its files cannot be read: {type(e).__name__}: {str(e)[:200]}") from e


def _detect(tree: Tree) -> Format:
    code = [(path, why) for path in tree.sizes if (why := payloads.why_code(path, tree))]
    if code:
        return Format(CODE, True, tuple(path for path, _ in code), code[0][1])
    described = descriptor.read(tree)
    if described is not None and described.code:
        return Format(CODE, True, (descriptor.FILE,), described.code)
    found: dict[str, list[str]] = {}
    for path in tree.sizes:
        name = _format_of(path, tree)
        if name == CODE:
            return Format(CODE, True, (path,), "it has the name of a pickle and the bytes of no format that is data")
        if name is not None:
            found.setdefault(name, []).append(path)
    return _chosen(tree, found, described)


def _format_of(path: str, tree: Tree) -> str | None:
    """The format of one file, `CODE` for what only its name tells, None for a file that is no model."""
    head, suffix = tree.head(path), PurePosixPath(path).suffix
    if head.startswith(archives.MAGIC):
        return _archive_of(path, tree)
    named = next((name for name, reader in READERS.items() if suffix in reader.suffixes), None)
    seen = next((name for name, reader in READERS.items() if reader.recognises(head)), None)
    if seen is not None and (named in (None, seen)):
        return seen
    if named is not None:
        return named  # its reader says what is wrong with the bytes
    return CODE if suffix in payloads.CODE_NAMES and tree.sizes[path] else None


def _archive_of(path: str, tree: Tree) -> str | None:
    with tree.open(path) as file:
        names = archives.open_zip(file, path).namelist()
    if any(name.split("/", 1)[-1] == "models/model.json" for name in names):
        return "torch_export"
    if SCHEMA in names or path.endswith(".skops"):
        return "skops"
    return "torch_export" if path.endswith(".pt2") else None


def _chosen(tree: Tree, found: dict[str, list[str]], described: Descriptor | None) -> Format:
    claims = described.claims if described else ()
    if not found:
        known = ", ".join(READERS)
        raise InvalidInput("model", f"the tree holds no model in a format that is only data: {known}")
    name = next(name for name in READERS if name in found)
    files = found[name]
    if len(files) > 1 and name != "safetensors":
        pointed = [f for f in files if any(_at(claim, f) and claim.path for claim in claims)]
        if len(pointed) != 1:
            raise InvalidInput("model", f"it holds several {name} models: {', '.join(files)[:300]}")
        files = pointed
    for claim in claims:
        if name not in descriptor.FORMATS[claim.flavor] or not _at(claim, files[0]):
            said = f"a {claim.flavor} model at {claim.path!r}"
            raise InvalidInput(
                descriptor.FILE, f"it says {said}, the bytes are {name} at {files[0]!r}: forged or mixed up"
            )
    return _audited(tree, name, tuple(files))


def _at(claim: Claim, path: str) -> bool:
    return claim.path in ("", path) or path.startswith(f"{claim.path}/")


def _audited(tree: Tree, name: str, files: tuple[str, ...]) -> Format:
    for path in files:
        with tree.open(path) as file:
            reason = READERS[name].audit(path, file, tree)
        if reason:
            return Format(name, True, (path,), reason)
    return Format(name, False, files)
