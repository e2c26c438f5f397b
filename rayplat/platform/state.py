"""What `up` has started, in ``<home>/platform.json``: enough to find it, ask it and stop it again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rayplat.errors import Conflict, InvalidInput, Unavailable


@dataclass(frozen=True)
class PlatformState:
    """``mark`` is carried by every process that was started here, ``owns`` names the actors and applications that
    were started on the cluster. ``ray_started`` is False for a cluster that
    was attached to: `down` leaves that one running. Addresses are None until the part is up."""

    mark: str
    owns: tuple[str, ...] = ()
    ray_address: str | None = None
    ray_started: bool = False
    dashboard_url: str | None = None
    mlflow_pid: int | None = None
    mlflow_url: str | None = None
    serve_url: str | None = None
    grpc_url: str | None = None

    def with_(self, **changes: object) -> PlatformState:
        return replace(self, **changes)  # type: ignore[arg-type]


def new_state() -> PlatformState:
    return PlatformState(mark=secrets.token_hex(8))


def path(home: Path) -> Path:
    return home / "platform.json"


def read(home: Path) -> PlatformState | None:
    """The state of this home, or None where nothing was started."""
    file = path(home)
    if not file.exists():
        return None
    try:
        kept = json.loads(file.read_text())
        return PlatformState(**{**kept, "owns": tuple(kept.get("owns", ()))})
    except (ValueError, TypeError, AttributeError) as e:
        raise InvalidInput(
            str(file),
            f"is not a state file of this version ({e}); `rayplat down` stops what belongs to this home and removes it",
        ) from e


def require(home: Path) -> PlatformState:
    state = read(home)
    if state is None or state.ray_address is None:
        raise Unavailable("the platform", f"nothing runs in {home}; start it with `rayplat up --home {home}`")
    return state


def write(home: Path, state: PlatformState) -> None:
    """Atomically: a reader sees the old or the new state, never half of one."""
    temporary = path(home).with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(state), indent=2) + "\n")
    os.replace(temporary, path(home))


def forget(home: Path) -> None:
    path(home).unlink(missing_ok=True)


def prepare_home(home: Path) -> None:
    """Create the home, private to its owner; `InvalidInput` where that is not possible."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = home / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as e:
        raise InvalidInput("home", f"{home} cannot be written ({e.strerror}); choose another with --home") from e


@contextlib.contextmanager
def locked(home: Path, what: str) -> Iterator[None]:
    """One `up` or `down` at a time in a home; the lock goes with the process, however it ends."""
    try:
        file = (home / ".lock").open("w")
    except OSError as e:
        raise InvalidInput("home", f"{home} cannot be written ({e.strerror}); choose another with --home") from e
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        file.close()
        raise Conflict(
            f"another `rayplat up` or `rayplat down` is at work in {home}; wait for it, then run `{what}`"
        ) from e
    try:
        yield
    finally:
        file.close()


def secret_file(file: Path, content: str) -> Path:
    """Write ``content`` so that only the owner can read it, from its first byte on."""
    temporary = file.with_name(file.name + ".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(content)
    os.replace(temporary, file)
    return file
