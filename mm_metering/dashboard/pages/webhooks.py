"""Webhooks: tenants' endpoints, what was sent to each, and sending it again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, get_args
from urllib.parse import urlsplit

from mm_metering.core.deliveries import Delivery, DeliveryState, EndpointRow
from mm_metering.core.periods import micros
from mm_metering.dashboard.access import Role
from mm_metering.dashboard.page import Do, Done, Link, Page, Rows, Visit, place_text
from mm_metering.dashboard.render import link
from mm_metering.errors import InvalidInput

SIZE: Final = 50
ENDPOINTS: Final = 25
IN_FILE: Final = 500
LATELY: Final = timedelta(days=7)
STATES: Final = get_args(DeliveryState)


@dataclass(frozen=True, slots=True)
class Listed:
    """An endpoint, and how much of the last days' events it received. ``host``: all of its URL that is shown to those
    who do not own it."""

    row: EndpointRow
    host: str
    delivered: int
    not_yet: int

    @property
    def percent(self) -> int | None:
        tried = self.delivered + self.not_yet
        return self.delivered * 100 // tried if tried else None


async def webhooks(visit: Visit) -> Page:
    tenant, ledger = visit.tenant or visit.text("tenant") or None, visit.house.ledger
    state, endpoint = visit.text("state"), visit.text("endpoint") or None
    chosen: Any = state if state in STATES else None
    is_file = "csv" in visit.query
    size = IN_FILE if is_file else SIZE
    rows, stats, deliveries = await asyncio.gather(
        ledger.endpoints_page(tenant=tenant, after=visit.text("after"), limit=ENDPOINTS),
        ledger.delivery_stats(since_us=micros(visit.now - LATELY)),
        ledger.deliveries_page(tenant=tenant, endpoint=endpoint, state=chosen, before=visit.place(), limit=size + 1),
    )
    listed = [Listed(each, host_of(each.url), *stats.get(each.id, (0, 0))) for each in rows]
    shown = deliveries[:size]
    data = {
        "endpoints": listed,
        "more": rows[-1].id if len(rows) == ENDPOINTS else "",
        "deliveries": shown,
        "hosts": {each.row.id: each.host for each in listed},
        "older": place_text(shown[-1].occurred_at, shown[-1].id) if len(deliveries) > size else "",
        "states": STATES,
        "days": LATELY.days,
    }
    header = ("occurred_at", "tenant", "endpoint", "event", "type", "state", "attempts", "next_at", "id")
    files = {"deliveries": Rows(header, [*map(_row, shown)])}
    value = {"endpoints": [_endpoint(each) for each in listed], "deliveries": [*map(_delivery, shown)]}
    return Page("webhooks.html", "Webhooks", data, files=files, value=value)


def _endpoint(each: Listed) -> Mapping[str, object]:
    """For the owner: without its secrets."""
    row = each.row
    return {
        "id": row.id,
        "url": row.url,
        "events": row.events,
        "enabled": row.enabled,
        "why_disabled": row.why_disabled,
        "failing_since": row.failing_since,
        "delivered": each.delivered,
        "not_delivered": each.not_yet,
    }


def _delivery(each: Delivery) -> Mapping[str, object]:
    return {
        "id": each.id,
        "endpoint": each.endpoint,
        "event": each.event,
        "type": each.type,
        "state": each.state,
        "occurred_at": each.occurred_at,
        "next_at": each.next_at,
        "attempts": [{"at": tried.at, "status": tried.status, "error": tried.error} for tried in each.attempts],
    }


def host_of(url: str) -> str:
    """Of a URL: its path and query may hold what its owner keeps secret."""
    return urlsplit(url).hostname or "–"


def _row(each: Delivery) -> Sequence[object]:
    tried = len(each.attempts)
    return each.occurred_at, each.tenant, each.endpoint, each.event, each.type, each.state, tried, each.next_at, each.id


async def delivery(visit: Visit) -> Page:
    own = visit.tenant or None
    found = await visit.house.webhooks.get_delivery(visit.text("id"), tenant=own)
    endpoint = await visit.house.ledger.endpoint(found.endpoint)
    host = host_of(endpoint.url) if endpoint else "–"
    return Page("delivery.html", f"Delivery of {found.type}", {"delivery": found, "host": host, "endpoint": endpoint})


# -- what may be done -------------------------------------------------------------------------------------------------


async def resend(visit: Visit) -> Done:
    found = await visit.house.webhooks.resend(visit.needs("delivery"), tenant=visit.tenant or None)
    return Done(f"{found.type} is sent again now.", link("delivery", id=found.id))


async def recover(visit: Visit) -> Done:
    """What did not arrive since an instant."""
    endpoint = visit.needs("endpoint")
    count = await visit.house.webhooks.recover(endpoint, _utc(visit, "since"), tenant=visit.tenant or None)
    return Done(f"{count:,} that did not arrive are sent again.", link("webhooks", endpoint=endpoint))


async def replay(visit: Visit) -> Done:
    """All of a range."""
    endpoint = visit.needs("endpoint")
    start, end = _utc(visit, "start"), _utc(visit, "end")
    count = await visit.house.webhooks.replay(endpoint, start, end, tenant=visit.tenant or None)
    return Done(f"{count:,} are sent again.", link("webhooks", endpoint=endpoint))


def _utc(visit: Visit, name: str) -> str:
    """A form's instant, such as "2024-01-15T12:00": one without a zone is UTC."""
    text = visit.needs(name)
    return f"{text}Z" if text[-3:-2] == ":" and "+" not in text else text


