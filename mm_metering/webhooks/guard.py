"""Which URL may be called: tenants choose where webhooks go, and may choose what only we can reach.

A URL is read strictly, once: what two readers could take for two hosts is refused. Its name is resolved once per
attempt, every address must pass, and the address that passed is the one to dial.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from mm_metering.backends.per_loop import PerLoop
from mm_metering.errors import InvalidInput, MissingExtra, UrlRefused

MAX_URL_BYTES: Final = 2048
LOOK_UP_S: Final = 5.0
LOOK_UP_THREADS: Final = 16
"""A look-up cannot be stopped, only left behind: no more of them than that hang at once, per event loop."""

Network = IPv4Network | IPv6Network
LookUp = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, for a port; OSError where there are none."""

SPECIAL_IPV4: Final = tuple(
    IPv4Network(each)
    for each in (
        "0.0.0.0/8",  # this network, RFC 791
        "10.0.0.0/8",  # private, RFC 1918
        "100.64.0.0/10",  # shared by a carrier's customers, RFC 6598
        "127.0.0.0/8",  # loopback, RFC 1122
        "168.63.129.16/32",  # a public number by which Azure's machines reach their host
        "169.254.0.0/16",  # link local, RFC 3927: the clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments, RFC 6890
        "192.0.2.0/24",  # documentation, RFC 5737
        "192.31.196.0/24",  # AS112, RFC 7535
        "192.52.193.0/24",  # AMT, RFC 7450
        "192.88.99.0/24",  # 6to4 relays, RFC 7526
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112, RFC 7534
        "198.18.0.0/15",  # benchmarking, RFC 2544
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved, RFC 1112, and broadcast
    )
)
GLOBAL_IPV6: Final = IPv6Network("2000::/3")
"""All else is loopback, local, multicast, a translation of IPv4, or not given out."""
SPECIAL_IPV6: Final = tuple(
    IPv6Network(each)
    for each in (
        "2001::/23",  # protocol assignments, RFC 2928: Teredo, ORCHID, benchmarking
        "2001:db8::/32",  # documentation, RFC 3849
        "2002::/16",  # 6to4, RFC 3056
        "2620:4f:8000::/48",  # AS112, RFC 7534
        "3ffe::/16",  # the former 6bone, RFC 3701
        "3fff::/20",  # documentation, RFC 9637
    )
)
HOLDS_IPV4: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
"""Mapped, and translated by NAT64 (RFC 6052): their last 32 bits are the address that is reached."""

NEVER_PUBLIC: Final = frozenset(
    {
        *(
            "alt",
            "arpa",
            "example",
            "internal",
            "invalid",
            "local",
            "localhost",
            "onion",
            "test",
        ),  # IANA's special names
        *("corp", "home", "intranet", "lan", "localdomain", "private"),  # in use inside
    }
)
"""Top domains that no public name is in."""

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)([/?].*)?")
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([1-9][0-9]{0,4}))?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_threads: Final = PerLoop(lambda: ThreadPoolExecutor(LOOK_UP_THREADS, "mm-webhook-names"))


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be called beyond https at public addresses.

    allow_http      plain http as well
    ports           no others
    allow_networks  networks such as "10.1.0.0/16" that may be called though they are not public; with one, a name may
                    be one that no public name is, such as "receiver" or "receiver.internal"
    """

    allow_http: bool = False
    ports: tuple[int, ...] = (443, 8443)
    allow_networks: tuple[str, ...] = ()
    networks: tuple[Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for port in self.ports:
            if not 1 <= port <= 65_535:
                raise InvalidInput("ports", f"{port} is not a port; use 1 to 65535")
        try:
            networks = tuple(ip_network(each) for each in self.allow_networks)
        except ValueError as error:
            raise InvalidInput("allow_networks", f'{error}; write networks as "10.1.0.0/16"') from None
        object.__setattr__(self, "networks", networks)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be called, if its addresses may.

    host  lower-case ASCII; an IPv6 address without brackets
    path  with its query, as it was written: it may hold a secret
    """

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)

    @property
    def is_address(self) -> bool:
        """There is no name to look up."""
        return ":" in self.host or _ends_in_number(self.host)

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def check_url(url: str, rules: Rules) -> Target:
    """Reads a URL; UrlRefused where it breaks the rules, or could be read in more than one way."""
    if len(url.encode("utf-8", "replace")) > MAX_URL_BYTES:
        raise UrlRefused(f"has more than {MAX_URL_BYTES} bytes; shorten it")
    if not url.isprintable() or " " in url or "\\" in url:
        raise UrlRefused("holds a space, a backslash or a control character; percent-encode it")
    if "#" in url:
        raise UrlRefused("has a fragment, which is never sent; leave out the # and what follows")
    found = _URL.fullmatch(url)
    if not found:
        raise UrlRefused("is no whole URL; write it as https://host/path")
    scheme, authority, path = found[1].lower(), found[2], found[3] or "/"
    if scheme != "https" and not (scheme == "http" and rules.allow_http):
        raise UrlRefused(f"starts with {scheme[:20]}://; use https://")
    if not path.isascii():
        raise UrlRefused("holds characters beyond ASCII in its path or query; percent-encode them")
    host, port = _host_and_port(authority, rules, default=_DEFAULT_PORTS[scheme])
    return Target(scheme, host, port, path if path[0] == "/" else f"/{path}")


