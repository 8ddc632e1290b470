"""A tenant's counters as they follow from the ledger: pure, and the same that live counting comes to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Final, NamedTuple

from mm_metering.backends.counters import OpenHold
from mm_metering.backends.ledger import Snapshot, UsageRow
from mm_metering.core.cells import LEVEL_KINDS, NO_LEVEL
from mm_metering.core.events import MAX_AHEAD_S
from mm_metering.core.facts import Fact
from mm_metering.core.limits import Slot, over_cost
from mm_metering.core.periods import from_micros, local_day
from mm_metering.core.rating import Terms, Use, cap_used
from mm_metering.gate.tenants import View
from mm_metering.gate.windows import Gauge, level_field, stamp_field

HOLD_US: Final = 600_000_000
"""A hold is overdue ten minutes after it was taken, unless it is renewed."""


OPEN_DAYS: Final = 33
SHOWN_DAYS: Final = OPEN_DAYS + 2
"""A day in UTC before the first that a window may hold, whatever the zone."""


def first_day(now_us: int) -> date:
    """The earliest local day, in any zone, that a window open now can hold."""
    return (from_micros(now_us) - timedelta(days=OPEN_DAYS)).date()


def shows(fact: Fact, now_us: int) -> bool:
    """Whether counters that are loaded now may show the fact: a level stands for ever, and all else is over when its
    windows are."""
    return fact.kind in LEVEL_KINDS or fact.occurred_us >= now_us - SHOWN_DAYS * 86_400_000_000


def counters(view: View, snapshot: Snapshot, terms: Terms, now_us: int) -> dict[str, int]:
    """Every field of the tenant's hash: sums, holds' twins, caps and levels, for the windows that are open now."""
    values: dict[str, int] = {}
    for meter in view.windows.limited_meters:
        rows = [row for row in snapshot.usage if row.meter == meter and not row.scope]
        for gauge in _open_gauges(view, meter, now_us):
            if gauge.limit.is_level:
                values |= _levels(meter, gauge, snapshot)
            else:
                used = _used(view, gauge, rows)
                if used or gauge.starts_us <= now_us:
                    values[gauge.slot.field] = used
                if gauge.slot.price:
                    values[gauge.slot.cap_field] = _capped(view, gauge, rows, terms)
    values |= _scoped(view, snapshot, now_us)
    _add_held(values, view, snapshot, now_us)
    return values


class Stood(NamedTuple):
    """A limit in the window that is open now: what is used of it, what calls that still run hold, and of a cap the
    nano-units that are charged in the month."""

    gauge: Gauge
    used: int
    held: int
    charged: int


def standings(view: View, snapshot: Snapshot, terms: Terms, now_us: int) -> list[Stood]:
    """Each limit; without rates."""
    values = counters(view, snapshot, terms, now_us)
    meters = ((meter, "") for meter in view.windows.limited_meters)
    gauges = (
        gauge
        for meter, scope in (*meters, *_by_scope(snapshot))
        for gauge in view.windows.gauges(meter, now_us, scope)
        if not gauge.slot.rate_s
    )
    return [_stood(gauge, values) for gauge in gauges]


def _stood(gauge: Gauge, values: Mapping[str, int]) -> Stood:
    fields = (gauge.slot.field, held_field(gauge.slot), gauge.slot.cap_field)
    return Stood(gauge, *(values.get(name, 0) for name in fields))


def _by_scope(snapshot: Snapshot) -> Mapping[tuple[str, str], list[UsageRow]]:
    found = defaultdict[tuple[str, str], list[UsageRow]](list)
    for row in snapshot.usage:
        if row.scope:
            found[row.meter, row.scope].append(row)
    return found


def _scoped(view: View, snapshot: Snapshot, now_us: int) -> Mapping[str, int]:
    """What AI cost came to in scopes that have a budget, and in runs, which may be given one with any call."""
    found = {
        gauge.slot.field: _used(view, gauge, rows)
        for (meter, scope), rows in _by_scope(snapshot).items()
        for gauge in _open_gauges(view, meter, now_us, scope)
    }
    return {field: used for field, used in found.items() if used}


def holds(view: View, snapshot: Snapshot, now_us: int) -> Mapping[str, OpenHold]:
    """The open holds with what each holds in the windows that are open now. They last ten minutes from their start."""
    return {
        hold.id: OpenHold(
            hold.occurred_us + HOLD_US, tuple((slot.field, amount) for slot, amount in _held(view, hold, now_us))
        )
        for hold in snapshot.holds
    }


def _open_gauges(view: View, meter: str, now_us: int, scope: str = "") -> Iterable[Gauge]:
    """The windows that hold now, and those that begin within the time an event may lie ahead."""
    now = view.windows.gauges(meter, now_us, scope)
    soon = view.windows.gauges(meter, now_us + MAX_AHEAD_S * 1_000_000, scope)
    return {gauge.slot.field: gauge for gauge in (*now, *soon) if not gauge.slot.rate_s}.values()


def _used(view: View, gauge: Gauge, rows: Iterable[UsageRow]) -> int:
    first = local_day(from_micros(gauge.starts_us), view.windows.zone)
    last = local_day(from_micros(gauge.ends_us - 1), view.windows.zone)
    return sum(row.quantity for row in rows if first <= row.day <= last)


def _capped(view: View, gauge: Gauge, rows: Iterable[UsageRow], terms: Terms) -> int:
    uses = [Use(row.day, row.since_us, "", row.quantity, 1) for row in rows]
    month = local_day(from_micros(gauge.starts_us), view.windows.zone)
    return cap_used(gauge.limit.meter, uses, terms, month=month)


def _levels(meter: str, gauge: Gauge, snapshot: Snapshot) -> Mapping[str, int]:
    own = {resource: end for (name, resource), end in snapshot.levels.items() if name == meter}
    fields = {gauge.slot.field: sum(end.value for end in own.values())}
    for resource, end in own.items():
        fields[level_field(meter, resource)] = end.value
        if end.stamp > NO_LEVEL.stamp:
            fields[stamp_field(meter, resource)] = end.stamp
    return fields


def _held(view: View, hold: Fact, now_us: int) -> Iterable[tuple[Slot, int]]:
    """What an open hold holds in the windows that are open now."""
    for count in hold.counts:
        for gauge in view.windows.gauges(count.meter, hold.occurred_us, count.scope):
            if gauge.ends_us > now_us and not gauge.slot.rate_s:
                yield gauge.slot, count.amount


def held_field(slot: Slot) -> str:
    """The twin of a field, for what is held."""
    return slot.field + "~"


def _add_held(values: dict[str, int], view: View, snapshot: Snapshot, now_us: int) -> None:
    """Puts the holds' amounts into the twins; what they cost past the free amount is counted in the caps."""
    for hold in snapshot.holds:
        for slot, amount in _held(view, hold, now_us):
            twin = held_field(slot)
            base = values.get(slot.field, 0) + values.get(twin, 0)
            if slot.price:
                values[slot.cap_field] = values.get(slot.cap_field, 0) + over_cost(slot, base, amount)
            values[twin] = values.get(twin, 0) + amount
