"""The registry for everyone else: found by name, called with a timeout, errors as they were raised.

``registry.read(versions.get, "flight-delay", 3)`` runs an operation of the record where the record is. A call that
meets a restarting actor is sent again until its time is up: reads have no effect, and a write carries an idempotency
key, so it takes effect once. An actor that is gone or silent is `Unavailable`.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Concatenate

from rayplat import actors, identity
from rayplat.errors import Unavailable
from rayplat.registry.calls import P, R, Registry, answer, name_of, packed
from rayplat.settings import Settings
from rayplat.types import AliasHead, Principal, PrincipalKind, Role, TokenInfo

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rayplat.registry.record.database import Tx

_WHAT = "the registry"
_CALL_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 120.0  # the first start on a database creates MLflow's tables
_RETRY_S = 0.1


class RegistryClient:
    """Calls to the registry actor. Any may raise `Unavailable`; what else it raises is said at the operation.

    ``handle`` is the Ray handle, for callers in an event loop: `calls.packed`, `calls.answer`.
    """

    def __init__(self, handle: Any, find: Callable[[], Any] | None = None, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        self.handle = handle
        self._find, self._timeout_s = find, timeout_s

    @classmethod
    def connect(cls, namespace: str = actors.NAMESPACE, timeout_s: float = _CALL_TIMEOUT_S) -> RegistryClient:
        """A client of the running registry. Raises `Unavailable` where there is none, or no cluster."""
        find = functools.partial(_find, namespace)
        return cls(find(), find, timeout_s)

    @classmethod
    def start(cls, settings: Settings) -> RegistryClient:
        """Get or create the detached actor, and wait until it answers. Raises `Unavailable` with its reason."""
        from rayplat.registry.actor import RegistryActor

        # Each host's long poll occupies one of the places.
        handle = actors.start(actors.REGISTRY, RegistryActor, settings, max_concurrency=1000)
        cls(handle, timeout_s=_START_TIMEOUT_S).heartbeat()
        return cls(handle, functools.partial(_find, actors.NAMESPACE))

    def read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``query(connection, *args, **kwargs)`` finds."""
        found: R = self._call("read", name_of(query, "read"), args, kwargs)
        return found

    def write(self, operation: Callable[Concatenate[Tx, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``operation(tx, *args, **kwargs)``, after its commit."""
        result: R = self._call("write", name_of(operation, "write"), args, kwargs, uuid.uuid4().hex)
        return result

    # --- who serves what ------------------------------------------------------------------------------

    def listen(self, model: str, alias: str, generation: int, timeout_s: float) -> AliasHead | None:
        """Wait until the alias is newer than ``generation``; None after ``timeout_s`` seconds (at most 60)."""
        found: AliasHead | None = self._call("listen", model, alias, generation, timeout_s, more_s=timeout_s)
        return found

    def ack(self, model: str, alias: str, generation: int, replica_id: str) -> None:
        """Say that a replica now serves ``generation``; repeated every few minutes while it lives."""
        self._call("ack", model, alias, generation, replica_id)

    def acks(self, model: str, alias: str) -> dict[str, int]:
        """Replica id to the generation it serves."""
        found: dict[str, int] = self._call("acks", model, alias)
        return found

    def heartbeat(self) -> dict[str, Any]:
        """``epoch``, ``is_writer``, ``database``, ``pid``, ``started_at``, ``aliases``, ``listeners``, ``audit``."""
        found: dict[str, Any] = self._call("heartbeat")
        return found

    # --- inside ---------------------------------------------------------------------------------------

    def _call(self, method: str, *args: Any, more_s: float = 0.0) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        deadline = time.monotonic() + self._timeout_s + more_s
        while True:
            try:
                sent = self.handle.packed.remote(method, packed(*args))
                return answer(ray.get(sent, timeout=max(0.0, deadline - time.monotonic())))
            except GetTimeoutError:
                what = args[0] if method in ("read", "write") else method
                raise Unavailable(_WHAT, f"no answer to {what} within {self._timeout_s + more_s:g} s") from None
            except RayActorError as e:
                if time.monotonic() + _RETRY_S >= deadline or not self._refound():
                    raise Unavailable(_WHAT, _first_line(e)) from None
                time.sleep(_RETRY_S)

    def _refound(self) -> bool:
        """Whether there is an actor to ask again: the same one restarting, or a new one by its name."""
        if self._find is None:
            return False
        self.handle = self._find()
        return True


def create_token(
    registry: Registry,
    principal: str,
    role: Role,
    by: Principal | None,
    expires_at: datetime | None = None,
    *,
    kind: PrincipalKind = PrincipalKind.PERSON,
) -> tuple[TokenInfo, str]:
    """A token and its secret, which is made here and never sent: the registry gets its hash.

    Needs an admin; ``by`` None is permitted for the very first token only. Raises `Forbidden`, `InvalidInput`.
    """
    from rayplat.registry.record import tokens

    secret, token_id = identity.new_token()
    wanted = TokenInfo(token_id, principal, Role(role), datetime.now(UTC), "", expires_at, kind=PrincipalKind(kind))
    return registry.write(tokens.create, wanted, identity.hash_token(secret), by), secret


def _find(namespace: str) -> Any:
    import ray

    if not ray.is_initialized():
        raise Unavailable(_WHAT, "this process is not connected to the cluster; 'rayplat up' starts one")
    try:
        return ray.get_actor(actors.REGISTRY, namespace)
    except ValueError:
        raise Unavailable(_WHAT, f"no actor {actors.REGISTRY!r} runs on the cluster; 'rayplat up' starts it") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
