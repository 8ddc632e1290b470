"""What pages show is what the library says, unit by unit."""

from __future__ import annotations

import csv
import io
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from urllib.parse import urlencode

import httpx2
import pytest

from mm_metering.core.usage import UsageRange
from mm_metering.testing.lodgers import HOSTILE, LODGERS
from tests.pages.house import House

LAST = date(2024, 3, 12)
FIRST = LAST - timedelta(days=29)


def rows(house: House, page: str) -> list[list[str]]:
    answer = httpx2.get(f"{house.url}/metering/{page}")
    assert answer.status_code == 200
    return [*csv.reader(io.StringIO(answer.text))][1:]


def usage(house: House, tenant: str) -> UsageRange:
    return house.run(house.metering.get_usage(tenant, FIRST, LAST))


@pytest.mark.parametrize("tenant", ["acme", "dune-logistics", "a/b?c#d:{}&e=%2F.."])
def test_a_tenants_chart_has_its_days(house: House, tenant: str) -> None:
    shown = rows(house, f"tenant?{urlencode({'id': tenant, 'csv': 'api_calls-days'})}")
    days = {day.date.isoformat(): day.meters["api_calls"] for day in usage(house, tenant).days}
    known = {day: int(used) for day, used, *_ in shown if day in days}
    assert len(known) >= 29
    assert known == {day: days[day] for day in known}
    assert sum(known.values()) > 0


def test_the_house_is_the_sum_of_its_tenants(house: House) -> None:
    calls, costs = Counter[str](), dict[str, Decimal]()
    tenants = [each[0].removeprefix("'") for each in rows(house, "tenants?csv=tenants")]
    assert len(tenants) == len(LODGERS) + len(HOSTILE)
    for each in (each for tenant in tenants for each in usage(house, tenant).days):
        day = each.date.isoformat()
        calls[day] += int(each.meters["api_calls"])
        costs[day] = costs.get(day, Decimal(0)) + each.meters["ai_cost"]
    for day, used, _ in rows(house, "?csv=requests")[:-1]:  # the last day runs on
        assert int(used) == calls[day], day
    for day, cost in rows(house, "?csv=ai")[:-1]:
        assert Decimal(cost) == costs[day], day


def test_invoices_are_the_librarys(house: House) -> None:
    header, *listed = csv.reader(io.StringIO(httpx2.get(f"{house.url}/metering/invoices?csv=invoices").text))
    shown = {(row[header.index("number")], Decimal(row[header.index("total")])) for row in listed}
    assert shown == {(each.number or "", each.total) for each in house.run(house.metering.list_invoices())}
    assert len(shown) > 20
