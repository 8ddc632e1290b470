"""The two sites: the dashboard of those who run the house, and each tenant's portal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response

from mm_metering.dashboard.access import Auth, Visitor, visitor_of
from mm_metering.dashboard.page import Link
from mm_metering.dashboard.pages import overview, tenants
from mm_metering.dashboard.site import Guest, Look, Site
from mm_metering.errors import InvalidInput
from mm_metering.middleware.tenants import Resolver

if TYPE_CHECKING:
    from mm_metering.metering import Metering

EMBEDDED: Final = ("memory:", "local:", "sqlite:")
MENU: Final[Sequence[Link]] = (
    overview.LINK,
    tenants.LINK,
)


def dashboard(house: Metering, auth: Auth | None) -> Site:
    """InvalidInput without ``auth`` where a store is not this machine's own."""
    if auth is None and not all(place.startswith(EMBEDDED) for place in house.places):
        raise InvalidInput(
            "auth",
            f"is needed: {' and '.join(house.places)} are not a developer's own; "
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
    raise NotImplementedError
