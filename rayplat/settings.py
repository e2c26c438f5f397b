"""One frozen tree of settings, and the only reader of settings files and ``RAYPLAT_*`` variables.

Order: built-in defaults, then ``<home>/rayplat.toml``, then ``RAYPLAT_<GROUP>__<FIELD>`` variables (for
example ``RAYPLAT_SERVE__HTTP_PORT=8100``), then keyword arguments of `load`. Unknown keys fail.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from rayplat.errors import InvalidInput


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RaySettings(_Group):
    """The Ray cluster that carries the platform."""

    address: str | None = Field(None, description="GCS address of a running cluster; None starts a local one.")
    num_cpus: int | None = Field(None, description="CPUs of the local cluster; None takes the machine's.")
    object_store_bytes: int = Field(1 << 30, description="Shared memory for objects of the local cluster.")
    gcs_port: int = Field(6399, description="Wanted port; the next free one is taken when it is in use.")
    dashboard_port: int = Field(8265, description="Wanted port of the dashboard and job API.")


class MlflowSettings(_Group):
    """The tracking server and its page."""

    port: int = Field(5000, description="Wanted port on 127.0.0.1.")


class RegistrySettings(_Group):
    """The registry's record, in the same database as MLflow's."""

    database_url: str | None = Field(None, description="SQLAlchemy URL; None is SQLite in the home.")
    max_parity_mismatch: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Largest share of logged feature vectors that may differ offline; None: no parity gate.",
    )
    signing_key: str | None = Field(
        None,
        description="PEM file of the private key that signs registered models; None: <home>/keys/signing.pem, which "
        "`rayplat up` makes.",
    )
    anchors: str | None = Field(
        None,
        description="Folder or s3:// URL where the audit log's anchors are kept; None is <home>/anchors. Keep it where "
        "those who reach the database cannot write.",
    )
    anchor_every: int = Field(1000, ge=1, description="New audit entries after which an anchor is written.")
    anchor_s: float = Field(60.0, gt=0, description="Longest time in seconds that a new audit entry waits for one.")


class EventsSettings(_Group):
    """Webhooks: where events may be sent, and how often it is tried."""

    allow_http: bool = Field(False, description="Whether http:// receivers are permitted beside https://.")
    allow_private: bool = Field(
        False, description="Whether receivers inside the network are permitted; link-local ones need `allow`."
    )
    allow: tuple[str, ...] = Field(
        (),
        description="Receivers that are permitted wherever they are: host names, addresses, networks (10.0.0.0/8); a "
        "variable holds JSON.",
    )
    ca_file: str | None = Field(None, description="PEM file of authorities that sign receivers' certificates.")
    timeout_s: float = Field(10.0, gt=0, description="Longest time in seconds for one delivery, connecting included.")
    concurrency: int = Field(16, ge=1, description="Receivers that are served at the same time.")
    poll_s: float = Field(0.5, gt=0, description="How often the outbox is looked at, in seconds.")
    retry_max_s: float = Field(900.0, gt=0, description="Longest pause between two tries, in seconds.")
    park_after: int = Field(5, ge=1, description="Tries of an event that a receiver refuses before it is parked.")
    keep_days: float = Field(30.0, gt=0, description="How long delivered events can be replayed, in days.")

    @field_validator("allow", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value


class LineageSettings(_Group):
    """A lineage server (Marquez, DataHub, …) that is told of everything by OpenLineage events."""

    url: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+",
        description="Address of the server (http:// or https://); None sends nothing.",
    )
    endpoint: str = Field("api/v1/lineage", description="Path below the address that takes events.")
    api_key: SecretStr | None = Field(None, description="Sent as a bearer token.")
    namespace: str = Field("rayplat", min_length=1, description="Namespace of this platform's jobs and datasets.")
    timeout_s: float = Field(5.0, gt=0, description="Longest time in seconds for one event.")
    poll_s: float = Field(1.0, gt=0, description="How often the audit log is looked at, in seconds.")


class OidcSettings(_Group):
    """An identity provider whose tokens (JWT) the control API takes beside platform tokens."""

    issuer: str = Field(description="The tokens' `iss`, exactly; also where the discovery document is found.")
    audience: str = Field(description="What the tokens' `aud` must name.")
    jwks_url: str | None = Field(None, description="Where the keys are; None: as the discovery document says.")
    name_claim: str = Field("email", description="Claim that names the caller: an e-mail address or a name.")
    role_claim: str = Field("groups", description="Claim with a text or a list of texts, mapped by `roles`.")
    roles: dict[str, Literal["viewer", "developer", "approver", "admin"]] = Field(
        {}, description="Value of the role claim to role; of several the highest counts, without one nobody comes in."
    )
    person_claim: str | None = Field(
        "email", description="Claim that only people's tokens have: without it a caller cannot approve; None: all are."
    )
    leeway_s: float = Field(30.0, ge=0, le=300, description="How far clocks may differ, in seconds.")
    keys_s: float = Field(3600.0, ge=60, description="How long fetched keys are used before they are asked for again.")


class IdentitySettings(_Group):
    """Who may call, beside holders of platform tokens."""

    oidc: OidcSettings | None = Field(None, description="An OpenID Connect provider; a variable holds JSON.")

    @field_validator("oidc", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value


class DataSettings(_Group):
    """Delta tables and the feature store."""

    tables_uri: str | None = Field(None, description="Folder of the Delta tables; None is <home>/tables.")
    storage_options: dict[str, str] = Field(
        {}, description="Options of an object store that holds the tables (AWS_ENDPOINT_URL, …); a variable holds JSON."
    )
    online_store: str | None = Field(
        None,
        description="Path of an SQLite file, or sqlite:///, redis://, rediss://, postgresql://; None is in the home.",
    )
    online_keep_s: float = Field(
        7 * 86_400.0, description="How long beyond its longest window a windowed view's events stay online, in seconds."
    )

    @field_validator("storage_options", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value


class ArtifactSettings(_Group):
    """The content-addressed store."""

    root: str | None = Field(None, description="Folder or s3://bucket/prefix; None is <home>/artifacts.")
    storage_options: dict[str, str] = Field(
        {}, description="Options of an S3 service that holds it (AWS_ENDPOINT_URL, …); a variable holds JSON."
    )
    gc_grace_s: float = Field(
        72 * 3600.0, ge=0, description="How long garbage collection leaves alone what was put or condemned, in seconds."
    )

    @field_validator("storage_options", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value


class TrainSettings(_Group):
    """How large a training is; a two-CPU machine must still hold model hosts beside it."""

    workers: int = Field(2, description="Processes that train together, each on its share of the rows.")
    cpus_per_worker: float = Field(0.75, description="CPUs each worker reserves; hosts and reads take the rest.")
    trials: int = Field(3, description="Tuning trials before a training; 0 trains with the defaults.")


class ServeSettings(_Group):
    """HTTP ingress and model hosts."""

    http_port: int = Field(8000, description="Wanted port of HAProxy (it listens on all interfaces).")
    grpc_port: int = Field(
        8001, ge=0, le=65_535, description="Wanted port of the gRPC server (all interfaces); 0: none."
    )
    host_cpus: float = Field(0.1, description="CPUs a model host reserves: a fraction, so training still fits.")
    max_body_bytes: int = Field(4 << 20, description="Larger request bodies are refused with 413.")
    max_rows: int = Field(10_000, description="Rows in one request; more are refused with 413.")
    token_cache_s: float = Field(5.0, description="How long a host trusts a token it has checked.")
    poll_s: float = Field(20.0, description="Longest silence of a host's long poll before it asks again.")
    pool_processes: int = Field(1, ge=1, description="Processes that hold the pooled models, each its share of them.")
    pool_cpus: float = Field(0.1, ge=0, description="CPUs that each of them reserves.")
    pool_models: int = Field(500, ge=1, description="Models that one of them holds; the least recently used leaves.")
    pool_bytes: int = Field(4 << 30, ge=1, description="Memory of the models that one of them holds, as measured.")
    pool_load_s: float = Field(120.0, gt=0, description="Longest time in seconds that a pooled model may take to load.")


class LogSettings(_Group):
    """The inference log: what a host buffers and how often the writer commits."""

    buffer_rows: int = Field(65_536, description="Rows a host buffers; beyond it the oldest drop and are counted.")
    flush_s: float = Field(0.25, description="Longest time a row waits in the host.")
    commit_s: float = Field(2.0, description="Longest time between commits of the writer.")
    spool_bytes: int = Field(
        1 << 30, description="Bytes a host with durability `spool` keeps on its disk; then it drops."
    )
    spool_fsync_s: float = Field(
        1.0, gt=0, description="How often spooled rows are forced to the disk, in seconds: what a power cut may cost."
    )
    compact_s: float = Field(600.0, gt=0, description="How often the writer looks for small files to join, in seconds.")
    compact_files: int = Field(32, ge=2, description="Small files of one day from which on they are joined.")


class TracingSettings(_Group):
    """OpenTelemetry traces of requests to model hosts. A variable holds `headers` as JSON."""

    endpoint: str | None = Field(
        None, description="OTLP/HTTP address of a collector (http://host:4318/v1/traces); None traces nothing."
    )
    sample: float = Field(
        0.01, ge=0, le=1, description="Share of the requests without a traceparent of their own that are traced."
    )
    headers: dict[str, SecretStr] = Field({}, description="Sent to the collector with each export.")
    service: str = Field("rayplat", min_length=1, description="The traces' `service.name`.")
    timeout_s: float = Field(5.0, gt=0, description="Longest time in seconds for one export.")
    flush_s: float = Field(2.0, gt=0, description="How long spans are collected before they are sent, in seconds.")

    @field_validator("headers", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value


class MonitorSettings(_Group):
    """Drift verdicts."""

    min_rows: int = Field(500, description="No verdict below this many rows in the window.")


class Settings(_Group):
    """Everything that can be set. Pass it on; read nothing from the environment elsewhere."""

    home: Path = Field(description="Where data, state and logs of this platform lie.")
    ray: RaySettings = RaySettings()  # type: ignore[call-arg]
    mlflow: MlflowSettings = MlflowSettings()  # type: ignore[call-arg]
    registry: RegistrySettings = RegistrySettings()  # type: ignore[call-arg]
    events: EventsSettings = EventsSettings()  # type: ignore[call-arg]
    lineage: LineageSettings = LineageSettings()  # type: ignore[call-arg]
    identity: IdentitySettings = IdentitySettings()  # type: ignore[call-arg]
    data: DataSettings = DataSettings()  # type: ignore[call-arg]
    artifacts: ArtifactSettings = ArtifactSettings()  # type: ignore[call-arg]
    train: TrainSettings = TrainSettings()  # type: ignore[call-arg]
    serve: ServeSettings = ServeSettings()  # type: ignore[call-arg]
    log: LogSettings = LogSettings()  # type: ignore[call-arg]
    tracing: TracingSettings = TracingSettings()  # type: ignore[call-arg]
    monitor: MonitorSettings = MonitorSettings()  # type: ignore[call-arg]

    @property
    def database_url(self) -> str:
        return self.registry.database_url or f"sqlite:///{self.home / 'rayplat.db'}"

    @property
    def keys_folder(self) -> Path:
        """Where the platform's public keys lie, and its private one unless the settings name another file."""
        return self.home / "keys"

    @property
    def signing_key(self) -> Path | None:
        return Path(self.registry.signing_key) if self.registry.signing_key else None

    @property
    def anchors_root(self) -> str:
        return self.registry.anchors or str(self.home / "anchors")

    @property
    def tables_uri(self) -> str:
        return self.data.tables_uri or str(self.home / "tables")

    @property
    def online_store(self) -> str:
        return self.data.online_store or str(self.home / "online.db")

    @property
    def artifacts_root(self) -> str:
        return self.artifacts.root or str(self.home / "artifacts")


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """``RAYPLAT_HOME`` or ``~/.rayplat``."""
    env = os.environ if environ is None else environ
    return Path(env.get("RAYPLAT_HOME") or "~/.rayplat").expanduser().absolute()


