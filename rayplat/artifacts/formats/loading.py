"""Loading a model: its bytes match the approved digest before any is interpreted, and nothing of it runs unless an
approver has waived that for this digest."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rayplat.artifacts.formats import code, descriptor
from rayplat.artifacts.formats.detect import READERS, detect
from rayplat.artifacts.formats.format import Format, Predictor
from rayplat.artifacts.formats.safetensors import load_tensors
from rayplat.artifacts.formats.tree import folder_tree
from rayplat.artifacts.formats.trial import attempt
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import InvalidInput, NeedsWaiver

log = logging.getLogger(__name__)

Build = Callable[[dict[str, npt.NDArray[Any]]], Predictor]


def load_approved(
    store: ArtifactStore,
    digest: str,
    into: Path,
    *,
    waiver: str | None = None,
    build: Build | None = None,
    tried: bool = False,
) -> Predictor:
    """Check the tree ``digest`` out to ``into``, hashing every byte, then load it (see `load`).

    Raises `Corrupt` where the store's bytes are not the approved ones, and what `load` raises.
    """
    return load(store.checkout(digest, into), digest, waiver=waiver, build=build, tried=tried)


def load(
    folder: Path, digest: str, *, waiver: str | None = None, build: Build | None = None, tried: bool = False
) -> Predictor:
    """The model in ``folder``, which is a verified checkout of the tree ``digest``.

    ``waiver`` is the id of an audited waiver for exactly this digest, looked up by the caller. ``build`` makes a
    predictor from the tensors of a safetensors model, whose format holds no graph. ``tried``: verification has loaded
    these bytes before, so the trial in a process of its own (1 to 2 s) is left out.
    Raises `NeedsWaiver` for what runs code, `InvalidInput` for what cannot be loaded at all.
    """
    return load_found(folder, digest, detect(folder), waiver=waiver, build=build, tried=tried)


def load_found(
    folder: Path,
    digest: str,
    found: Format,
    *,
    waiver: str | None = None,
    build: Build | None = None,
    tried: bool = False,
) -> Predictor:
    """`load` for who has looked at the folder already: ``found`` is what `detect` says of it."""
    if not found.runs_code:
        if not tried:
            attempt(folder, found)
        return _load(folder, found, build)
    if waiver is None:
        raise NeedsWaiver(digest, found.files[0], found.reason)
    log.warning("loading a model that runs code", extra={"digest": digest, "waiver": waiver, "reason": found.reason})
    return code.load(folder, found)


def _load(folder: Path, found: Format, build: Build | None) -> Predictor:
    described = descriptor.read(folder_tree(folder))
    columns = described.inputs if described else ()
    names = tuple(name for name, kind, _ in columns if not kind.startswith("tensor"))
    if found.name == "safetensors":
        if build is None:
            raise InvalidInput("build", "a safetensors model is weights only: give what computes with them")
        tensors: dict[str, npt.NDArray[Any]] = {}
        for path in found.files:
            tensors |= load_tensors(folder / path)
        return build(tensors)
    return READERS[found.name].load(folder, found.files[0], names)
