"""What people look at, in this process: it looks at everything each time."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from itertools import islice
from typing import Any, Protocol, TypeVar

from mm_metering.backends.collecting import Hint, Waiting
from mm_metering.backends.looks import (
    COUNTED,
    LOOK,
    MAX_COUNT,
    TOP,
    AlertKey,
    FactPage,
    FactPlace,
    HouseDay,
    Place,
    StoredFact,
    TenantOrder,
    alert_key,
    alert_place,
    can_be_found,
    lowered,
    refuse_days,
    refuse_types,
    top_resources,
)
from mm_metering.backends.work import Alert
from mm_metering.core.audit import AuditEntry
from mm_metering.core.audit_chain import Link
from mm_metering.core.cells import CellKey, CellSum, event_meter
from mm_metering.core.collecting import Collection, Notice
from mm_metering.core.deliveries import Delivery, DeliveryState, EndpointRow
from mm_metering.core.facts import Fact
from mm_metering.core.invoices import Invoice, InvoiceStatus
from mm_metering.core.money import to_nanos
from mm_metering.core.periods import later_period, micros
from mm_metering.core.tenancy import TenantRow, plan_name

T = TypeVar("T")


class OneTenants(Protocol):
    """What is looked at of one tenant's part of the ledger."""

    row: TenantRow | None
    facts: dict[str, Fact]
    stored: dict[str, int]
    voided: set[str]
    refused: dict[CellKey, int]

    def shown(self) -> Iterable[tuple[CellKey, CellSum]]: ...

    def open_holds(self) -> tuple[Fact, ...]: ...


