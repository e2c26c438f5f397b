"""The registry for everyone else: found by name, called with a timeout, errors as they were raised.

A call that meets a restarting actor is sent again until its time is up: reads have no effect, and a mutation carries
an idempotency key, so it takes effect once. An actor that is gone or silent is `Unavailable`.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from rayplat import actors, identity
from rayplat.errors import RayplatError, Unavailable
from rayplat.registry.candidate import Candidate
from rayplat.registry.gates import GatePolicy
from rayplat.settings import Settings
from rayplat.types import (
    AliasHead,
    AuditEntry,
    Evidence,
    ModelVersion,
    Principal,
    Promotion,
    PromotionState,
    Role,
    TableVersion,
    TokenInfo,
)

_WHAT = "the registry"
_CALL_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 120.0  # the first start on a database creates MLflow's tables
_RETRY_S = 0.1


class RegistryClient:
    """Typed calls to the registry actor. Any call may raise `Unavailable`; what else it raises is said there.

    ``handle`` is the Ray handle, for callers in an event loop: ``await client.handle.listen.remote(...)``.
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
        policy = GatePolicy(max_parity_mismatch=settings.registry.max_parity_mismatch)
        handle = actors.start(actors.REGISTRY, RegistryActor, settings.database_url, policy, max_concurrency=1000)
        cls(handle, timeout_s=_START_TIMEOUT_S).heartbeat()
        return cls(handle, functools.partial(_find, actors.NAMESPACE))

    # --- versions and aliases -------------------------------------------------------------------------

    def register_model(
        self,
        model: str,
        digest: str,
        run_id: str,
        author: Principal,
        training_set: str,
        pins: Sequence[TableVersion],
        metrics: dict[str, float],
        baseline: str | None = None,
    ) -> ModelVersion:
        """Register a bundle by its digest; a digest the model already has returns the version it has.

        Needs a developer. Raises `InvalidInput`, `Forbidden`.
        """
        candidate = Candidate(model, digest, run_id, training_set, tuple(pins), dict(metrics), baseline)
        found: ModelVersion = self._mutate("register_model", candidate, author)
        return found

    def models(self) -> list[str]:
        """Names of all registered models."""
        found: list[str] = self._call("models")
        return found

    def versions(self, model: str) -> list[ModelVersion]:
        """Every version, newest first. Raises `NotFound`."""
        found: list[ModelVersion] = self._call("versions", model)
        return found

    def version(self, model: str, version: int) -> ModelVersion:
        """One version. Raises `NotFound`."""
        found: ModelVersion = self._call("version", model, version)
        return found

    def alias(self, model: str, alias: str) -> AliasHead:
        """Where an alias points. Raises `NotFound`."""
        found: AliasHead = self._call("alias", model, alias)
        return found

    def aliases(self, model: str) -> list[AliasHead]:
        """Where each alias of a model points. Raises `NotFound` for an unknown model."""
        found: list[AliasHead] = self._call("aliases", model)
        return found

    def history(self, model: str, alias: str) -> list[AliasHead]:
        """Every head the alias ever had, newest first; kept for ever. Raises `NotFound`."""
        found: list[AliasHead] = self._call("history", model, alias)
        return found

    # --- promotions -----------------------------------------------------------------------------------

    def request_promotion(
        self, model: str, version: int, alias: str, evidence: Evidence | None, principal: Principal
    ) -> Promotion:
        """Ask to point ``alias`` at ``version``. The gates decide at once: the state is AWAITING_APPROVAL or REJECTED.

        Needs a developer. Raises `NotFound`, `InvalidName`, `Forbidden`, `Conflict` when it points there already.
        """
        found: Promotion = self._mutate("request_promotion", (model, version, alias), evidence, principal)
        return found

    def approve(self, promotion_id: str, principal: Principal, subject_digest: str | None = None) -> Promotion:
        """Approve and move the alias, in one transaction; the state is LIVE.

        Needs an approver who neither requested it nor made the version, else `Forbidden`. Raises `NotFound`,
        `StaleGeneration` when the alias moved since, `Conflict` for another ``subject_digest`` or a closed promotion.
        """
        found: Promotion = self._mutate("approve", promotion_id, principal, subject_digest)
        return found

    def reject(self, promotion_id: str, principal: Principal, reason: str) -> Promotion:
        """Close a promotion that awaits approval. Needs an approver. Raises `NotFound`, `Conflict`, `Forbidden`."""
        found: Promotion = self._mutate("reject", promotion_id, principal, reason)
        return found

    def rollback(self, model: str, alias: str, principal: Principal, reason: str) -> AliasHead:
        """Point the alias at the version that was live before. Needs an approver and a reason.

        Raises `NotFound`, `Forbidden`, `Conflict` when there was none before.
        """
        found: AliasHead = self._mutate("rollback", (model, alias), principal, reason)
        return found

    def promotions(self, model: str | None = None, state: PromotionState | None = None) -> list[Promotion]:
        """Promotions, newest first, of one model or in one state."""
        found: list[Promotion] = self._call("promotions", model, state)
        return found

    def promotion(self, promotion_id: str) -> Promotion:
        """One promotion. Raises `NotFound`."""
        found: Promotion = self._call("promotion", promotion_id)
        return found

    def audit(self, limit: int = 100) -> list[AuditEntry]:
        """The newest entries of the audit log, newest first."""
        found: list[AuditEntry] = self._call("audit", limit)
        return found

    def verify_audit(self) -> int:
        """Check the whole hash chain; the number of entries. Raises `Corrupt` at the first that does not fit."""
        found: int = self._call("verify_audit")
        return found

    # --- tokens ---------------------------------------------------------------------------------------

    def create_token(
        self, principal_name: str, role: Role, by: Principal | None, expires_at: datetime | None = None
    ) -> tuple[TokenInfo, str]:
        """A token and its secret, which is made here and never sent: the registry gets its hash.

        Needs an admin; ``by`` None is permitted for the very first token only. Raises `Forbidden`, `InvalidInput`.
        """
        secret, token_id = identity.new_token()
        wanted = TokenInfo(token_id, principal_name, Role(role), datetime.now(UTC), "", expires_at)
        made: TokenInfo = self._mutate("create_token", wanted, identity.hash_token(secret), by)
        return made, secret

    def revoke_token(self, token_id: str, by: Principal) -> TokenInfo:
        """Refuse a token from now on. Needs an admin. Raises `NotFound`, `Conflict` for the last admin token."""
        found: TokenInfo = self._mutate("revoke_token", token_id, by)
        return found

    def tokens(self) -> list[TokenInfo]:
        """All tokens, oldest first, without secrets."""
        found: list[TokenInfo] = self._call("tokens")
        return found

    def authenticate(self, token_hash: str) -> Principal | None:
        """Whose token has this hash (`identity.hash_token`); None if unknown, expired or revoked."""
        found: Principal | None = self._call("authenticate", token_hash)
        return found

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
        """``epoch``, ``is_writer``, ``database``, ``pid``, ``started_at``, ``aliases``, ``listeners``."""
        found: dict[str, Any] = self._call("heartbeat")
        return found

    # --- inside ---------------------------------------------------------------------------------------

    def _mutate(self, method: str, *args: Any) -> Any:
        return self._call(method, *args, key=uuid.uuid4().hex)

    def _call(self, method: str, *args: Any, more_s: float = 0.0, **named: Any) -> Any:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        deadline = time.monotonic() + self._timeout_s + more_s
        while True:
            try:
                sent = getattr(self.handle, method).remote(*args, **named)
                return ray.get(sent, timeout=max(0.0, deadline - time.monotonic()))
            except RayTaskError as e:
                if isinstance(e.cause, RayplatError):
                    raise e.cause from None
                raise
            except GetTimeoutError:
                raise Unavailable(_WHAT, f"no answer to {method} within {self._timeout_s + more_s:g} s") from None
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