async def test(visit: Visit) -> Done:
    endpoint = visit.needs("endpoint")
    attempt = await visit.house.webhooks.test_endpoint(endpoint, tenant=visit.tenant or None)
    answer = f"status {attempt.status}" if attempt.status else "no answer"
    said = f"The test event: {answer} after {attempt.took_ms:,} ms{f', {attempt.error}' if attempt.error else ''}."
    return Done(said, link("webhooks", endpoint=endpoint))


async def switch(visit: Visit) -> Done:
    """On or off."""
    endpoint, wanted = visit.needs("endpoint"), visit.needs("to")
    if wanted not in ("on", "off"):
        raise InvalidInput("to", f"{wanted[:20]!r} is neither on nor off")
    own = visit.tenant or None
    after = await visit.house.webhooks.update_endpoint(endpoint, enabled=wanted == "on", tenant=own)
    return Done(
        f"{host_of(after.url)} is {'enabled' if after.enabled else 'disabled'}.", link("webhooks", endpoint=endpoint)
    )


ACTIONS: Final[Mapping[str, tuple[Role, Do]]] = {
    "resend": (Role.OPERATOR, resend),
    "recover": (Role.OPERATOR, recover),
    "replay": (Role.OPERATOR, replay),
    "test-endpoint": (Role.OPERATOR, test),
    "switch-endpoint": (Role.OPERATOR, switch),
}
LINK = Link("webhooks", "Webhooks", webhooks, also={"delivery": delivery}, actions=ACTIONS)


# -- what a tenant may do besides, in its portal ----------------------------------------------------------------------


async def create(visit: Visit) -> Page:
    """The new endpoint's secret, which is shown this once."""
    events = visit.given("events").replace(",", " ").split() or ["*"]
    made = await visit.house.webhooks.create_endpoint(visit.tenant, visit.needs("url"), events)
    return Page("secret.html", "New endpoint", {"endpoint": made})


async def rotate(visit: Visit) -> Page:
    made = await visit.house.webhooks.rotate_secret(visit.needs("endpoint"), tenant=visit.tenant)
    return Page("secret.html", "New secret", {"endpoint": made})


OWN: Final = Link(
    "webhooks",
    "Webhooks",
    webhooks,
    also={"delivery": delivery},
    actions={**ACTIONS, "create-endpoint": (Role.OPERATOR, create), "rotate-secret": (Role.OPERATOR, rotate)},
)
