"""All tenants, found and sorted; and one of them, with all that it may and did."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from mm_metering.backends.looks import TenantOrder
from mm_metering.core.catalogue import Plan
from mm_metering.core.lifecycles import SUBSCRIPTION
from mm_metering.core.periods import Window, from_micros
from mm_metering.core.tenancy import TenantRow, plan_name
from mm_metering.core.zones import zone_name
from mm_metering.dashboard.access import Role
from mm_metering.dashboard.charts import Chart
from mm_metering.dashboard.page import Done, Link, Page, Rows, Visit
from mm_metering.dashboard.render import link
from mm_metering.dashboard.standing import (
    AI_COST,
    Gauge,
    Usage,
    daily_chart,
    fullest,
    gauge_of,
    meters_of,
    month_chart,
    month_forecast,
    usage_of,
)
from mm_metering.errors import InvalidInput, UnknownTenant

SIZE: Final = 25
"""Tenants of one page: each is read with its limits."""
IN_FILE: Final = 1_000
SHOWN: Final = 3
"""Limits of a tenant that the list shows."""
EVENTS: Final = 20
ORDERS: Final = get_args(TenantOrder)
"""By id, by plan, by sign-up; the newest sign-ups first with "-since"."""


@dataclass(frozen=True, slots=True)
class Listed:
    row: TenantRow
    plan: str
    status: str
    zone: str
    gauges: Sequence[Gauge]


async def tenants(visit: Visit) -> Page:
    order, skip = visit.text("order", "id"), visit.number("skip", most=10_000)
    wanted: dict[str, Any] = {
        "text": visit.text("q"),
        "plan": visit.text("plan"),
        "status": visit.text("status"),
        "order": order if order in ORDERS else "id",
        "now_us": visit.now_us,
    }
    size = IN_FILE if "csv" in visit.query else SIZE
    rows, total = await visit.house.ledger.find_tenants(**wanted, skip=skip, limit=size)
    listed = await asyncio.gather(*(_listed(visit, row) for row in rows)) if size == SIZE else ()
    data = {
        "listed": listed,
        "total": total,
        "skip": skip,
        "size": SIZE,
        "plans": sorted(visit.house.catalogue.plans),
        "statuses": list(SUBSCRIPTION.moves),
    }
    files = {
        "tenants": Rows(("tenant", "plan", "status", "zone", "subscribed_at"), [_cells(visit, each) for each in rows])
    }
    return Page("tenants.html", "Tenants", data, files=files)


async def _listed(visit: Visit, row: TenantRow) -> Listed:
    segment = row.segment_at(visit.now_us)
    _, stood = await visit.house.gate.standings(row.id)
    gauges = fullest(map(gauge_of, stood))[:SHOWN]
    return Listed(row, plan_name(segment.plan), segment.status, zone_name(row.timezone), gauges)


def _cells(visit: Visit, row: TenantRow) -> tuple[object, ...]:
    segment = row.segment_at(visit.now_us)
    return row.id, plan_name(segment.plan), segment.status, zone_name(row.timezone), from_micros(row.subscribed_us)


# -- one of them ------------------------------------------------------------------------------------------------------


async def row_of(visit: Visit, tenant: str) -> TenantRow:
    """UnknownTenant."""
    row = await visit.house.ledger.tenant(tenant) if tenant else None
    if row is None:
        raise UnknownTenant(f"tenant {tenant[:60]!r} is not known here")
    return row


async def plan_of(visit: Visit, row: TenantRow) -> Plan | None:
    segment = row.segment_at(visit.now_us)
    return await visit.house.plans.get(segment.plan, segment.version)


@dataclass(frozen=True, slots=True)
class Charts:
    """Of the ``chosen`` one of the ``meters`` that have any: a forecast takes milliseconds for each."""

    meters: Sequence[str]
    chosen: str
    charts: Mapping[str, Chart]


def charts_of(visit: Visit, usage: Usage) -> Charts:
    """A chart of days, and one of the month where that has a limit. The meter is that of the query, or of the file that
    is asked for, else the first."""
    windows = {
        meter: window
        for meter, window in meters_of(visit.house, usage.plan, usage.days).items()
        if window is not Window.NONE
    }
    asked = visit.text("meter") or visit.text("csv").rpartition("-")[0]
    chosen = asked if asked in windows else next(iter(windows), "")
    charts = {f"{chosen}-days": daily_chart(usage, chosen)} if chosen else {}
    if windows.get(chosen) is Window.MONTH:
        charts[f"{chosen}-month"] = month_chart(usage, chosen, month_forecast(usage, chosen))
    return Charts(list(windows), chosen, charts)


async def tenant(visit: Visit) -> Page:
    row = await row_of(visit, visit.text("id"))
    segment, plan = row.segment_at(visit.now_us), await plan_of(visit, row)
    ledger = visit.house.ledger
    (_, stood), usage, facts, notices, entries, payer = await asyncio.gather(
        visit.house.gate.standings(row.id),
        usage_of(visit.house, row, plan, visit.now),
        ledger.latest_facts(tenant=row.id, limit=EVENTS),
        ledger.notices_page(tenant=row.id, limit=EVENTS),
        ledger.audit_page(tenant=row.id, limit=EVENTS),
        ledger.payer(row.id),
    )
    shown = charts_of(visit, usage)
    data = {
        "row": row,
        "plan": plan_name(segment.plan),
        "version": segment.version,
        "own": "~" in segment.plan,
        "status": segment.status,
        "zone": zone_name(row.timezone),
        "subscribed": from_micros(row.subscribed_us),
        "later": [(from_micros(each.starts_us), each) for each in row.segments if each.starts_us > visit.now_us],
        "gauges": sorted(map(gauge_of, stood), key=lambda each: (each.limit is None, each.meter, each.scope)),
        "meters": shown.meters,
        "chosen": shown.chosen,
        "facts": facts.facts,
        "notices": notices,
        "entries": entries,
        "payer": payer,
        "plans": sorted(visit.house.catalogue.plans),
        "moves": SUBSCRIPTION.moves[segment.status],
        "can_adjust": hasattr(visit.house, "adjust_usage"),
        "ai": AI_COST in visit.house.catalogue.meters,
    }
    return Page("tenant.html", row.id, data, shown.charts)


async def change_plan(visit: Visit) -> Done:
    tenant, plan = visit.needs("tenant"), visit.needs("plan")
    await visit.house.change_plan(tenant, plan)
    return Done(f"{tenant} is on {plan}, or will be at its month's end if that is less.", link("tenant", id=tenant))


async def step(visit: Visit) -> Done:
    """Pauses, resumes or cancels."""
    tenant, what = visit.needs("tenant"), visit.needs("step")
    ways = {
        "pause": visit.house.pause_subscription,
        "resume": visit.house.resume_subscription,
        "cancel": visit.house.cancel_subscription,
    }
    if what not in ways:
        raise InvalidInput("step", f"{what[:20]!r} is none of {', '.join(ways)}")
    after = await ways[what](tenant)
    return Done(f"{tenant} is {after.status}.", link("tenant", id=tenant))


async def adjust(visit: Visit) -> Done:
    tenant, meter, quantity = visit.needs("tenant"), visit.needs("meter"), visit.needs("quantity")
    try:
        units = int(quantity)
    except ValueError:
        raise InvalidInput("quantity", f"{quantity[:20]!r} is no whole number, such as -50") from None
    await visit.house.adjust_usage(tenant, meter, units, reason=visit.needs("reason"))
    return Done(f"{meter} of {tenant} is corrected by {units:,}.", link("tenant", id=tenant))


LINK = Link(
    "tenants",
    "Tenants",
    tenants,
    also={"tenant": tenant},
    actions={
        "change-plan": (Role.OPERATOR, change_plan),
        "step": (Role.OPERATOR, step),
        "adjust": (Role.OPERATOR, adjust),
    },
)
