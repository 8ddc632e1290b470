"""What became of finalized invoices at the payment provider, what is to happen next, and trying again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from mm_metering.backends.collecting import Hint
from mm_metering.core.collecting import Collection
from mm_metering.core.money import from_nanos
from mm_metering.core.periods import from_micros
from mm_metering.dashboard.access import Role
from mm_metering.dashboard.page import PAGE, Done, Link, Page, Rows, Visit, place_text
from mm_metering.dashboard.render import link

WORST: Final = ("parked", "failing", "confirming", "open")
"""What somebody may have to look at, the worst first: the list without a filter."""
SETTLED: Final = ("uncollectible", "paid", "void")
STATES: Final = (*WORST, *SETTLED)
AGAIN: Final = ("parked", "failing", "confirming")
"""What is tried again by hand; the others are tried by themselves, or are settled."""
READ: Final = 1_000
IN_FILE: Final = 10_000
MEANINGS: Final[Mapping[str, str]] = {
    "parked": "wait for somebody",
    "failing": "failed, and will be tried again",
    "confirming": "wait for the customer to confirm",
    "open": "on their way",
    "uncollectible": "given up",
    "paid": "paid",
    "void": "taken back",
}


@dataclass(frozen=True, slots=True)
class State:
    name: str
    meaning: str
    number: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Group:
    """Those of one state. ``more``: the id past which there are others."""

    state: str
    collections: Sequence[Collection]
    more: str


async def payments(visit: Visit) -> Page:
    house, chosen = visit.house, visit.text("state")
    states = (chosen,) if chosen in STATES else WORST
    place = visit.place("hints")
    groups = await asyncio.gather(*(_group(visit, state) for state in states))
    totals, hints = await asyncio.gather(
        house.ledger.collection_totals(),
        house.ledger.hints_page(before=place, limit=PAGE + 1),
    )
    in_file = await _all(visit) if visit.text("csv") == "payments" else ()
    data = {
        "states": [_state(totals, name) for name in STATES if name in totals],
        "chosen": chosen if chosen in STATES else "",
        "groups": [each for each in groups if each.collections],
        "all_states": STATES,
        "again": AGAIN,
        "provider": type(house.billing.adapter).__name__ if house.billing.has_adapter else "",
        "hints": hints[:PAGE],
        "older_hints": place_text(hints[PAGE - 1].stored_us, hints[PAGE - 1].id) if len(hints) > PAGE else "",
        "hints_open": place is not None,
        "currency": house.catalogue.currency,
    }
    files = {"payments": _file(in_file), "hints": _hints_file(hints[:PAGE])}
    return Page("payments.html", "Payments", data, files=files)


def _state(totals: Mapping[str, tuple[int, int]], name: str) -> State:
    number, nanos = totals[name]
    return State(name, MEANINGS[name], number, from_nanos(nanos))


def _which(visit: Visit) -> dict[str, Any]:
    return {"tenant": visit.text("tenant") or None, "period": visit.text("period") or None}


async def _group(visit: Visit, state: str) -> Group:
    found = await visit.house.ledger.collections(
        **_which(visit), state=state, after=visit.text("after"), limit=PAGE + 1
    )
    return Group(state, found[:PAGE], found[PAGE - 1].invoice if len(found) > PAGE else "")


async def _all(visit: Visit) -> list[Collection]:
    found: list[Collection] = []
    state = visit.text("state") or None
    while len(found) < IN_FILE:
        after = found[-1].invoice if found else ""
        page = await visit.house.ledger.collections(**_which(visit), state=state, after=after, limit=READ)
        found += page
        if len(page) < READ:
            break
    return found


def _file(collections: Iterable[Collection]) -> Rows:
    names = (
        *("invoice", "tenant", "period", "amount", "currency", "state", "due_at", "failed_at", "suspends_at"),
        *("gives_up_at", "suspended", "provider_invoice", "note"),
    )
    header = (*names, "attempts", "last_outcome", "last_code")
    return Rows(header, [[*(getattr(each, name) for name in names), *_last(each)] for each in collections])


def _last(each: Collection) -> tuple[object, ...]:
    if not each.attempts:
        return 0, None, ""
    return len(each.attempts), each.attempts[-1].outcome, each.attempts[-1].code


def _hints_file(hints: Iterable[Hint]) -> Rows:
    header = ("id", "type", "about", "object_id", "happened_at", "stored_at", "next_at", "tries", "note")
    return Rows(
        header,
        [
            (
                *(each.id, each.type, each.about, each.object_id),
                *(None if at is None else from_micros(at) for at in (each.happened_us, each.stored_us, each.next_us)),
                *(each.tries, each.note),
            )
            for each in hints
        ],
    )


async def retry(visit: Visit) -> Done:
    """It is asked for at the next billing run."""
    after = await visit.house.retry_payment(visit.needs("id"))
    if after.state not in ("open", *AGAIN):
        return Done(f"The payment of {after.tenant} is {after.state}: there is nothing to try.", "payments")
    said = f"The payment of {after.tenant} is tried again within ten seconds, when a worker runs."
    return Done(said, link("payments", state="" if after.state in WORST else after.state))


LINK = Link("payments", "Payments", payments, actions={"retry-payment": (Role.FINANCE, retry)})
