"""The two sites: the dashboard of those who run the house, and each tenant's portal."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response

from mm_metering.dashboard.access import Auth, Role, Visitor, visitor_of
from mm_metering.dashboard.page import Link
from mm_metering.dashboard.pages import (
    ai,
    alerts,
    events,
    invoices,
    log,
    overview,
    own,
    payments,
    plans,
    system,
    tenants,
    webhooks,
)
from mm_metering.dashboard.site import Guest, Look, Site
from mm_metering.errors import InvalidInput
from mm_metering.middleware.tenants import Resolver, begin

if TYPE_CHECKING:
    from mm_metering.metering import Metering

EMBEDDED: Final = ("memory:", "local:", "sqlite:")
MENU: Final[Sequence[Link]] = (
    overview.LINK,
    tenants.LINK,
    ai.LINK,
    invoices.LINK,
    payments.LINK,
    log.LINK,
    events.LINK,
    webhooks.LINK,
    alerts.LINK,
    plans.LINK,
    system.LINK,
)
OWN_MENU: Final[Sequence[Link]] = (
    own.LINK,
    invoices.OWN,
    webhooks.OWN,
)
ORIGIN: Final = re.compile(r"'self'|https?://[a-z0-9.-]+(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)


def dashboard(house: Metering, auth: Auth | None) -> Site:
    """InvalidInput without ``auth`` where a store is not this machine's own."""
    shared = [place for place in house.places if not place.startswith(EMBEDDED)]
    if auth is None and shared:
        raise InvalidInput(
            "auth",
            f"is needed: {' and '.join(shared)} may be in use by others too; "
            'metering.dashboard(auth=...) names who may look, such as auth=lambda request: "viewer" if ... else None',
        )

    async def known(request: Request) -> Guest | Response | None:
        found = await visitor_of(request, auth)
        return Guest(found) if isinstance(found, Visitor) else found

    stranger = "You are not known here." if auth else "Without auth= only this machine itself may look."
    return Site(house, Look("metering", MENU, known, stranger, badge=lambda: badge_of(house)))


def badge_of(house: Metering) -> str:
    """LIVE where money of the real world moves."""
    if not house.billing.has_adapter:
        return "DEV"
    return "LIVE" if getattr(house.billing.adapter, "is_live", False) else "TEST"


def portal(house: Metering, tenant: Resolver, *, frames: Sequence[str], read_only: bool, name: str) -> Site:
    """InvalidInput for what is no origin."""
    for each in frames:
        if not ORIGIN.fullmatch(each):
            raise InvalidInput("frames", f"{each!r} is no origin, such as https://app.example.com")
    roles = frozenset({Role.VIEWER} if read_only else {Role.VIEWER, Role.OPERATOR})

    async def known(request: Request) -> Guest | None:
        found = begin(tenant, request.scope)
        owner = await found if isinstance(found, Awaitable) else found
        return None if owner is None else Guest(Visitor("tenant", roles, "portal"), owner)

    return Site(house, Look(name, OWN_MENU, known, "Nobody is known by what this request shows.", frames=frames))
