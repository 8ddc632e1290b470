"""Who visits, what a visitor may do, and whether a request is the page's own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from mm_metering.errors import InvalidInput

MAX_NAME: Final = 100
LOCAL: Final = ("localhost", "127.0.0.1", "::1")
FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers that a proxy adds: whoever asks through one is not this machine."""
SAFE: Final = ("GET", "HEAD")


class Role(StrEnum):
    """What a visitor may do. Each may look at everything but what another role is needed for."""

    VIEWER = "viewer"
    FINANCE = "finance"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks: ``name`` stands in the audit log, so it should be an opaque id rather than a person's name.

    viewer    looks
    finance   finalizes, voids and credits invoices, has payments tried again
    operator  adjusts usage, changes plans, pauses tenants, resends webhooks, mutes alerts
    """

    name: str
    roles: frozenset[Role] = frozenset({Role.VIEWER})
    where: str = "dashboard"

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not 1 <= len(self.name) <= MAX_NAME:
            raise InvalidInput("visitor", f"a name has 1 to {MAX_NAME} printable characters")

    def may(self, role: Role) -> bool:
        return role is Role.VIEWER or role in self.roles

    @property
    def actor(self) -> str:
        """In the audit log."""
        return f"{self.where}:{self.name}"


Found: TypeAlias = Visitor | str | Iterable[str] | Response | None
"""What ``auth`` answers: the visitor, or the role or roles of one without a name; None: nobody; a Response: that."""
Auth: TypeAlias = Callable[[Request], Found | Awaitable[Found]]
NOBODY: Final = "nobody"
DEVELOPER: Final = Visitor("developer", frozenset(Role))
"""Who looks at a house in development, from the machine that it runs on."""


async def visitor_of(request: Request, auth: Auth | None) -> Visitor | Response | None:
    """None for nobody. Without ``auth`` whoever is on this machine is the developer."""
    if auth is None:
        return DEVELOPER if is_local(request) else None
    found = auth(request)
    if inspect.isawaitable(found):
        found = await found
    match found:
        case None | False | "":
            return None
        case Visitor() | Response():
            return found
        case str():
            return Visitor(NOBODY, frozenset({_role(found)}))
        case _:
            return Visitor(NOBODY, frozenset(map(_role, found)))


def _role(name: str) -> Role:
    try:
        return Role(name)
    except ValueError:
        raise InvalidInput("auth", f"answered {str(name)[:40]!r}; a role is one of {', '.join(Role)}") from None


def is_local(request: Request) -> bool:
    """Whether the request comes from this machine, not through a proxy, and to a name of this machine: a page of
    elsewhere whose name was made to point here has another one."""
    if any(name in request.headers for name in FORWARDED):
        return False
    return _is_loopback(request.client.host if request.client else "") and _host(request) in LOCAL


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _host(request: Request) -> str:
    return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""


def is_own(request: Request) -> bool:
    """Whether what would change something was sent by a page of this origin: browsers say where a POST comes from, and
    no page can make them lie. Who is no browser brings no cookies of one."""
    if request.method in SAFE:
        return True
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
