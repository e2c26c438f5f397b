"""The Ray Serve flags the platform runs with, and why. Ray reads them when its modules are imported, so they
must be in the environment of ``ray start`` on every node; a cluster started without them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from rayplat.serve.http import ingress

# name -> (value, reason)
_FLAGS: dict[str, tuple[str, str]] = {
    "RAY_SERVE_ENABLE_HA_PROXY": ("1", "HAProxy sends requests straight to the model host: no Python proxy between"),
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": ("1", "one event loop in a host, gRPC between replicas, buffered logs"),
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": (str(64 << 20), "requests and answers between processes above 4 MB"),
    "RAY_SERVE_HAPROXY_NBTHREAD": ("2", "the default of 4 threads competes with the hosts on a small machine"),
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": ("0", "by default Python parses a log line of each request; hosts count them"),
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": ("30", "the default of an hour lets idle or slow clients hold connections"),
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": ("60", "by default a host that never answers holds its client for ever"),
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": (ingress.IMPORT_PATH, "a request goes straight to the host's code"),
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": ("1", "the default keeps a stopped host for 30 s"),
}

SERVE_ENV: Mapping[str, str] = {name: value for name, (value, _) in _FLAGS.items()}
REASONS: Mapping[str, str] = {name: reason for name, (_, reason) in _FLAGS.items()}

# Without these two, routing by longest prefix and the one-hop path do not exist: a cluster must have them.
REQUIRED: tuple[str, ...] = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")

# Ports that HAProxy and Serve bind besides the HTTP port: fixed numbers by default, so that a second platform on the
# same machine would not start.
PORTS: tuple[str, ...] = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


def missing(environ: Mapping[str, str]) -> list[str]:
    """The required flags that ``environ`` lacks, as ``NAME=value``."""
    return [f"{name}={SERVE_ENV[name]}" for name in REQUIRED if environ.get(name) != SERVE_ENV[name]]
