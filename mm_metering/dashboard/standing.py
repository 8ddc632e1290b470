"""Where a tenant stands: each limit as a bar, each meter as a chart with what its month will come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from mm_metering.analytics import Analytics
from mm_metering.core.catalogue import Limit, Plan
from mm_metering.core.forecast import DayTotal, Forecast, forecast, share_gone
from mm_metering.core.money import from_nanos
from mm_metering.core.periods import Window, days_between, from_micros, local_day, month_first, window_span, zone
from mm_metering.core.tenancy import TenantRow, plan_name
from mm_metering.core.usage import UsageRange
from mm_metering.core.zones import zone_name
from mm_metering.dashboard.charts import Chart, Mark, Number, Series
from mm_metering.gate.loading import Stood

if TYPE_CHECKING:
    from mm_metering.metering import Metering

DAYS: Final = 30
"""How many days a daily chart shows."""
HISTORY: Final = 92
"""From how many days a forecast is made."""
WARN: Final = 80
"""Per cent of a limit from which on its bar warns."""
FULL: Final = 100
ROUND: Final = 2
AI_COST: Final = "ai_cost"
USD: Final = "USD"


@dataclass(frozen=True, slots=True)
class Gauge:
    """A limit as a bar of 100 units' width: ``used`` up to the limit, ``over`` past it where that is charged, ``held``
    by calls that still run. Money is in USD."""

    meter: str
    scope: str
    window: str
    used: Number
    held: Number
    limit: Number
    unit: str
    percent: int | None
    resets_at: datetime | None
    blocks: bool
    charged: Decimal | None
    cap: Decimal | None
    used_width: float
    over_width: float
    held_width: float
    limit_at: float | None
    tone: str

    @property
    def text(self) -> str:
        """For who does not see the bar."""
        most = "unlimited" if self.limit is None else f"{self.limit:,}"
        share = "" if self.percent is None else f", {self.percent} %"
        return f"{self.meter}: {self.used:,} of {most} {self.unit}{share}"


def gauge_of(stood: Stood) -> Gauge:
    limit, slot = stood.gauge.limit, stood.gauge.slot
    most = limit.maximum
    whole = max(most or 0, stood.used + stood.held) or 1
    within = min(stood.used, most) if most is not None else stood.used
    over = stood.used - within
    percent = None if not most else stood.used * 100 // most
    return Gauge(
        meter=limit.meter,
        scope=stood.gauge.scope,
        window="" if limit.is_level else limit.window.value,
        used=_amount(limit, stood.used),
        held=_amount(limit, stood.held),
        limit=None if most is None else _amount(limit, most),
        unit=USD if limit.unit == "money" else "",
        percent=percent,
        resets_at=stood.gauge.ends_at,
        blocks=limit.blocks,
        charged=from_nanos(stood.charged) if slot.price and limit.cap is not None else None,
        cap=limit.cap,
        used_width=0 if most is None else _width(within, whole),
        over_width=0 if most is None else _width(over, whole),
        held_width=0 if most is None else _width(stood.held, whole),
        limit_at=None if not most else _width(most, whole),
        tone=_tone(limit, percent),
    )


def _width(part: int, whole: int) -> float:
    return round(part * 100 / whole, ROUND)


def _amount(limit: Limit, amount: int) -> int | Decimal:
    return from_nanos(amount) if limit.unit == "money" else amount


def _tone(limit: Limit, percent: int | None) -> str:
    if limit.not_in_plan or percent is None or percent < WARN:
        return ""
    return "bad" if percent >= FULL and limit.blocks else "warn"


def fullest(gauges: Iterable[Gauge]) -> list[Gauge]:
    """Those that are limited, the fullest first."""
    known = [each for each in gauges if each.percent is not None]
    return sorted(known, key=lambda each: -(each.percent or 0))


# -- a tenant's meters over time --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """A tenant's days as the ledger has them, and the plan in force."""

    row: TenantRow
    plan: Plan | None
    now: datetime
    days: UsageRange

    @property
    def zone(self) -> str:
        return zone_name(self.row.timezone)

    @property
    def today(self) -> date:
        return local_day(self.now, zone(self.row.timezone))


async def usage_of(house: Metering, row: TenantRow, plan: Plan | None, now: datetime) -> Usage:
    today = local_day(now, zone(row.timezone))
    analytics = Analytics(house.ledger, catalogue=house.catalogue, clock=house.clock)
    return Usage(row, plan, now, await analytics.usage(row.id, today - timedelta(HISTORY), today))


def daily_chart(usage: Usage, meter: str) -> Chart:
    """Bars of the last days, and the day's limit where there is one."""
    shown = usage.days.days[-DAYS:]
    values = [day.meters[meter] for day in shown]
    series = [Series("used", values)]
    if any(day.refused.get(meter) for day in shown):
        series.append(Series("refused", [day.refused.get(meter, 0) for day in shown], "line"))
    if (most := _limit(usage, meter, Window.DAY)) is not None:
        series.append(Series("limit", [most] * len(shown), "limit"))
    days = [day.date for day in shown]
    note = usage.zone if most is None else f"{usage.zone}; at most {most:,} a day"
    return Chart(_title(meter, "by day"), days, series, _unit(meter), [*_marks(usage, days)], note)


