"""rayplat: a machine-learning platform on one Ray cluster.

``Platform()`` attaches to the local platform, ``Platform("https://host", token=...)`` to a remote one.
Importing this package loads no backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rayplat.errors import (
    AlreadyExists,
    BadRequest,
    Conflict,
    Corrupt,
    Forbidden,
    InvalidInput,
    InvalidName,
    NotFound,
    PartFailed,
    RayplatError,
    SchemaMismatch,
    StaleGeneration,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unschedulable,
)
from rayplat.version import __version__

if TYPE_CHECKING:
    from rayplat.client import Platform
    from rayplat.settings import Settings

__all__ = [
    "AlreadyExists",
    "BadRequest",
    "Conflict",
    "Corrupt",
    "Forbidden",
    "InvalidInput",
    "InvalidName",
    "NotFound",
    "PartFailed",
    "Platform",
    "RayplatError",
    "SchemaMismatch",
    "Settings",
    "StaleGeneration",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unschedulable",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `import rayplat` stays under a tenth of a second.
    if name == "Platform":
        from rayplat.client import Platform

        return Platform
    if name == "Settings":
        from rayplat.settings import Settings

        return Settings
    raise AttributeError(f"module 'rayplat' has no attribute {name!r}")
