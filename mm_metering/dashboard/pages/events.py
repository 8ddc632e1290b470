"""The event log: what was recorded, as it was stored, with what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mm_metering.backends.looks import FactPlace, StoredFact
from mm_metering.core.facts import Fact
from mm_metering.core.money import from_nanos
from mm_metering.core.periods import from_micros
from mm_metering.dashboard.page import Link, Page, Rows, Visit
from mm_metering.errors import InvalidInput

SIZE: Final = 50
IN_FILE: Final = 500
TYPES: Final = ("api_call", "ai_call", "ai_token", "export", "storage", "webhook_delivery")
KINDS: Final = ("use", "hold", "close", "set", "add", "void")


async def events(visit: Visit) -> Page:
    is_file = "csv" in visit.query
    page = await visit.house.ledger.latest_facts(
        tenant=visit.text("tenant") or None,
        event_type=visit.text("type"),
        kind=visit.text("kind"),
        text=visit.text("q"),
        before=_place(visit.query.get("before", "")),
        limit=IN_FILE if is_file else SIZE,
    )
    types = dict.fromkeys((*TYPES, *(each.event for each in visit.house.catalogue.meters.values() if each.event)))
    data = {
        "facts": [(each, _shown(each)) for each in page.facts],
        "older": None if page.ended is None else _text(page.ended),
        "types": list(types),
        "kinds": KINDS,
        "live": bool(visit.text("live")),
    }
    return Page("events.html", "Events", data, files={"events": Rows(HEADER, [_row(each) for each in page.facts])})


HEADER: Final = ("stored_at", "occurred_at", "tenant", "type", "resource", "quantity", "kind", "cost", "voided", "id")


def _row(each: StoredFact) -> tuple[object, ...]:
    fact = each.fact
    cost = None if fact.cost_nanos is None else from_nanos(fact.cost_nanos)
    at = from_micros(each.stored_us), from_micros(fact.occurred_us)
    rest = fact.tenant, fact.event_type, fact.resource, fact.quantity, fact.kind, cost, each.voided, fact.id
    return (*at, *rest)


def _shown(each: StoredFact) -> Mapping[str, Any]:
    """The fact as JSON. Metadata stays as it is stored: sealed, where there is a key."""
    fact = each.fact
    return {
        "id": fact.id,
        "kind": fact.kind,
        "tenant": fact.tenant,
        "event_type": fact.event_type,
        "resource": fact.resource,
        "quantity": fact.quantity,
        "cost": None if fact.cost_nanos is None else from_nanos(fact.cost_nanos),
        "counts": [
            f"{count.meter}{f' of {count.scope}' if count.scope else ''}: {count.amount}" for count in fact.counts
        ],
        "success": fact.success,
        "target": fact.target,
        "recorded": from_micros(fact.occurred_us).isoformat(),
        "folded": from_micros(each.stored_us).isoformat(),
        "taken_back": each.voided,
        "held": each.open,
        "metadata": _metadata(fact),
    }


def _metadata(fact: Fact) -> object:
    if fact.metadata is None:
        return None
    try:
        return json.loads(fact.metadata)
    except ValueError:
        return "sealed"


def _text(place: FactPlace) -> str:
    return json.dumps(place)


def _place(text: str) -> FactPlace | None:
    """InvalidInput for what ``_text`` did not write."""
    if not text:
        return None
    try:
        stored_us, tenant, occurred_us, name = json.loads(text)
        return FactPlace(int(stored_us), str(tenant), int(occurred_us), str(name))
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput("before", f"{text[:40]!r} is no place in this list; begin without one") from None


LINK = Link("events", "Events", events)
