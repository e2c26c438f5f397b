"""Which versions of which views an online store holds, and its feature services: notes in the store.

A definition is kept under the view's id, ``name@digest``, and stays when the view gets another definition: a model
reads the version it was made with. ``current`` is the version that was applied last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rayplat.data.features import FeatureService, View, view_from_dict
from rayplat.data.online.store import OnlineStore
from rayplat.errors import Conflict, NotFound

_VIEW, _CURRENT, _SERVICE = "view", "current", "service"
_SHORT = slice(7, 19)  # of a digest "sha256:…": what a view's id carries of it


@dataclass(frozen=True)
class Definition:
    """What the rows of a view's version mean. ``keys`` are its join keys in order, ``columns`` its features;
    ``declaration`` is the view as JSON, None for a view that Feast alone knows."""

    name: str
    digest: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    declaration: str | None

    @property
    def id(self) -> str:
        return view_id(self.name, self.digest)

    def view(self) -> View:
        """The declared view. Raises `Conflict` where Feast alone knows it."""
        if self.declaration is None:
            raise Conflict(f"feature view {self.name!r} was not declared here, only applied with Feast")
        return view_from_dict(json.loads(self.declaration))

    @staticmethod
    def of(view: View) -> Definition:
        keys = getattr(view, "keys", ())
        return Definition(view.name, view.digest(), keys, view.feature_names, json.dumps(view.to_dict()))


def view_id(name: str, digest: str) -> str:
    """As `FeatureView.id`. A digest of another form (Feast's own views have none) stands as it is."""
    return f"{name}@{digest[_SHORT] if digest.startswith('sha256:') else digest}"


def declare(store: OnlineStore, definition: Definition) -> None:
    """Make a version of a view known and the current one of its name. Other versions and their rows stay."""
    text = json.dumps(asdict(definition))
    if store.notes(_VIEW).get(definition.id) != text:
        store.put(_VIEW, definition.id, text)
    if store.notes(_CURRENT).get(definition.name) != definition.id:
        store.put(_CURRENT, definition.name, definition.id)


def definitions(store: OnlineStore) -> dict[str, Definition]:
    """Every version of every view by its id."""
    return {view: _definition(text) for view, text in store.notes(_VIEW).items()}


def current(store: OnlineStore) -> dict[str, Definition]:
    """The current version of each view by name."""
    found = definitions(store)
    return {name: found[view] for name, view in store.notes(_CURRENT).items() if view in found}


def get(store: OnlineStore, name: str, digest: str | None = None) -> Definition:
    """The version of a view with this digest, or the current one.

    Raises `NotFound` for a view that is not applied, `Conflict` where only other definitions of it are.
    """
    known = current(store)
    if digest is None:
        if name not in known:
            raise NotFound("feature view", name, f"there are {', '.join(known) or 'none'}; apply it first")
        return known[name]
    found = definitions(store).get(view_id(name, digest))
    if found is not None and found.digest == digest:
        return found
    if name not in known:
        raise NotFound("feature view", name, f"there are {', '.join(known) or 'none'}; apply it first")
    raise Conflict(
        f"feature view {name!r} online has the definition {known[name].digest[:19]}, not {digest[:19]}; "
        "apply and materialize that one"
    )


def forget(store: OnlineStore, definition: Definition) -> None:
    """Forget one version of a view and what is stored of it."""
    store.put(_VIEW, definition.id, None)
    if store.notes(_CURRENT).get(definition.name) == definition.id:
        store.put(_CURRENT, definition.name, None)
    store.drop(definition.id)


def put_service(store: OnlineStore, service: FeatureService) -> None:
    store.put(_SERVICE, service.name, json.dumps(service.to_dict()))


def services(store: OnlineStore) -> Mapping[str, str]:
    """Declarations of the feature services, as JSON, by name."""
    return store.notes(_SERVICE)


def get_service(store: OnlineStore, name: str) -> FeatureService:
    """Raises `NotFound`."""
    found = services(store)
    if name not in found:
        raise NotFound("feature service", name, f"there are {', '.join(found) or 'none'}")
    return FeatureService.from_dict(json.loads(found[name]))


def _definition(text: str) -> Definition:
    tree = json.loads(text)
    return Definition(tree["name"], tree["digest"], tuple(tree["keys"]), tuple(tree["columns"]), tree["declaration"])
