"""A tenant's own first page: its limits, what it used, and what the month comes to so far."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from mm_metering.core.periods import month_first
from mm_metering.core.tenancy import TenantRow, plan_name
from mm_metering.core.zones import zone_name
from mm_metering.dashboard.page import Link, Page, Rows, Visit
from mm_metering.dashboard.pages.tenants import charts_of, plan_of, row_of
from mm_metering.dashboard.standing import Gauge, Usage, gauge_of, usage_of


async def own(visit: Visit) -> Page:
    row = await row_of(visit, visit.tenant)
    plan = await plan_of(visit, row)
    (_, stood), usage = await asyncio.gather(
        visit.house.gate.standings(row.id), usage_of(visit.house, row, plan, visit.now)
    )
    of_meter, segment = charts_of(visit, usage), row.segment_at(visit.now_us)
    gauges = sorted(map(gauge_of, stood), key=lambda each: (each.limit is None, each.meter, each.scope))
    shown = [each for each in gauges if not each.scope]
    data = {
        "plan": plan_name(segment.plan),
        "status": segment.status,
        "zone": zone_name(row.timezone),
        "gauges": shown,
        "meters": of_meter.meters,
        "chosen": of_meter.chosen,
    }
    value = _value(visit, row, shown, usage)
    return Page("own.html", "Usage", data, of_meter.charts, {"days": _days(usage)}, value)


def _days(usage: Usage) -> Rows:
    meters = list(usage.days.meters)
    return Rows(("day", *meters), [(day.date, *(day.meters[name] for name in meters)) for day in usage.days.days])


def _value(visit: Visit, row: TenantRow, gauges: Sequence[Gauge], usage: Usage) -> Mapping[str, object]:
    segment, first = row.segment_at(visit.now_us), month_first(usage.today, row.anchor_day)
    return {
        "tenant": row.id,
        "plan": plan_name(segment.plan),
        "status": segment.status,
        "timezone": zone_name(row.timezone),
        "as_of": visit.now.isoformat(),
        "limits": [_limit(each) for each in gauges],
        "days": [
            {"date": day.date, "meters": day.meters, "refused": day.refused}
            for day in usage.days.days
            if day.date >= first
        ],
    }


def _limit(each: Gauge) -> Mapping[str, object]:
    return {
        "meter": each.meter,
        "window": each.window or None,
        "limit": each.limit,
        "used": each.used,
        "held": each.held,
        "unit": each.unit or None,
        "then": "block" if each.blocks else "charge",
        "charged": each.charged,
        "cap": each.cap,
        "resets_at": None if each.resets_at is None else each.resets_at.isoformat(),
    }


LINK = Link("", "Usage", own, also={"usage": own})
