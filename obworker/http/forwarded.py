"""X-Forwarded-*: what the proxies in front say about the client.

A client can send these fields as well, so only what a trusted proxy has written counts. Each proxy
appends the address of its own client to X-Forwarded-For. Read from the right, the first address
that does not belong to a trusted proxy is the client's: it may have made up whatever stands left of
that.

X-Forwarded-Host is ignored. A proxy can set Host instead; one that does not set X-Forwarded-Host
would pass on whatever a client sent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from obworker.values import is_port

if TYPE_CHECKING:
    from obworker.settings import Settings

Environ = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY = "*"
# Nobody has more proxies in a row, and parsing a header full of addresses takes milliseconds.
MOST_HOPS = 32
SCHEMES = ("http", "https")
# An address with a port; an IPv6 address has brackets then (RFC 7239 6).
NODE = re.compile(r"\[(?P<v6>[^]]*)\](?::(?P<v6_port>\d+))?|(?P<v4>[^:]*)(?::(?P<v4_port>\d+))?")


class Node(NamedTuple):
    """One element of X-Forwarded-For; the port may be empty."""

    address: str
    port: str


@dataclass(frozen=True)
class Proxies:
    """The trusted proxies; `networks` None means that every peer is one."""

    networks: tuple[Network, ...] | None

    @classmethod
    def of(cls, settings: Settings) -> Proxies | None:
        """Return the proxies of --forwarded-allow-ips; None if --proxy-headers is off."""
        if not settings.proxy_headers:
            return None
        if settings.forwarded_allow_ips == ANY:
            return cls(None)
        tokens = settings.forwarded_allow_ips.split(",")
        return cls(tuple(map(_network, tokens)))

    def trusts(self, peer: str) -> bool:
        """Whether the peer with this address is trusted; for a unix socket the address is empty."""
        if self.networks is None or not peer:
            return True
        address = _address(peer)
        return address is not None and any(address in network for network in self.networks)

    def apply(self, environ: Environ) -> None:
        """Make the environ of a request from a trusted proxy describe the proxy's client.

        A field that cannot be parsed is ignored.
        """
        client = self._client(environ.get("HTTP_X_FORWARDED_FOR", ""))
        if client is not None:
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client
        scheme = _last(environ.get("HTTP_X_FORWARDED_PROTO", "")).lower()
        if scheme in SCHEMES:
            environ["wsgi.url_scheme"] = scheme
        port = _last(environ.get("HTTP_X_FORWARDED_PORT", ""))
        if is_port(port, least=1):
            environ["SERVER_PORT"] = port

    def _client(self, field: str) -> Node | None:
        """Return the first node from the right that is no trusted proxy, else the last parsed."""
        client = None
        for node in islice(_from_the_right(field), MOST_HOPS):
            client = node
            if not self.trusts(node.address):
                break
        return client


def _network(token: str) -> Network:
    """Parse a network; one of IPv4-mapped IPv6 addresses becomes IPv4."""
    network = ipaddress.ip_network(token)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return ipaddress.ip_network((mapped, network.prefixlen - 96)) if mapped else network


def _from_the_right(field: str) -> Iterator[Node]:
    """Parse elements until one is no address: what stands left of it cannot be trusted."""
    for element in reversed(field.split(",")):
        if element := element.strip():
            node = _node(element)
            if node is None:
                return
            yield node


def _node(element: str) -> Node | None:
    if "%" in element:  # a zone means something on one host only (RFC 4007 6)
        return None
    if _address(element) is not None:  # IPv6 without brackets, too, which has no port
        return Node(element, "")
    match = NODE.fullmatch(element)
    if match is None:
        return None
    host, port = match["v6"] or match["v4"] or "", match["v6_port"] or match["v4_port"] or ""
    is_sound = _address(host) is not None and (not port or is_port(port, least=1))
    return Node(host, port) if is_sound else None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address; an IPv4-mapped IPv6 address, as of a dual-stack socket, becomes IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _last(field: str) -> str:
    """Return the last element of a list: the one written by the proxy that is next to us."""
    return field.rpartition(",")[2].strip()