def _host_and_port(authority: str, rules: Rules, *, default: int) -> tuple[str, int]:
    if "@" in authority:
        raise UrlRefused("holds a user or a password; leave them out: the signature says who calls")
    found = _AUTHORITY.fullmatch(authority)
    if not found or "%" in authority:
        raise UrlRefused("has a host or a port that cannot be read; write it as https://host/path")
    port = int(found[3] or default)
    if port not in rules.ports:
        raise UrlRefused(f"uses port {port}; use {' or '.join(map(str, rules.ports))}")
    return _literal(IPv6Address, found[1], rules) if found[1] else _name(found[2], rules), port


def _literal(kind: type[IPv4Address | IPv6Address], text: str, rules: Rules) -> str:
    """An address as its one text. An IPv4 address in a form of old (decimal, octal, hex, short) is refused even if it
    is public."""
    try:
        address = kind(text)
    except ValueError:
        raise UrlRefused("has an IP address in an uncommon form; write it as 1.2.3.4 or [2606:4700::1]") from None
    check_address(address, rules)
    return str(address)


def _name(text: str, rules: Rules) -> str:
    name = _ascii(text.lower())
    labels = name.split(".")
    if _ends_in_number(name):
        return _literal(IPv4Address, text, rules)
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise UrlRefused(
            "has a host that is no domain name; write it as receiver.company.com, without a dot at its end"
        )
    if not rules.networks and (len(labels) == 1 or labels[-1] in NEVER_PUBLIC):
        raise UrlRefused("has a host that is not public; use a public domain name")
    return name


def _ends_in_number(name: str) -> bool:
    """By this WHATWG tells an IPv4 address from a name; readers of old take ``1`` for 0.0.0.1."""
    return _NUMBER.fullmatch(name.rpartition(".")[2]) is not None


def _ascii(name: str) -> str:
    """A name beyond ASCII as IDNA 2008 has it, without its mappings: full-width digits are no digits."""
    if name.isascii():
        return name
    try:
        import idna

        return idna.encode(name).decode()
    except ImportError as error:
        raise MissingExtra("server", "a URL beyond ASCII") from error
    except UnicodeError:
        raise UrlRefused("has a host that is no domain name by IDNA 2008; write it in ASCII, as xn--…") from None


def check_address(address: str | IPv4Address | IPv6Address, rules: Rules) -> None:
    """UrlRefused unless the address is public, or in a network that the rules allow. It is not said which it was: who
    chose the name would learn what is inside."""
    if not _may_be_dialled(ip_address(address), rules):
        raise UrlRefused("leads to an address that is not public; use a host of which every address is public")


def _may_be_dialled(address: IPv4Address | IPv6Address, rules: Rules) -> bool:
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if any(address in each for each in HOLDS_IPV4):
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
    return any(address in each for each in rules.networks) or _is_public(address)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in each for each in SPECIAL_IPV4)
    return address in GLOBAL_IPV6 and not any(address in each for each in SPECIAL_IPV6)


async def resolve(target: Target, rules: Rules, look_up: LookUp | None = None) -> tuple[str, ...]:
    """The addresses to dial: one look-up, and UrlRefused unless all that it finds may be called.

    ``socket.gaierror`` where the name has none, or after 5 s.
    """
    if target.is_address:
        found: Sequence[str] = (target.host,)
    else:
        found = await _in_time((look_up or system_look_up)(target.host, target.port))
    for address in found:
        check_address(address, rules)
    return tuple(dict.fromkeys(found))


async def _in_time(looking_up: Awaitable[Sequence[str]]) -> Sequence[str]:
    try:
        async with asyncio.timeout(LOOK_UP_S):
            return await looking_up
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, f"no name server has answered within {LOOK_UP_S:g} s") from None


async def system_look_up(host: str, port: int) -> Sequence[str]:
    """As the operating system resolves it, in threads of our own: a name server that hangs holds up nobody else."""
    return await asyncio.get_running_loop().run_in_executor(_threads.here(), _addresses, host, port)


def _addresses(host: str, port: int) -> list[str]:
    return [str(place[4][0]) for place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
