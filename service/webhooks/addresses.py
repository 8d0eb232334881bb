"""Where a webhook may go. A URL comes from whoever may post a job, and must not reach what only this machine can reach.

A URL is looked at when it is posted, as far as it says where it goes, and the address of the connected socket before anything is sent to it: a name
may mean one address now and another one then.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

LONGEST = 2000
PORTS = {"http": 80, "https": 443}
URL = re.compile(r"[\x21-\x7e]+")
UNSAFE = re.compile(r"[\\<>\"{}|^`]")
NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\.?")
LOCAL = ("localhost", "local", "internal", "localdomain", "home.arpa")
EMBEDDING = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"), ipaddress.ip_network("::/96"),
             ipaddress.ip_network("fec0::/10"), ipaddress.ip_network("192.88.99.0/24"))       # of other networks, or of addresses inside addresses


class NotAllowed(ValueError):
    """Why nothing is sent there."""


@dataclass(frozen=True)
class Target:
    """A URL taken apart."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    private: bool       # it may be an address of this machine or its network, since the settings name it


def target_of(url: str, allow: str) -> Target:
    """A URL that the setting `webhook_allow` lets through. NotAllowed for others, with the reason."""
    if len(url) > LONGEST or not URL.fullmatch(url) or UNSAFE.search(url):
        raise NotAllowed(f"a URL is at most {LONGEST:,} plain characters without spaces")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise NotAllowed("this is no URL") from None
    if parts.scheme not in PORTS or not host:
        raise NotAllowed("a URL begins with https:// and a host")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise NotAllowed("a URL has no user or password")
    if parts.fragment or port == 0:
        raise NotAllowed("a URL has no fragment, and a port above 0")
    _check_host(host)
    port = port or PORTS[parts.scheme]
    named, listed = _allowed(parts.scheme, host, port, allow)
    if parts.scheme != "https" and not named:
        raise NotAllowed("only https is told: begin the URL with https://")
    if not named:
        _check_public(host)
        if not listed:
            raise NotAllowed(f"{host} is not among the hosts that the setting TRAINYARD_WEBHOOK_ALLOW names")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path, named)      # type: ignore[arg-type]


def check_peer(address: str, target: Target) -> None:
    """NotAllowed when the address at the other end is one that only this machine or its network can reach."""
    if not target.private and not is_public(address):
        raise NotAllowed(f"{target.host} is at an address that is not public")


def is_public(address: str) -> bool:
    """Whether an address is everybody's: not of this machine, a private network, a link, a carrier, a group, or one that hides another.

    >>> is_public("93.184.216.34"), is_public("10.0.0.1"), is_public("::ffff:127.0.0.1"), is_public("100.64.0.1")
    (True, False, False, False)
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and (found.ipv4_mapped or found.sixtofour or found.teredo):
        return False
    if any(found in network for network in EMBEDDING if network.version == found.version):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def _check_host(host: str) -> None:
    """An address in its one canonical form, or a name that cannot be read as a number."""
    try:
        if str(ipaddress.ip_address(host)) != host:
            raise NotAllowed(f"write the address {host[:80]} in its usual form")
        return
    except ValueError as error:
        if isinstance(error, NotAllowed):
            raise
    if NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        raise NotAllowed(f"{host[:80]} is an address in an unusual form: write it as four numbers")
    if len(host) > 253 or not NAME.fullmatch(host):
        raise NotAllowed(f"{host[:80]} is no host name")


def _check_public(host: str) -> None:
    """What can be known of a host without asking anybody."""
    name = host.removesuffix(".")
    if any(name == word or name.endswith(f".{word}") for word in LOCAL):
        raise NotAllowed(f"{host} is a name of this machine or its network")
    try:
        public = is_public(host)
    except ValueError:
        return
    if not public:
        raise NotAllowed(f"{host} is not a public address")


def _allowed(scheme: str, host: str, port: int, allow: str) -> tuple[bool, bool]:
    """Whether the setting names this very place, which may be private then, and whether its host may be told if it is public."""
    entries = [word.strip().lower().removesuffix("/") for word in allow.split(",") if word.strip()]
    named, listed, others = False, False, False
    for entry in entries:
        of, _, place = entry.rpartition("://")
        within, at = _split(place)
        near = _is_here(within)
        others = others or not near
        fits = within in ("*", host) or (within.startswith("*.") and host.endswith(within[1:]))
        exact = within == host and (at == port or (at is None and _is_private(within)))
        named = named or (exact and scheme in ((of,) if of else ("http", "https") if near else ("https",)))
        listed = listed or (fits and at in (None, port) and scheme == "https")
    return named, listed or not others


def _split(place: str) -> tuple[str, int | None]:
    """Host and port of an entry; no port where it names none."""
    host, _, port = place.rpartition(":")
    if host and port.isdigit() and not (":" in host and not host.endswith("]")):
        return host.strip("[]"), int(port)
    return place.strip("[]"), None


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_private(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return _is_here(host)