def month_chart(usage: Usage, meter: str, seen: Forecast | None = None) -> Chart:
    """What the running month adds up to, its limit, and where it is likely to end."""
    first = month_first(usage.today, usage.row.anchor_day)
    end = month_end(usage)
    days = [*days_between(first, end - timedelta(1))]
    by_day = {day.date: day.meters[meter] for day in usage.days.days}
    total: int | Decimal = 0
    so_far: list[Number] = []
    for day in days:
        total += by_day.get(day, 0)
        so_far.append(total if day <= usage.today else None)
    series = [Series("so far", so_far, "line")]
    if (most := _limit(usage, meter, Window.MONTH)) is not None:
        series.append(Series("limit", [most] * len(days), "limit"))
    note = usage.zone
    if seen is not None and seen.p50 is not None:
        series += _fan(days, usage.today, seen)
        note = words_of(seen)
    return Chart(_title(meter, "this month"), days, series, _unit(meter), [*_marks(usage, days)], note)


def month_forecast(usage: Usage, meter: str) -> Forecast:
    """Of a counter's running month against its limit; units as Decimals."""
    most = _limit(usage, meter, Window.MONTH)
    return forecast_of(usage, past_by_day(usage, meter), budget=None if not most else Decimal(most))


def past_by_day(usage: Usage, meter: str, *, allowed: int = 0) -> list[DayTotal]:
    """A counter's units by day, since the sign-up; past what is ``allowed`` a day, if anything is."""
    start = local_day(from_micros(usage.row.subscribed_us), zone(usage.row.timezone))
    known = [each for each in usage.days.days if start <= each.date <= usage.today]
    units = (each.meters[meter] for each in known)
    past = (max(0, each - allowed) if allowed else each for each in units)
    return [DayTotal(each.date, Decimal(amount)) for each, amount in zip(known, past, strict=True)]


def forecast_of(usage: Usage, days: Sequence[DayTotal], *, budget: Decimal | None = None) -> Forecast:
    """What the running month comes to."""
    return forecast(
        [each for each in days if each.day < usage.today],
        today=usage.today,
        spent_today=next((each.amount for each in days if each.day == usage.today), Decimal(0)),
        period_start=month_first(usage.today, usage.row.anchor_day),
        period_end=month_end(usage),
        today_gone=share_gone(usage.now, zone(usage.row.timezone)),
        budget=budget,
    )


def words_of(seen: Forecast) -> str:
    """ "likely 812 (640 to 990) at the month's end; runs out on 2024-01-25"."""
    if seen.p50 is None or seen.p10 is None or seen.p90 is None:
        return seen.reason
    likely = f"likely {_rounded(seen.p50)} ({_rounded(seen.p10)} to {_rounded(seen.p90)}) at the month's end"
    return likely if seen.runs_out_on is None else f"{likely}; runs out on {seen.runs_out_on}"


def _rounded(value: Decimal) -> str:
    return f"{value:,.2f}".removesuffix(".00")


def _fan(days: Sequence[date], today: date, seen: Forecast) -> Iterator[Series]:
    """From what there is today to where the month is likely to end."""
    ahead = max((days[-1] - today).days, 1)
    for name, kind, end in (("low", "low", seen.p10), ("likely", "likely", seen.p50), ("high", "high", seen.p90)):
        if end is not None:
            step = (end - seen.spent) / ahead
            values = [None if day < today else _short(seen.spent + step * (day - today).days) for day in days]
            yield Series(name, values, kind)  # type: ignore[arg-type]


def _short(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.01"))


def month_end(usage: Usage) -> date:
    tz = zone(usage.row.timezone)
    return local_day(window_span(Window.MONTH, usage.now, tz, usage.row.anchor_day).end, tz)


def _limit(usage: Usage, meter: str, window: Window) -> int | Decimal | None:
    limits = usage.plan.limits.get(meter, ()) if usage.plan else ()
    found = next((each for each in limits if each.window is window and each.maximum is not None), None)
    return None if found is None else _amount(found, found.maximum or 0)


def _marks(usage: Usage, days: Sequence[date]) -> Iterator[Mark]:
    """Changes of the plan, and of the subscription's state."""
    tz = zone(usage.row.timezone)
    for segment in usage.row.segments:
        day = local_day(from_micros(segment.starts_us), tz)
        if days and days[0] <= day <= days[-1]:
            state = "" if segment.status == "active" else f", {segment.status}"
            yield Mark(day, f"{plan_name(segment.plan) or 'no plan'}{state}")


def _title(meter: str, what: str) -> str:
    return f"{meter.replace('_', ' ')} {what}"


def _unit(meter: str) -> str:
    return USD if meter == AI_COST else ""


def meters_of(house: Metering, plan: Plan | None, days: UsageRange) -> Mapping[str, Window | None]:
    """What is worth a chart: limited meters and those that were used, with the widest window of their limits."""
    limits = plan.limits if plan else {}
    found: dict[str, Window | None] = {}
    for name in house.catalogue.meters:
        if name in limits or any(day.meters[name] for day in days.days[-DAYS:]):
            windows = [each.window for each in limits.get(name, ()) if not each.is_rate]
            found[name] = windows[-1] if windows else None
    return found
