"""Where the platform may send events: a URL's form, and the addresses its host has at that moment.

A receiver is named by a person and may resolve to anything, so a request could be made to reach what only machines
inside the network reach (server-side request forgery). Each delivery resolves once, checks every address and connects
to one of exactly those. ``EgressRules`` decides and `resolve` asks; nothing is sent here.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from rayplat.errors import InvalidInput
from rayplat.settings import EventsSettings

Address = IPv4Address | IPv6Address

_MAX_URL = 2000
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9_-]{0,62})(\.[a-z0-9]([a-z0-9_-]{0,62}))*")
_NUMBERS = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*", re.IGNORECASE)
_FIELD = "url"
# Not reachable from outside, or not one receiver, whatever the running Python's tables say.
_INSIDE = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "100::/64", "2001::/23"),
        *("2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
]
# IPv6 addresses that carry an IPv4 address: IPv4-compatible, IPv4-translated, 6to4, and the two prefixes of NAT64.
_CARRIERS = [
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),
]


@dataclass(frozen=True)
class Target:
    """A receiver whose form was checked. ``host`` is lower case, without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == {"http": 80, "https": 443}[self.scheme] else f"{name}:{self.port}"


@dataclass(frozen=True)
class EgressRules:
    """``allow`` names hosts, addresses and networks that are permitted wherever they are."""

    allow_http: bool = False
    allow_private: bool = False
    allow: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: EventsSettings) -> EgressRules:
        return cls(settings.allow_http, settings.allow_private, settings.allow)

    def target(self, url: str) -> Target:
        """The receiver that ``url`` names. Raises `InvalidInput` naming the rule that stands against it."""
        target = _parse(url)
        if target.scheme == "http" and not self.allow_http:
            raise InvalidInput(_FIELD, "https:// is needed; http:// only where settings.events.allow_http permits it")
        literal = _literal(target.host)
        if literal is not None:
            self.check(target.host, [literal])
        elif target.host == "localhost" or target.host.endswith(".localhost"):
            self.check(target.host, [IPv4Address("127.0.0.1")])
        return target

    def check(self, host: str, addresses: list[Address]) -> None:
        """Nothing, or `InvalidInput` where one of ``addresses`` is inside the network and nothing permits it."""
        if host in {name.lower().rstrip(".") for name in self.allow}:
            return
        for address in addresses:
            reason = self._refusal(address)
            if reason is not None:
                shown = str(address) if host == str(address) else f"{host} ({address})"
                raise InvalidInput(_FIELD, f"{shown} is {reason}; settings.events.allow can name it")

    def _refusal(self, address: Address) -> str | None:
        real = _carried(address)
        if any(a in network for a in (address, real) for network in self._networks() if a.version == network.version):
            return None
        if real.is_link_local:
            return "a link-local address, where machines find their credentials"
        if real.is_multicast or real.is_unspecified:
            return "no address of one receiver"
        inside = not real.is_global or any(real in n for n in _INSIDE if n.version == real.version)
        return "an address inside the network" if inside and not self.allow_private else None

    def _networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        found = []
        for text in self.allow:
            try:
                found.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                continue  # a host name
        return found


def resolve(target: Target) -> list[Address]:
    """The addresses of the receiver now. Raises `OSError` where the name is not known."""
    literal = _literal(target.host)
    if literal is not None:
        return [literal]
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found))


def _parse(url: str) -> Target:
    if not isinstance(url, str) or not 1 <= len(url) <= _MAX_URL:
        raise InvalidInput(_FIELD, f"a URL of at most {_MAX_URL} characters is needed")
    if not url.isascii() or any(c <= " " or c in '\\"<>^`{|}\x7f' for c in url):
        raise InvalidInput(_FIELD, "it holds a space, a control character or one that a URL must encode")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise InvalidInput(_FIELD, f"it cannot be read: {e}") from e
    if parts.scheme not in ("http", "https"):
        raise InvalidInput(_FIELD, f"the scheme {parts.scheme!r} is not https")
    if "@" in parts.netloc or parts.fragment or url.endswith("#"):
        raise InvalidInput(_FIELD, "it may hold neither a user or password nor a fragment")
    host = (parts.hostname or "").rstrip(".")
    if _literal(host) is None:
        _check_host(host)
    if port == 0:
        raise InvalidInput(_FIELD, "port 0 is no port")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or {"http": 80, "https": 443}[parts.scheme], path)


def _check_host(host: str) -> None:
    if _NUMBERS.fullmatch(host):
        raise InvalidInput(_FIELD, f"{host!r} is an address written in another way than four decimal numbers")
    if not _HOST.fullmatch(host):
        raise InvalidInput(_FIELD, f"{host[:80]!r} is no host name; write an international one in its xn-- form")


def _literal(host: str) -> Address | None:
    try:
        return None if "%" in host else ipaddress.ip_address(host)
    except ValueError:
        return None


def _carried(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one, where it carries one; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    for network, shift in _CARRIERS:
        if address in network and int(address) > 1:
            return IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
    return address
