"""Random timelines, billed as by hand: what each hour was is written into a list, change by change.

The list knows no segments, no cells and no shares of seconds: an hour has a plan and a state, fees change where the
fee of an hour differs from the one before, and units are counted one by one.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import pytest

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import Calendar, Cell, CellKey, CellSum, add
from mm_metering.core.facts import Count, Fact
from mm_metering.core.invoicing import draft
from mm_metering.core.periods import micros
from mm_metering.core.rating import Terms
from mm_metering.core.tenancy import NewTenant, TenantDefaults, TenantRow, changed_tenant, with_change
from mm_metering.core.timeline import Change, PlanChange, StateChange
from mm_metering.errors import WrongState

TIMELINES: Final = int(os.environ.get("MM_TIMELINES", "1000"))
CHUNKS: Final = 4
HOURS: Final = 24 * 91
"""January to March 2024."""
START: Final = datetime(2024, 1, 1, tzinfo=UTC)
PERIODS: Final = ("2024-01", "2024-02")
ZONES: Final = {"UTC": 0, "Etc/GMT+5": -5, "Etc/GMT-9": 9}
PAYS: Final = {"active", "past_due"}

ALLOWS: Final = {
    "trial": {"pause", "resume", "cancel", "plan"},
    "active": {"pause", "resume", "cancel", "plan", "fail payment", "suspend", "pay"},
    "past_due": {"resume", "cancel", "plan", "fail payment", "suspend", "pay"},
    "unpaid": {"resume", "cancel", "plan", "fail payment", "suspend", "pay"},
    "paused": {"pause", "resume", "cancel", "plan"},
    "canceled": {"cancel", "plan"},
}


def plans(rng: random.Random) -> dict[str, Any]:
    def limit(per: str) -> dict[str, Any]:
        found: dict[str, Any] = {"limit": rng.choice([0, 1, 3, 8]), "per": per}
        return found | (
            {"then": "charge", "unit_price": rng.choice(["0.01", "0.335", "2.00"])} if rng.random() < 0.7 else {}
        )

    return {
        f"p{number}": {
            "price": rng.choice(["0.00", "31.00", "99.00", "499.99"]),
            "quotas": {"calls": limit("day"), "reports": limit("month")},
        }
        for number in range(3)
    }


@dataclass
class Hours:
    """What each hour was, as the changes left it."""

    signed_up: int
    trial_until: int
    plan: list[str] = field(default_factory=list)
    status: list[str] = field(default_factory=list)

    def settle(self) -> None:
        for hour, status in enumerate(self.status):
            if status in ("trial", "active"):
                self.status[hour] = "trial" if hour < self.trial_until else "active"

    def apply(self, hour: int, event: str) -> bool:
        """Whether the state of that hour allows it."""
        plan, name = (event, "plan") if event.startswith("p") and event[1:].isdigit() else ("", event)
        now = self.status[hour]
        if name not in ALLOWS[now]:
            return False
        for later in range(hour, HOURS):
            status = self.status[later]
            if plan:
                self.plan[later] = plan
            if name == "plan" and now == status == "canceled":
                self.status[later] = "active"
            elif name == "pause" and status != "canceled":
                self.status[later] = "paused" if "pause" in ALLOWS[status] else status
            elif name == "resume" and status in ("paused", "canceled"):
                self.status[later] = "active" if now in ("paused", "trial") else now
            elif name == "cancel":
                self.status[later] = "canceled"
            elif name == "fail payment" and status in ("active", "unpaid"):
                self.status[later] = "past_due"
            elif name == "suspend" and status in PAYS:
                self.status[later] = "unpaid"
            elif name == "pay" and status in ("past_due", "unpaid"):
                self.status[later] = "active"
        self.settle()
        return True


@dataclass
class Case:
    """A random tenant, its changes and its use; ``hours`` by hand, ``row`` by the product."""

    rng: random.Random

    def __post_init__(self) -> None:
        rng = self.rng
        self.plans = plans(rng)
        self.cents = {name: int(100 * Decimal(plan["price"])) for name, plan in self.plans.items()}
        self.zone, self.by_day = rng.choice([*ZONES]), rng.random() < 0.25
        self.anchor = rng.choice([1, 1, 1, 15, 31])
        signed_up, trial = rng.randrange(0, 24 * 20), rng.choice([0, 0, 0, 1, 10, 40])
        self.hours = Hours(signed_up, signed_up + 24 * trial, ["p0"] * HOURS, ["active"] * HOURS)
        self.hours.settle()
        new = NewTenant(
            *("t", "p0", 1, self.zone, micros(START + timedelta(hours=signed_up))),
            trial_us=trial * 86_400_000_000,
            anchor_day=self.anchor,
        )
        self.row: TenantRow = changed_tenant(None, new, TenantDefaults("", 0, "UTC"), 0)
        self.changes: list[tuple[int, str]] = []
        for _ in range(rng.randrange(1, 7)):
            self._change()
        self.uses = sorted(
            (rng.randrange(signed_up, HOURS), rng.choice(("calls", "reports")), rng.randrange(1, 9))
            for _ in range(rng.randrange(0, 25))
        )

    def _change(self) -> None:
        rng = self.rng
        near = [hour for hour, _ in self.changes] or [self.hours.trial_until % HOURS]
        hour = rng.choice([rng.randrange(HOURS), rng.choice(near), 24 * rng.randrange(91), rng.choice(near) + 1])
        hour = min(HOURS - 1, max(hour, self.hours.signed_up))
        event = rng.choice(["p0", "p1", "p2", "pause", "resume", "cancel", "resume", "fail payment", "suspend", "pay"])
        self.changes.append((hour, event))
        at_us = micros(START + timedelta(hours=hour))
        is_plan = event in self.plans
        change: Change = PlanChange(at_us, event, 1) if is_plan else StateChange(at_us, event)
        allowed = self.hours.apply(hour, event)
        try:
            self.row = with_change(self.row, change)
        except WrongState:
            assert not allowed, self.changes
        else:
            assert allowed, self.changes

    # -- by hand --------------------------------------------------------------------------------------------------

    def day(self, hour: int) -> int:
        """The local day of an hour, counted from the one that began 2024."""
        return (hour + ZONES[self.zone]) // 24

    def span(self, period: str) -> range:
        """The hours of a month; its first may lie before the first hour of the list."""
        month = int(period[5:])
        starts = [date(2024, each, min(self.anchor, [31, 29, 31][each - 1])) for each in (month, month + 1)]
        first, end = (24 * (each - START.date()).days - ZONES[self.zone] for each in starts)
        return range(first, end)

    def fee(self, hour: int) -> int:
        """In cents. By the day, the last hour of a day decides."""
        if self.by_day:
            hour = 24 * self.day(hour) + 23 - ZONES[self.zone]
        hour = min(max(hour, 0), HOURS - 1)
        return self.cents[self.hours.plan[hour]] if self.hours.status[hour] in PAYS else 0

    def fees(self, period: str) -> int:
        """In cents."""
        span, begin = self.span(period), self.hours.signed_up
        if self.by_day:
            begin = 24 * self.day(begin) - ZONES[self.zone]
        total, before = 0, None
        for hour in range(max(span.start, begin), span.stop):
            fee = self.fee(hour)
            if fee != before:
                left = Fraction(span.stop - hour, len(span))
                total += half_up(fee * left) - half_up((before or 0) * left)
                before = fee
        return total

    def overage(self, period: str) -> int:
        """In cents."""
        span, counted, billed = self.span(period), Counter[object](), Counter[tuple[str, str]]()
        for hour, meter, units in self.uses:
            if hour in span:
                limit = self.plans[self.hours.plan[hour]]["quotas"][meter]
                window = (meter, self.day(hour) if limit["per"] == "day" else "month")
                for _ in range(units):
                    counted[meter, self.day(hour)] += 1
                    counted[meter, "month"] += 1
                    charges = "then" in limit and self.hours.status[hour] != "trial"
                    if counted[window] > limit["limit"] and charges:
                        billed[meter, limit["unit_price"]] += 1
        return sum(half_up(100 * units * Fraction(price)) for (_, price), units in billed.items())

    # -- by the product -----------------------------------------------------------------------------------------------

    def lines(self, period: str) -> Iterator[tuple[str, Decimal]]:
        calendar, cells = Calendar(self.row.timezone, self.row.segments), dict[CellKey, CellSum]()
        for number, (hour, meter, units) in enumerate(self.uses):
            at_us = micros(START + timedelta(hours=hour))
            add(cells, Fact(str(number), at_us, "use", "t", "", "", units, None, (Count(meter, "", units),)), calendar)
        meters = {"calls": {"event": "call"}, "reports": {"event": "report"}}
        catalogue = Catalogue.from_dict({"meters": meters, "plans": self.plans})
        known = {(name, 1): plan for name, plan in catalogue.plans.items()}
        terms = Terms(self.row, known, "day" if self.by_day else "second")
        cells_of = [Cell(key, total, 0) for key, total in cells.items()]
        for line in draft(terms, period, cells_of, currency="USD").lines:
            yield line.kind, line.amount


def half_up(cents: Fraction) -> int:
    """Away from zero."""
    whole = int(abs(cents) + Fraction(1, 2))
    return whole if cents >= 0 else -whole


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_timelines_are_billed_as_by_hand(chunk: int) -> None:
    for seed in range(chunk, TIMELINES, CHUNKS):
        case = Case(random.Random(seed))
        for period in PERIODS:
            lines = [*case.lines(period)]
            fees = sum(int(100 * amount) for kind, amount in lines if kind in ("base", "proration"))
            overage = sum(int(100 * amount) for kind, amount in lines if kind == "overage")
            told = (seed, period, case.zone, case.anchor, case.by_day, case.hours.signed_up, case.changes, lines)
            assert fees == case.fees(period), told
            assert overage == case.overage(period), told