class MemoryLooks:
    """A part of a ledger with a lock, and all that is looked at."""

    _lock: threading.RLock
    _books: Any  # of OneTenants, by tenant
    _links: list[Link]
    _outbox: dict[str, Waiting]
    _hints: dict[str, Hint]
    _deliveries: dict[str, Delivery]
    _endpoints: dict[str, EndpointRow]
    _invoices: dict[str, Invoice]
    _collections: dict[str, Collection]
    _alerts: dict[tuple[str, str], Alert]
    _closed: list[Alert]

    def __init__(self) -> None:
        super().__init__()
        self._house: dict[date, list[HouseDay]] = {}

    def _each(self) -> Mapping[str, OneTenants]:
        books: Mapping[str, OneTenants] = self._books
        return books

    # -- the house by day ---------------------------------------------------------------------------------------------

    async def roll_up(self, day: date, *, now_us: int) -> None:
        with self._lock:
            stands = self._house.get(day)
            if not stands or stands[0].made_us <= now_us:
                self._house[day] = self._added_up(day, now_us)

    def _added_up(self, day: date, now_us: int) -> list[HouseDay]:
        used: dict[str, Counter[str]] = defaultdict(Counter)
        costs, refused = Counter[str](), Counter[str]()
        resources: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
        for tenant, books in self._each().items():
            for key, cell in books.shown():
                if key.day == day and not key.scope:
                    costs[key.meter] += cell.cost_nanos
                    refused[key.meter] += books.refused.get(key, 0)
                    if cell.count:
                        used[key.meter][tenant] += cell.quantity
                        if key.meter.startswith(event_meter("")):
                            of = resources[key.meter][key.resource]
                            of[0], of[1] = of[0] + cell.quantity, of[1] + cell.cost_nanos
        return [
            HouseDay(
                day,
                meter,
                sum(used[meter].values()),
                costs[meter],
                refused[meter],
                len(used[meter]),
                _top(used[meter]),
                now_us,
                top_resources((name, of[0], of[1]) for name, of in resources[meter].items()),
            )
            for meter in sorted(costs)
        ]

    async def house_days(self, first: date, last: date) -> list[HouseDay]:
        refuse_days(first, last)
        with self._lock:
            return [each for day in sorted(self._house) if first <= day <= last for each in self._house[day]]

    async def first_day(self, *, since: date = date.min) -> date | None:
        with self._lock:
            days = {key.day for books in self._each().values() for key, _ in books.shown()}
        return min((day for day in days if day >= since), default=None)

    # -- tenants ------------------------------------------------------------------------------------------------------

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
        if not can_be_found(text, plan, status):
            return [], 0
        with self._lock:
            found = [
                row
                for row in self._rows()
                if lowered(text) in lowered(row.id)
                and plan in ("", plan_name(row.segment_at(now_us).plan))
                and status in ("", row.segment_at(now_us).status)
            ]
        keys: dict[str, Callable[[TenantRow], tuple[Any, str]]] = {
            "id": lambda row: ("", row.id),
            "plan": lambda row: (plan_name(row.segment_at(now_us).plan), row.id),
            "since": lambda row: (row.subscribed_us, row.id),
        }
        found.sort(key=keys[order.removeprefix("-")], reverse=order.startswith("-"))
        return found[:MAX_COUNT][skip : skip + limit], min(len(found), MAX_COUNT)

    def _rows(self) -> Iterable[TenantRow]:
        return (books.row for books in self._each().values() if books.row is not None)

    async def count_tenants(self, now_us: int) -> Mapping[tuple[str, str], int]:
        with self._lock:
            standing = (row.segment_at(now_us) for row in self._rows())
            return Counter((plan_name(each.plan), each.status) for each in standing)

    # -- facts --------------------------------------------------------------------------------------------------------

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
        if not can_be_found(tenant, event_type, kind, text, *(before or ()), *(after or ())):
            return FactPage([], None)
        with self._lock:
            there = self._stored(tenant if after is None else None)
        order = _as_it_occurred if tenant is not None and after is None else _as_it_came
        there = [
            each
            for each in sorted(there, key=lambda each: order(each.place), reverse=True)
            if (before is None or order(each.place) < order(before))
            and (after is None or order(each.place) > order(after))
        ]
        found = [
            each
            for each in there[:LOOK]
            if tenant in (None, each.fact.tenant)
            and event_type in ("", each.fact.event_type)
            and kind in ("", each.fact.kind)
            and (lowered(text) in lowered(each.fact.resource) or text == each.fact.id)
        ]
        if len(found) > limit:
            return FactPage(found[:limit], found[limit - 1].place)
        return FactPage(found, there[LOOK - 1].place if len(there) > LOOK else None)

    def _stored(self, tenant: str | None) -> list[StoredFact]:
        found = []
        for name, books in self._each().items():
            if tenant in (None, name):
                held = {fact.id for fact in books.open_holds()}
                found += [
                    StoredFact(fact, books.stored[fact.id], fact.id in books.voided, fact.id in held)
                    for fact in books.facts.values()
                ]
        return found

    # -- what was done, told and heard --------------------------------------------------------------------------------

    async def audit_page(
        self, *, tenant: str | None = None, action: str = "", before: Place | None = None, limit: int = 100
    ) -> list[AuditEntry]:
        if not can_be_found(tenant, action, *(before or ())):
            return []
        with self._lock:
            found = {
                Place(micros(each.entry.at), each.id): each.entry
                for each in self._links
                if tenant in (None, each.tenant) and action in ("", each.action)
            }
        return _newest(found, before, limit)

    async def notices_page(
        self, *, tenant: str | None = None, types: Sequence[str] = (), before: Place | None = None, limit: int = 100
    ) -> list[Notice]:
        refuse_types(types)
        if not can_be_found(tenant, *types, *(before or ())):
            return []
        with self._lock:
            found = {
                Place(micros(each.made_at), each.id): each
                for each in (waiting.notice for waiting in self._outbox.values())
                if tenant in (None, each.tenant) and (not types or each.type in types)
            }
        return _newest(found, before, limit)

    async def hints_page(self, *, before: Place | None = None, limit: int = 100) -> list[Hint]:
        if not can_be_found(*(before or ())):
            return []
        with self._lock:
            return _newest({Place(each.stored_us, each.id): each for each in self._hints.values()}, before, limit)

    async def deliveries_page(
        self,
        *,
        tenant: str | None = None,
        endpoint: str | None = None,
        state: DeliveryState | None = None,
        before: Place | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        if not can_be_found(tenant, endpoint, state, *(before or ())):
            return []
        with self._lock:
            found = {
                Place(micros(each.occurred_at), each.id): each
                for each in self._deliveries.values()
                if tenant in (None, each.tenant) and endpoint in (None, each.endpoint) and state in (None, each.state)
            }
        return _newest(found, before, limit)

    async def endpoints_page(
        self, *, tenant: str | None = None, after: str = "", limit: int = 100
    ) -> list[EndpointRow]:
        if not can_be_found(tenant, after):
            return []
        with self._lock:
            theirs = (each for _, each in sorted(self._endpoints.items()) if tenant in (None, each.tenant))
            return list(islice((each for each in theirs if each.id > after), limit))

    async def delivery_stats(self, *, since_us: int) -> Mapping[str, tuple[int, int]]:
        with self._lock:
            recent = [each for each in self._deliveries.values() if micros(each.occurred_at) >= since_us]
        recent.sort(key=lambda each: each.occurred_at, reverse=True)
        counts = Counter((each.endpoint, each.state == "delivered") for each in recent[:COUNTED])
        return {name: (counts[name, True], counts[name, False]) for name in sorted({name for name, _ in counts})}

    # -- money --------------------------------------------------------------------------------------------------------

    async def invoices_page(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        status: InvoiceStatus | None = None,
        skip: int = 0,
        limit: int = 50,
    ) -> tuple[list[Invoice], int]:
        if not can_be_found(tenant, period, status):
            return [], 0
        with self._lock:
            found = [
                each
                for each in self._invoices.values()
                if tenant in (None, each.tenant) and period in (None, each.period) and status in (None, each.status)
            ]
        found.sort(key=lambda each: (each.tenant, -each.issue))
        found.sort(key=lambda each: each.period, reverse=True)
        return found[:MAX_COUNT][skip : skip + limit], min(len(found), MAX_COUNT)

    async def invoice_totals(self, *, months: int = 12) -> list[tuple[str, InvoiceStatus, int, int]]:
        with self._lock:
            newest = max((each.period for each in self._invoices.values()), default=None)
            recent = [each for each in self._invoices.values() if newest and each.period >= _first(newest, months)]
        totals: dict[tuple[str, InvoiceStatus], list[int]] = defaultdict(list)
        for each in sorted(recent, key=lambda each: each.status):
            totals[each.period, each.status].append(to_nanos(each.total))
        found = [(*key, len(amounts), sum(amounts)) for key, amounts in totals.items()]
        return sorted(found, key=lambda row: row[0], reverse=True)

    async def collection_totals(self) -> Mapping[str, tuple[int, int]]:
        amounts: dict[str, list[int]] = defaultdict(list)
        with self._lock:
            for each in self._collections.values():
                amounts[each.state].append(to_nanos(each.amount))
        return {state: (len(theirs), sum(theirs)) for state, theirs in amounts.items()}

    # -- alerts -------------------------------------------------------------------------------------------------------

    async def alert_history(self, *, before: Place | None = None, limit: int = 100) -> list[Alert]:
        end = None if before is None else alert_key(before)
        if not can_be_found(*(end or ())):
            return []
        with self._lock:
            found: dict[AlertKey, Alert] = {
                alert_key(alert_place(each)): each for each in (*self._alerts.values(), *self._closed)
            }
        return [found[key] for key in sorted(found, reverse=True) if end is None or key < end][:limit]


def _as_it_came(place: FactPlace) -> tuple[Any, ...]:
    return place


def _as_it_occurred(place: FactPlace) -> tuple[Any, ...]:
    return place.occurred_us, place.id


def _top(used: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    most = sorted(used.items(), key=lambda each: (-each[1], each[0]))
    return tuple(each for each in most[:TOP] if each[1] > 0)


def _first(newest: str, months: int) -> str:
    return later_period(newest, 1 - months)


def _newest(found: Mapping[Place, T], before: Place | None, limit: int) -> list[T]:
    return [found[place] for place in sorted(found, reverse=True) if before is None or place < before][:limit]
