"""Model formats: what a tree holds, told by its bytes, and safe loading of those formats that are only data."""

from rayplat.artifacts.formats.detect import detect
from rayplat.artifacts.formats.digests import code_digest, env_digest, payload_digest, reader
from rayplat.artifacts.formats.format import Format, Predictor
from rayplat.artifacts.formats.loading import load, load_approved, load_found
from rayplat.artifacts.formats.tree import Tree, folder_tree, stored_tree
from rayplat.artifacts.formats.trial import attempt

__all__ = [
    "Format",
    "Predictor",
    "Tree",
    "attempt",
    "code_digest",
    "detect",
    "env_digest",
    "folder_tree",
    "load",
    "load_approved",
    "load_found",
    "payload_digest",
    "reader",
    "stored_tree",
]
