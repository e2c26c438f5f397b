"""Import of an MLflow registry: its models, versions, aliases and stages, their bytes hashed into the store.

The other registry is only read. A version keeps its number where that is free here, its run, author, tags and the
run's metrics; what our rules refuse is reported and left. A second import of the same registry finds what is there, so
one that was interrupted goes on where it was.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rayplat.artifacts import formats, locations
from rayplat.artifacts.manifest import canonical, sha256
from rayplat.artifacts.store import ArtifactStore
from rayplat.errors import Conflict, Corrupt, Forbidden, InvalidInput, NotFound, RayplatError, TooLarge, Unavailable
from rayplat.identity import require
from rayplat.registry.calls import Registry
from rayplat.registry.candidate import Candidate
from rayplat.registry.mlflow_store import sql_uri
from rayplat.registry.record import adoptions, versions
from rayplat.registry.record.adoptions import Imported
from rayplat.tracking import prepare_mlflow, run_author
from rayplat.types import Adopted, AdoptedAlias, AdoptedVersion, Principal, Role, check_alias, check_name

_PAGE = 200
_DATABASES = ("sqlite", "postgresql", "postgres", "mysql", "mssql")
_STAGES = {"Production": "production", "Staging": "staging"}
_REFUSED = (InvalidInput, Conflict, Forbidden, NotFound, Corrupt)


@dataclass(frozen=True)
class MlflowSource:
    """Another MLflow: ``tracking_uri`` has its runs, ``registry_uri`` its models (None: the same), as MLflow writes
    them (``https://…``, ``postgresql://…``, ``sqlite:///…``)."""

    tracking_uri: str
    registry_uri: str | None = None


def adopt(
    source: MlflowSource,
    registry: Registry,
    store: ArtifactStore,
    *,
    by: Principal,
    models: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Adopted, ...]:
    """Take over every model of ``source``, or those named in ``models``; what was done with each, by name.

    ``progress`` is told each version before it is read. Raises `NotFound` for a source or a model that is not there,
    `Unavailable` where a source, the store or the registry does not answer; what was taken over until then stays.
    """
    require(by, Role.DEVELOPER)
    with tempfile.TemporaryDirectory(prefix="rayplat-adopt-") as scratch:
        found = _Reader(source, Path(scratch))
        names = sorted(found.models)
        if absent := set(models or ()) - set(names):
            raise NotFound(
                "registered model", sorted(absent)[0], f"{source.registry_uri or source.tracking_uri} has none"
            )
        work = _Import(found, registry, store, by, progress)
        return tuple(work.model(name) for name in names if models is None or name in models)


class _Reader:
    """The other registry, read through MLflow's own stores."""

    def __init__(self, source: MlflowSource, scratch: Path) -> None:
        prepare_mlflow()
        self.source, self.scratch = source, scratch
        registry_uri = self.uri = source.registry_uri or source.tracking_uri
        _check_there(registry_uri)
        has_runs = _check_there(source.tracking_uri)
        with _reading(registry_uri):
            from mlflow.tracking._model_registry.utils import _get_store as registry_store
            from mlflow.tracking._tracking_service.utils import _get_store as tracking_store

            self._registry = registry_store(registry_uri, source.tracking_uri)  # type: ignore[no-untyped-call]
            # MLflow makes a first experiment where there is none, and ./mlruns unless it is told another folder.
            runs = tracking_store(source.tracking_uri, str(scratch)) if has_runs else None  # type: ignore[no-untyped-call]
            self._tracking: Any | None = runs
            self.models: dict[str, Any] = {m.name: m for m in self._pages(self._registry.search_registered_models)}

    def versions(self, name: str) -> list[Any]:
        """Every version of a model, by number."""
        found = self._pages(lambda **page: self._registry.search_model_versions(f"name='{name}'", **page))
        return sorted((v for v in found if v.name == name), key=lambda v: int(v.version))

    def run(self, run_id: str | None) -> Any | None:
        """The run a version came from; None where it has none, or where it is gone."""
        from mlflow.exceptions import MlflowException

        try:
            return self._tracking.get_run(run_id) if run_id and self._tracking is not None else None
        except MlflowException as e:
            if e.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def address(self, version: Any) -> str:
        return str(self._registry.get_model_version_download_uri(version.name, version.version))

    def download(self, version: Any, into: Path) -> Path:
        """The version's files. Raises `NotFound` where they cannot be had."""
        import mlflow.artifacts

        uri = self.address(version)
        try:
            found = mlflow.artifacts.download_artifacts(uri, dst_path=str(into), tracking_uri=self.source.tracking_uri)
        except Exception as e:  # each kind of store raises its own
            raise NotFound("artifacts", uri, f"they could not be read: {_first_line(e)}") from e
        return Path(found)

    def _pages(self, search: Callable[..., Any]) -> Iterator[Any]:
        page = search(max_results=_PAGE)
        while True:
            yield from page
            if not page.token:
                return
            page = search(max_results=_PAGE, page_token=page.token)


class _Import:
    """One import: what is refused is noted, and the rest goes on."""

    def __init__(
        self,
        reader: _Reader,
        registry: Registry,
        store: ArtifactStore,
        by: Principal,
        progress: Callable[[str], None],
    ) -> None:
        self._reader, self._registry, self._store, self._by, self._progress = reader, registry, store, by, progress

    def model(self, name: str) -> Adopted:
        """Everything of one model."""
        try:
            check_name("model", name)
        except InvalidInput as e:
            return Adopted(name, refused=(f"the model: {e}",))
        refused: list[str] = []
        with _reading(name):
            there = self._reader.versions(name)
        origins = self._registry.read(adoptions.known, name)
        last = int(there[-1].version) if there else 0
        taken = []
        for version in there:
            what = f"version {version.version}"
            self._progress(f"{name} {what}")
            try:
                taken.append(self._version(version, last, origins, refused))
            except _REFUSED as e:
                refused.append(f"{what}: {e}")
        aliases = self._aliases(name, there, {v.source_version: v.version for v in taken}, refused)
        if taken:
            model = self._reader.models[name]
            self._registry.write(adoptions.model, name, model.description or "", _texts(model.tags), by=self._by)
        return Adopted(name, tuple(taken), tuple(aliases), tuple(refused))

    def _version(self, version: Any, last: int, origins: dict[str, int], refused: list[str]) -> AdoptedVersion:
        number, source = int(version.version), self._reader.address(version)
        if version.status != "READY":
            raise Conflict(f"it is {version.status}, not READY")
        origin = sha256(canonical([version.name, number, str(version.source), int(version.creation_timestamp)]))
        digest = self._digest(version, source, origin, origins)
        candidate, author = self._candidate(version, digest, refused)
        imported = Imported(
            candidate=candidate,
            number=number,
            last_number=last,
            author=author,
            source=str(version.source),
            made_ms=int(version.creation_timestamp),
            origin=origin,
            description=version.description or "",
            tags=_texts(version.tags),
        )
        found = self._registry.write(adoptions.version, imported, by=self._by)
        if found.version != number:
            why = "its number is taken here, so it became" if found.new else "here it has another number:"
            refused.append(f"version {number}: {why} version {found.version}")
        return found

    def _digest(self, version: Any, source: str, origin: str, origins: dict[str, int]) -> str:
        """The version's tree in the store: put there now, unless an earlier import did or it is one of ours."""
        if origin in origins:
            return self._registry.read(versions.get, version.name, origins[origin]).digest
        place = _location(source)
        if place is not None and place.tree and not place.path and self._store.exists(place.tree):
            self._store.manifest(place.tree)
            return place.tree
        with tempfile.TemporaryDirectory(dir=self._reader.scratch) as scratch:
            return self._store.put_tree(self._reader.download(version, Path(scratch)), "model").digest

    def _candidate(self, version: Any, digest: str, refused: list[str]) -> tuple[Candidate, str]:
        """The candidate and its author."""
        run = self._reader.run(version.run_id)
        metrics = dict(run.data.metrics) if run is not None else {}
        usable = {k: float(v) for k, v in metrics.items() if k.isascii() and math.isfinite(v)}
        if left := sorted(metrics.keys() - usable.keys()):
            refused.append(f"version {version.version}: metrics that are not finite or not ASCII: {', '.join(left)}")
        owner = run.data.tags.get("mlflow.user") if run is not None else None
        run_id = version.run_id or f"imported-{digest.removeprefix('sha256:')[:40]}"  # longer than MLflow's own
        ran = run_author(_texts(run.data.tags)) if run is not None else ""
        training_set = self._training_set(version, run)
        candidate = Candidate(version.name, digest, run_id, training_set, (), usable, run_author=ran)
        return self._with_content(candidate), str(version.user_id or owner or "unknown")

    def _with_content(self, candidate: Candidate) -> Candidate:
        """What the bytes tell: their format (empty for none that is known), code, environment, payload."""
        tree, read = self._store.manifest(candidate.digest), formats.reader(self._store)
        try:
            name = formats.detect(formats.stored_tree(self._store, candidate.digest)).name
        except (InvalidInput, TooLarge):
            name = ""
        return replace(
            candidate,
            format=name,
            code_digest=formats.code_digest(tree),
            env_digest=formats.env_digest(tree, read),
            payload_digest=formats.payload_digest(tree, read),
        )

    def _training_set(self, version: Any, run: Any | None) -> str:
        """The digest of all that MLflow says about the data: kept as an artifact, since its own digests are short."""
        inputs = [] if run is None or run.inputs is None else run.inputs.dataset_inputs
        said = [[i.dataset.name, i.dataset.digest, i.dataset.source_type, i.dataset.source] for i in inputs]
        kept = {"imported_from_run": version.run_id or "", "mlflow_datasets": sorted(map(list, said))}
        return self._store.put_bytes(canonical(kept), "dataset").digest

    def _aliases(
        self, name: str, there: Sequence[Any], numbers: dict[int, int], refused: list[str]
    ) -> Iterator[AdoptedAlias]:
        wanted = {alias: int(number) for alias, number in self._reader.models[name].aliases.items()}
        for stage, alias in _STAGES.items():
            held = [int(v.version) for v in there if v.current_stage == stage]
            if held and alias in wanted:
                refused.append(f"stage {stage}: the alias {alias!r} says where it is, version {wanted[alias]}")
            elif held:
                wanted[alias] = max(held)
                older = ", ".join(map(str, sorted(held)[:-1]))
                if older:
                    refused.append(f"stage {stage}: version {max(held)} is the newest in it, left out: {older}")
        for alias, number in sorted(wanted.items()):
            try:
                check_alias(alias)
                if number not in numbers:
                    raise NotFound("model version", f"{name}/{number}", "it was not taken over")
                yield self._registry.write(adoptions.alias, name, alias, numbers[number], by=self._by)
            except _REFUSED as e:
                refused.append(f"alias {alias!r}: {e}")


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """MLflow's errors while it is read, as `Unavailable`."""
    try:
        yield
    except RayplatError:
        raise
    except Exception as e:
        raise Unavailable(f"the MLflow registry {_shown(what)}", _first_line(e)) from e


def _is_database(uri: str) -> bool:
    return uri.partition(":")[0].removeprefix("rayplat+").partition("+")[0] in _DATABASES


def _check_there(uri: str) -> bool:
    """Whether there is anything to read. MLflow makes what it does not find and migrates what is old, so a database
    that is not there (`NotFound`) or of another release (`Conflict`) is refused before MLflow opens it."""
    if not _is_database(uri):
        return True
    import sqlalchemy as sa
    from mlflow.store.db.utils import _get_latest_schema_revision, _get_schema_version

    url = sa.make_url(sql_uri(uri.removeprefix("rayplat+")))
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise NotFound("MLflow registry", _shown(uri), "there is no such file")
    engine = sa.create_engine(url)
    try:
        with _reading(uri):
            if not sa.inspect(engine).has_table("alembic_version"):
                raise NotFound("MLflow registry", _shown(uri), "the database has no tables of MLflow")
            found, known = _get_schema_version(engine), _get_latest_schema_revision()  # type: ignore[no-untyped-call]
            if found != known:
                raise Conflict(
                    f"the database {_shown(uri)} is at MLflow's schema {found}, the one installed here reads {known}: "
                    "copy it, run 'mlflow db upgrade' on the copy, and import that"
                )
            with engine.connect() as connection:
                return connection.execute(sa.text("select 1 from experiments")).first() is not None
    finally:
        engine.dispose()


def _location(uri: str) -> locations.Location | None:
    try:
        return locations.parse(uri)
    except InvalidInput:
        return None


def _texts(tags: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in (tags or {}).items()}


def _shown(uri: str) -> str:
    """Without a password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__
