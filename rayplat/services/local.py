"""The nouns in process: a context whose parts are reached directly, on the cluster this process is a driver of."""

from __future__ import annotations

from rayplat import identity
from rayplat.errors import Unauthenticated
from rayplat.services.verbs import Context
from rayplat.settings import Settings
from rayplat.types import Principal


def context(settings: Settings, mlflow_url: str, serve_url: str, principal: Principal) -> Context:
    """A context for ``principal``. The process must be connected to Ray (`rayplat.platform.ray_node.connect`)."""
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
        serve_url=serve_url,
        principal=principal,
    )


def principal_of(secret: str) -> Principal:
    """Who a token belongs to, asked of the registry. Raises `Unauthenticated`."""
    from rayplat.registry.client import RegistryClient
    from rayplat.registry.record import tokens

    principal = RegistryClient.connect().read(tokens.authenticate, identity.hash_token(secret))
    if principal is None:
        raise Unauthenticated("this token is not known, has expired or was revoked")
    return principal
