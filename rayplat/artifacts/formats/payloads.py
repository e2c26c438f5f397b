"""Files that run code when they are loaded, told by their bytes: pickles and what wraps them, Keras, TensorFlow.

The other direction is not promised: a file that is not recognised here is still only opened by a reader whose own
format it is.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import PurePosixPath
from typing import BinaryIO

from rayplat.artifacts.formats import archives, arrays
from rayplat.artifacts.formats.tree import Tree

CODE_NAMES = frozenset(
    {".pkl", ".pickle", ".p", ".joblib", ".jbl", ".sav", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt", ".mar"}
    | {".h5", ".hdf5", ".keras", ".pyc", ".so"}
)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


def why_code(path: str, tree: Tree) -> str:
    """Why loading this file would run code, in words that follow its name; "" where nothing says so."""
    head, pure = tree.head(path), PurePosixPath(path)
    if _is_pickle(head):
        return "it is a pickle, which runs code when it is loaded"
    if head.startswith(arrays.MAGIC):
        with tree.open(path) as file:
            return "it is an array of pickled Python objects" if arrays.holds_objects(file, path) else ""
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "it is an HDF5 file, whose Keras layers may hold code"
    if head.startswith(_COMPRESSED) and _hides_pickle(tree, path):
        return "it is a compressed pickle (joblib), which runs code when it is loaded"
    if head.startswith(b"\x04\x22\x4d\x18") and pure.suffix in CODE_NAMES:
        return "it is a compressed joblib file, which runs code when it is loaded"
    if head.startswith(archives.MAGIC):
        with tree.open(path) as file:
            return _zip(path, file)
    if pure.name in ("saved_model.pb", "saved_model.pbtxt"):
        return "it is a TensorFlow graph, whose operators may run code"
    return ""


def _is_pickle(head: bytes) -> bool:
    """Protocols 2 to 5 begin with their number; older ones have no mark (see `CODE_NAMES`)."""
    return len(head) > 1 and head[0] == 0x80 and head[1] in (2, 3, 4, 5)


def _hides_pickle(tree: Tree, path: str) -> bool:
    with tree.open(path) as file:
        try:
            start = _unpacked(file, file.read(6))
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
            return PurePosixPath(path).suffix in CODE_NAMES
    return _is_pickle(start) or (PurePosixPath(path).suffix in CODE_NAMES)


def _unpacked(file: BinaryIO, head: bytes) -> bytes:
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file).read(64)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file).read(64)
    if head.startswith(b"\xfd7zXZ"):
        return lzma.LZMAFile(file).read(64)
    return zlib.decompressobj().decompress(file.read(4096), 64)


def _zip(path: str, file: BinaryIO) -> str:
    """Why this archive runs code, by its records: torch's own archives, Keras, arrays of objects."""
    archive = archives.open_zip(file, path)
    names = archive.namelist()
    short = {name.split("/", 1)[-1] for name in names}
    if any(name == "models/model.json" for name in short) or "schema.json" in names:
        return ""  # torch.export and skops have readers that look further
    if short & {"data.pkl", "constants.pkl"}:
        return "it is a torch archive with a pickle in it, which runs code when it is loaded"
    if "model.weights.h5" in names or ("config.json" in names and "metadata.json" in names):
        return "it is a Keras archive, whose layers may hold code"
    for name in names:
        if PurePosixPath(name).suffix in CODE_NAMES:
            return f"it is an archive with {name!r} in it, which runs code when it is loaded"
        if name.endswith(".npy"):
            with archive.open(name) as member:
                if arrays.holds_objects(member, f"{path}/{name}"):
                    return f"its array {name!r} is of pickled Python objects"
    return ""
