"""Who calls, where a test says it instead of the requests: the resolvers of a Metering's middlewares, and their
stand-ins for the time of a block."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from typing import Final, Protocol, TypeAlias
from weakref import WeakKeyDictionary

from starlette.types import Scope

from mm_metering.middleware.tenants import Found, Resolver, anonymous, settled

AS_TENANT: Final = "mm_metering.as_tenant"
"""Scope key of a request that a test client makes for a tenant."""

StandIn: TypeAlias = Callable[[Resolver | None], Resolver | None]
"""What asks instead of a resolver; None where a dependency says who calls."""


class Asks(Protocol):
    """A middleware, with the resolver that it asks."""

    tenant: Resolver | None


class Callers:
    """One per Metering; its middlewares join when they are made, also within a block."""

    def __init__(self) -> None:
        self._own: WeakKeyDictionary[Asks, Resolver | None] = WeakKeyDictionary()
        self._stand_ins: list[StandIn] = []

    @property
    def resolvers(self) -> list[Resolver | None]:
        """The middlewares' own."""
        return [*self._own.values()]

    def join(self, middleware: Asks) -> None:
        self._own[middleware] = middleware.tenant
        if self._stand_ins:
            self._place()

    @contextmanager
    def instead(self, stand_in: StandIn) -> Iterator[None]:
        """Each middleware asks the stand-in of what it asked before."""
        self._stand_ins.append(stand_in)
        self._place()
        try:
            yield
        finally:
            self._stand_ins.remove(stand_in)
            self._place()

    def _place(self) -> None:
        for middleware, own in self._own.items():
            middleware.tenant = reduce(lambda resolver, stand_in: stand_in(resolver), self._stand_ins, own)


def always(tenant: str) -> StandIn:
    """This tenant, whatever a request shows."""
    resolver = anonymous(tenant)
    return lambda own: own and resolver


def otherwise(tenant: str) -> StandIn:
    """This tenant where nobody is found."""
    return lambda own: own and partial(_found_or, own, tenant)


async def _found_or(own: Resolver, tenant: str, scope: Scope) -> Found:
    return await settled(own(scope)) or tenant


def as_told(own: Resolver | None) -> Resolver | None:
    """The tenant that a test client has put on the request's scope; for all others, who it was before."""
    return own and partial(_told_or_found, own)


def _told_or_found(own: Resolver, scope: Scope) -> Found | Awaitable[Found]:
    return scope.get(AS_TENANT) or own(scope)


def headers_of(resolver: Resolver, tenant: str) -> dict[str, str]:
    """The headers by which a resolver finds that tenant; empty where nobody can say."""
    for part in getattr(resolver, "parts", (resolver,)):
        if (shown := getattr(part, "headers_of", None)) is not None:
            found: dict[str, str] = shown(tenant)
            return found
    return {}
