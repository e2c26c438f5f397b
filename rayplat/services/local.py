"""The nouns in process: a context whose parts are reached directly, on the cluster this process is a driver of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rayplat import identity
from rayplat.errors import Unauthenticated
from rayplat.services.verbs import Context
from rayplat.settings import Settings
from rayplat.types import Principal

if TYPE_CHECKING:
    from rayplat.registry.calls import Registry


def context(settings: Settings, mlflow_url: str, serve_url: str, principal: Principal) -> Context:
    """A context for ``principal``. The process must be connected to Ray (`rayplat.platform.ray_node.connect`)."""
    from rayplat.artifacts.store import ArtifactStore
    from rayplat.data.feature_store import FeatureStore
    from rayplat.data.tables import Tables
    from rayplat.registry.client import RegistryClient
    from rayplat.tracking import Tracking

    return Context(
        settings=settings,
        registry=RegistryClient.connect(),
        tables=Tables(settings.tables_uri, settings.data.storage_options),
        tracking=Tracking(mlflow_url),
        features=FeatureStore(settings),
        artifacts=ArtifactStore.of(settings),
        serve_url=serve_url,
        principal=principal,
    )


def principal_of(settings: Settings, secret: str) -> Principal:
    """Who a token belongs to. Raises `Unauthenticated`."""
    from rayplat.registry.client import RegistryClient

    principal = authenticator(settings, RegistryClient.connect())(secret)
    if principal is None:
        raise Unauthenticated("this token is not known, has expired or was revoked")
    return principal


def authenticator(settings: Settings, registry: Registry) -> Callable[[str], Principal | None]:
    """Who a secret belongs to, None for nobody's: the registry knows platform tokens, the provider in settings the
    others."""
    from rayplat.oidc import Oidc
    from rayplat.registry.record import tokens

    provider = None if settings.identity.oidc is None else Oidc(settings.identity.oidc)

    def authenticate(secret: str) -> Principal | None:
        if identity.is_jwt(secret):
            return None if provider is None else provider.principal(secret)
        return registry.read(tokens.authenticate, identity.hash_token(secret))

    return authenticate
