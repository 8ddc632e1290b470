"""What people look at: pages, counts and sums over all tenants, each from an index or from what was added up before.

Nothing here decides anything, and none of it is needed to meter or to bill: it may be a minute old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from mm_metering.backends.collecting import Hint
from mm_metering.backends.work import Alert
from mm_metering.core.audit import AuditEntry
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Delivery, DeliveryState, EndpointRow
from mm_metering.core.facts import MOST, Fact
from mm_metering.core.invoices import Invoice, InvoiceStatus
from mm_metering.core.tenancy import TenantRow
from mm_metering.errors import InvalidInput

TOP: Final = 10
"""Tenants that a ``HouseDay`` names."""
MAX_DAYS: Final = 400
"""Most days that ``house_days`` is asked for."""
MAX_COUNT: Final = 10_000
"""As far as is counted: an answer of that many stands for that many or more. Nothing past it can be skipped to."""
LOOK: Final = 4_000
"""Most facts that one ``latest_facts`` looks at."""
COUNTED: Final = 10_000
"""Most deliveries that one ``delivery_stats`` counts, the newest."""
MAX_TYPES: Final = 40
"""Most types of one ``notices_page``."""
OPEN_US: Final = 2**62
"""In the ``Place`` of an alert that is open: these come before all that were closed."""

TenantOrder: TypeAlias = Literal["id", "-id", "plan", "since", "-since"]


class HouseDay(NamedTuple):
    """What all tenants together used of a meter on a day: each tenant's own local day of that date. Scopes are left
    out; the meters of event types ("*api_call") are among them. ``quantity``: units, nano-units for a money meter, the
    day's change for a level. ``tenants``: how many have facts of it. ``top``: the TOP tenants with the most of it, and
    how much, most first. ``made_us``: when it was added up. ``resources``, of an event type's meter: the TOP models or
    routes with their quantity and nano-units, the dearest first and then the most used."""

    day: date
    meter: str
    quantity: int
    cost_nanos: int
    refused: int
    tenants: int
    top: tuple[tuple[str, int], ...]
    made_us: int
    resources: tuple[tuple[str, int, int], ...] = ()


class Place(NamedTuple):
    """Where a page of a list begins that has the newest first: what is older than it, in order of (at_us, id)."""

    at_us: int
    id: str


class FactPlace(NamedTuple):
    """The same in a list of facts. Take it from ``StoredFact.place`` or ``FactPage.ended``."""

    stored_us: int
    tenant: str
    occurred_us: int
    id: str


class StoredFact(NamedTuple):
    """A fact as it stands. ``stored_us``: when it was folded, by the clock of who did; facts of one batch differ by a
    microsecond each. ``open``: a hold without a counted close."""

    fact: Fact
    stored_us: int
    voided: bool
    open: bool

    @property
    def place(self) -> FactPlace:
        return FactPlace(self.stored_us, self.fact.tenant, self.fact.occurred_us, self.fact.id)


class FactPage(NamedTuple):
    """``ended``: where the next page begins (its ``before``), also if this one has fewer facts than asked for, since it
    looked at LOOK of them; None: there are no more."""

    facts: list[StoredFact]
    ended: FactPlace | None


class Looks(Protocol):
    """A part of the ``Ledger`` law. Each method is one transaction. A filter that is None or "" leaves nothing out;
    a text or number that no ledger can hold finds nothing."""

    async def roll_up(self, day: date, *, now_us: int) -> None:
        """Adds up the cells of a day, as of one instant, and puts the sums in place of those that stand. Of two at once
        the later ``now_us`` stays."""
        ...

    async def house_days(self, first: date, last: date) -> list[HouseDay]:
        """Those from first to last, both included, by day and meter. InvalidInput for more than MAX_DAYS."""
        ...

    async def first_day(self, *, since: date = date.min) -> date | None:
        """The first day from then on that has cells."""
        ...

    async def find_tenants(
        self,
        *,
        text: str = "",
        plan: str = "",
        status: str = "",
        now_us: int,
        order: TenantOrder = "id",
        skip: int = 0,
        limit: int = 50,
    ) -> tuple[list[TenantRow], int]:
        """A page of tenants, and how many there are in all, MAX_COUNT at most. ``text``: a part of the id, whatever the
        case of A to Z. ``plan`` is a ``plan_name``, "pro" for "pro~acme" too; plan and status are those in force at
        ``now_us``. In order of the id, of the plan's name and then the id, or of the sign-up."""
        ...

    async def count_tenants(self, now_us: int) -> Mapping[tuple[str, str], int]:
        """By (plan_name, status) in force."""
        ...

    async def latest_facts(
        self,
        *,
        tenant: str | None = None,
        event_type: str = "",
        kind: str = "",
        text: str = "",
        before: FactPlace | None = None,
        after: FactPlace | None = None,
        limit: int = 100,
    ) -> FactPage:
        """Facts, voided ones too, the newest stored first. A tenant's come in order of their instants instead, the
        newest first, unless there is an ``after``.

        ``before``: those past that place. ``after``, for who follows along: those stored later than it, the newest of
        them. A fold that began before it and committed after it may be missed: ask from a few seconds before, and leave
        out what is known. ``text``: a part of the resource, whatever the case of A to Z, or the whole id. At most LOOK
        facts are looked at.
        """
        ...

    async def audit_page(
        self, *, tenant: str | None = None, action: str = "", before: Place | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        """The newest first, by (at, id)."""
        ...

    async def notices_page(
        self, *, tenant: str | None = None, types: Sequence[str] = (), before: Place | None = None, limit: int = 100
    ) -> list[Notice]:
        """The newest first, by (made_at, id). InvalidInput for more than MAX_TYPES types."""
        ...

    async def hints_page(self, *, before: Place | None = None, limit: int = 100) -> list[Hint]:
        """The newest first, by (stored_us, id)."""
        ...

    async def deliveries_page(
        self,
        *,
        tenant: str | None = None,
        endpoint: str | None = None,
        state: DeliveryState | None = None,
        before: Place | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        """The newest first, by (occurred_at, id)."""
        ...

    async def endpoints_page(
        self, *, tenant: str | None = None, after: str = "", limit: int = 100
    ) -> list[EndpointRow]:
        """By id, past ``after``."""
        ...

    async def delivery_stats(self, *, since_us: int) -> Mapping[str, tuple[int, int]]:
        """By endpoint: how many of what happened since then were delivered, and how many not (yet). Of more than
        COUNTED deliveries the newest are counted."""
        ...

    async def invoices_page(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        status: InvoiceStatus | None = None,
        skip: int = 0,
        limit: int = 50,
    ) -> tuple[list[Invoice], int]:
        """A page of them, the newest period first, then by tenant, its newest issue first; and how many there are in
        all, MAX_COUNT at most."""
        ...

    async def invoice_totals(self, *, months: int = 12) -> list[tuple[str, InvoiceStatus, int, int]]:
        """(period, status, how many, their totals in nano-units) of the newest month with invoices and the months
        before it; the newest first, then by status."""
        ...

    async def collection_totals(self) -> Mapping[str, tuple[int, int]]:
        """By state: how many, and what they come to in nano-units."""
        ...

    async def alert_history(self, *, before: Place | None = None, limit: int = 100) -> list[Alert]:
        """The ledger's own alerts, past ``alert_place``: first those that are open, the newest opened first, then the
        others, the newest closed first. InvalidInput for a place that is none."""
        ...


def alert_place(alert: Alert) -> Place:
    at_us = OPEN_US if alert.closed_us is None else alert.closed_us
    return Place(at_us, f"{alert.opened_us}/{alert.kind}/{alert.subject}")


AlertKey: TypeAlias = tuple[int, int, str, str]


def alert_key(place: Place) -> AlertKey:
    """(closed_us or OPEN_US, opened_us, kind, subject): they are listed in the opposite order of these."""
    opened_us, *rest = place.id.split("/", 2)
    if len(rest) == 2 and opened_us.removeprefix("-").isdecimal() and len(opened_us) < 19:
        return place.at_us, int(opened_us), rest[0], rest[1]
    raise InvalidInput("before", f"{place.id[:40]!r} is no place of an alert; begin without one")


def top_resources(found: Iterable[tuple[str, int, int]]) -> tuple[tuple[str, int, int], ...]:
    """The TOP of (resource, quantity, nano-units)."""
    return tuple(sorted(found, key=lambda each: (-each[2], -each[1], each[0]))[:TOP])


def refuse_days(first: date, last: date) -> None:
    """InvalidInput for more than MAX_DAYS."""
    if (days := (last - first) // timedelta(days=1) + 1) > MAX_DAYS:
        raise InvalidInput("days", f"{days} of {MAX_DAYS} at most; ask for less at once")


def refuse_types(types: Sequence[str]) -> None:
    """InvalidInput for more than MAX_TYPES."""
    if len(types) > MAX_TYPES:
        raise InvalidInput("types", f"{len(types)} of {MAX_TYPES} at most; ask for all of them instead")


def lowered(text: str) -> str:
    """With A to Z as a to z and all else as it is, as both databases do."""
    return text.translate(_LOWER)


_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def can_be_found(*values: str | int | None) -> bool:
    """False of a text or a number that no ledger has, and that a database would refuse to look for."""
    return all(each is None or _can_be_stored(each) for each in values)


def _can_be_stored(value: str | int) -> bool:
    if isinstance(value, int):
        return -MOST <= value <= MOST
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
