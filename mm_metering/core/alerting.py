"""What is told of a tenant's usage, and when: pure, and the same notice wherever it is found.

A notice has its rule, tenant, window and threshold in its id, so that the ledger takes it once however often and by
however many it is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from mm_metering.core.catalogue import AlertRules, Limit
from mm_metering.core.collecting import Notice, NoticeType
from mm_metering.core.forecast import Forecast
from mm_metering.core.identity import derived_id
from mm_metering.core.money import from_nanos
from mm_metering.core.periods import Window, from_micros
from mm_metering.core.schema import money_text
from mm_metering.core.spikes import Spike

ALL: Final = 100
"""Per cent of a limit."""
RULES: Final[dict[str, str]] = {
    "quota.warning": "quota",
    "quota.exceeded": "quota",
    "overage.started": "overage",
    "budget.warning": "budget",
    "budget.exceeded": "budget",
    "budget.forecast": "forecast",
    "usage.spike": "spike",
    "model.unpriced": "unpriced",
    "alert.test": "alert.test",
    "worker.lag": "worker.lag",
    "journal.waiting": "journal.waiting",
    "counters.drift": "counters.drift",
}
"""By what rule each is told, and so by what name it is muted."""
HOUSE: Final = frozenset({"worker.lag", "journal.waiting", "counters.drift"})
"""Of no tenant: they go to no webhook."""


class Standing(NamedTuple):
    """A limit, and what is used of it in the open window [starts_us, ends_us): units or nano-units. ``scope`` is the
    part of AI cost that it limits, "" for all. A level's window has no end."""

    limit: Limit
    scope: str
    used: int
    starts_us: int
    ends_us: int | None


def crossed(tenant: str, standings: Iterable[Standing], rules: AlertRules, now: datetime) -> Iterator[Notice]:
    """One for each percentage of a limit that is reached, and for each quota past which units are charged."""
    for each in standings:
        most, rule = each.limit.maximum, "budget" if each.limit.unit == "money" else "quota"
        if most is None or each.used * ALL < most:
            continue
        for percent in getattr(rules, rule) if most else ():
            if each.used * ALL >= percent * most and rule not in rules.off and (each.limit.blocks or percent < ALL):
                type_: Any = f"{rule}.{'warning' if percent < ALL else 'exceeded'}"
                yield _of_limit(tenant, type_, each, now, percent)
        if not each.limit.blocks and each.used > most and "overage" not in rules.off:
            yield _of_limit(tenant, "overage.started", each, now, ALL)


def _of_limit(tenant: str, type_: NoticeType, each: Standing, now: datetime, percent: int) -> Notice:
    limit = each.limit
    data = {
        "meter": limit.meter,
        "scope": each.scope or None,
        "window": None if limit.window is Window.NONE else limit.window.value,
        "threshold": percent,
        "used": _amount(limit, each.used),
        "limit": _amount(limit, limit.maximum or 0),
        "resets_at": None if each.ends_us is None else _text(from_micros(each.ends_us)),
    }
    place = (limit.meter, each.scope, limit.window.value, each.starts_us)
    return Notice(derived_id("alert", tenant, type_, *place, percent), tenant, type_, _present(data), now)


def forecast_exceeds(tenant: str, seen: Forecast, month: str, now: datetime) -> Notice | None:
    """Once a month, where a budget is more likely passed than not; not on a guess."""
    if not seen.will_exceed_budget or seen.confidence == "low":
        return None
    data = {
        "period": month,
        "budget": _money(seen.budget),
        "spent": _money(seen.spent),
        "expected": _money(seen.p50),
        "low": _money(seen.p10),
        "high": _money(seen.p90),
        "probability": f"{seen.p_exceed:.2f}",
        "runs_out_on": seen.runs_out_on and seen.runs_out_on.isoformat(),
    }
    return Notice(derived_id("alert", tenant, "budget.forecast", month), tenant, "budget.forecast", _present(data), now)


def spiked(tenant: str, spike: Spike, hour: datetime, now: datetime) -> Notice:
    """Once an hour."""
    data = {"hour": _text(hour), "cost": _money(spike.amount), "usual": _money(spike.usual), "most": _money(spike.most)}
    return Notice(derived_id("alert", tenant, "usage.spike", _text(hour)), tenant, "usage.spike", _present(data), now)


def unpriced(tenant: str, model: str, missing: Sequence[str], day: str, now: datetime) -> Notice:
    """Once a day and model."""
    data = {"model": model, "missing": list(missing), "day": day}
    return Notice(derived_id("alert", tenant, "model.unpriced", model, day), tenant, "model.unpriced", data, now)


def of_house(type_: NoticeType, subject: str, since: datetime, data: dict[str, Any], now: datetime) -> Notice:
    """About the house itself, once for as long as it stays so: of no tenant."""
    return Notice(derived_id("alert", type_, subject, _text(since)), "", type_, {"subject": subject, **data}, now)


def sentence(notice: Notice) -> str:
    """For a log: "quota.warning tenant='acme' meter=reports threshold=80 used=40 limit=50"."""
    said = " ".join(f"{name}={value if isinstance(value, int) else repr(value)}" for name, value in notice.data.items())
    return f"{notice.type} {f'tenant={notice.tenant!r} ' if notice.tenant else ''}{said}"


def _present(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value is not None}


def _amount(limit: Limit, amount: int) -> int | str:
    return money_text(from_nanos(amount)) if limit.unit == "money" else amount


def _money(amount: Decimal | None) -> str | None:
    return None if amount is None else money_text(amount)


def _text(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