def load(
    home: str | Path | None = None, environ: Mapping[str, str] | None = None, **groups: dict[str, Any]
) -> Settings:
    """Settings of one platform. Raises `InvalidInput` naming the key and where it was read.

    ``groups`` are overrides by group: ``load(serve={"http_port": 8100})``.
    """
    env = os.environ if environ is None else environ
    root = Path(home).expanduser().absolute() if home else default_home(env)
    tree: dict[str, Any] = {}
    file = root / "rayplat.toml"
    try:
        tree = tomllib.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        pass  # no file: the defaults
    except OSError as e:
        raise InvalidInput("home", f"{file} cannot be read ({e.strerror}); choose another with --home") from e
    except ValueError as e:
        raise InvalidInput(str(file), f"not valid TOML: {e}") from e
    for key, value in env.items():
        parts = key.removeprefix("RAYPLAT_").lower().split("__")
        if key.startswith("RAYPLAT_") and len(parts) == 2:
            tree.setdefault(parts[0], {})[parts[1]] = value
    for group, values in groups.items():
        tree.setdefault(group, {}).update(values)
    try:
        return Settings(home=root, **tree)
    except (ValidationError, TypeError) as e:
        problems = e.errors() if isinstance(e, ValidationError) else [{"loc": ("settings",), "msg": str(e)}]
        first = problems[0]
        raise InvalidInput(".".join(str(p) for p in first["loc"]), f"{first['msg']} (settings of {root})") from e


def remote_platform(url: str | None = None, environ: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """(url, token) of a remote platform from ``url`` or ``RAYPLAT_URL`` with ``RAYPLAT_TOKEN``; None: a local one."""
    env = os.environ if environ is None else environ
    address = url or env.get("RAYPLAT_URL")
    if not address:
        return None
    token = env.get("RAYPLAT_TOKEN")
    if not token:
        raise InvalidInput("RAYPLAT_TOKEN", f"set it to your platform token for {address}")
    return address, token
