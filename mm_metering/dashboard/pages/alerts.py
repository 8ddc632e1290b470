"""Alerts: what is wrong now, what was told, by which rules, and what is not to be told for a while."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from mm_metering.core.alerting import RULES
from mm_metering.core.periods import from_micros
from mm_metering.dashboard.access import Role
from mm_metering.dashboard.page import Done, Link, Page, Rows, Visit, place_text
from mm_metering.errors import InvalidInput

SIZE: Final = 50
IN_FILE: Final = 500
EVERYBODY: Final = "*"
MAX_HOURS: Final = 24 * 366


async def alerts(visit: Visit) -> Page:
    ledger, place = visit.house.ledger, visit.place()
    rule, tenant = visit.text("rule"), visit.text("tenant") or None
    types = [each for each, name in RULES.items() if rule in ("", name)]
    size = IN_FILE if "csv" in visit.query else SIZE
    history, notices, mutes = await asyncio.gather(
        ledger.alert_history(limit=SIZE),
        ledger.notices_page(tenant=tenant, types=types, before=place, limit=size + 1),
        visit.house.list_mutes(),
    )
    told = notices[:size]
    data = {
        "open": [each for each in history if each.closed_us is None],
        "closed": [each for each in history if each.closed_us is not None],
        "told": told,
        "mutes": [(each, from_micros(each.until_us)) for each in mutes],
        "rules": sorted(set(RULES.values())),
        "percents": visit.house.catalogue.alerts,
        "older": place_text(told[-1].made_at, told[-1].id) if len(notices) > size else "",
    }
    header = ("at", "tenant", "type", "data")
    rows = [(each.made_at, each.tenant, each.type, dict(each.data)) for each in told]
    return Page("alerts.html", "Alerts", data, files={"alerts": Rows(header, rows)})


async def mute(visit: Visit) -> Done:
    rule, tenant = visit.needs("rule"), visit.given("tenant") or EVERYBODY
    hours = visit.needs("hours")
    if not (hours.isascii() and hours.isdigit() and int(hours[:6]) <= MAX_HOURS):
        raise InvalidInput("hours", f"{hours[:20]!r} is no whole number from 0 to {MAX_HOURS:,}")
    until = visit.now + timedelta(hours=int(hours))
    await visit.house.mute_alerts(rule, tenant=tenant, until=until)
    whose = "all tenants" if tenant == EVERYBODY else tenant
    return Done(f"Nothing is told by {rule} of {whose} until {until:%Y-%m-%d %H:%M} UTC.", "alerts")


async def test(visit: Visit) -> Done:
    notice = await visit.house.test_alert(visit.needs("tenant"))
    return Done(f"A test alert of {notice.tenant} was told: see the log, hooks and webhooks.", "alerts")


LINK = Link(
    "alerts",
    "Alerts",
    alerts,
    actions={"mute": (Role.OPERATOR, mute), "test-alert": (Role.OPERATOR, test)},
)
