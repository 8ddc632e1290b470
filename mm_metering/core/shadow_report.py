"""A shadow report: what plans that are not in force yet would have decided in the running day and month."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.money import EXACT, Money, from_nanos
from mm_metering.core.periods import Window, from_micros
from mm_metering.core.shadow import Bound, Hit, Limits, Replay, Stretch, level_let_in, level_past, most_of
from mm_metering.core.simulation import Amounts, Units, amounts_in, summed, units_of
from mm_metering.core.whatif import Compared

_ZERO = Decimal(0)


class LimitShadow(BaseModel):
    """A meter's limit in the window that is open: of a rate the running day, of a level (window "none") as it stands.

    ``limit_now`` and ``limit_then`` are the most that is let in; None where no number refuses: no limit, an unlimited
    one, or one past which is charged, also up to a cap. ``used`` and ``refused`` happened, whichever limit refused.
    ``refused_then`` is what was let in and would have been refused by this limit, ``since`` its first instant, as far
    as it is known; ``refused_then_month`` counts all of the month's windows, of a rate the running day.
    ``allowed_then`` is the most of ``refused`` that would have been let in; a rate never says.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, strict=True)

    meter: str
    window: str
    limit_now: int | Money | None
    limit_then: int | Money | None
    used: int | Money
    refused: int | Money
    refused_then: int | Money
    refused_then_month: int | Money
    allowed_then: int | Money
    since: datetime | None


class TenantShadow(Amounts):
    """A tenant's running month. Its amounts are those of ``simulate``; ``refused_then`` and ``allowed_then`` by meter.
    ``limits``: those that decide otherwise; all of the plan's where the tenant was asked for. ``estimated``: it has too
    many facts to be looked at one by one, so units were counted instead of requests, and rates left out."""

    tenant: str
    plan: str
    period: str
    limits: tuple[LimitShadow, ...]
    refused_then: Units
    allowed_then: Units
    estimated: bool


class ShadowReport(BaseModel):
    """``tenants`` that a shadow plan would decide or bill otherwise, those first of which the largest share of a
    limit's usage would have been refused. Totals are of all ``compared``: ``blocked`` of them would have been refused
    something that was let in, ``freed`` let in what was refused, each in its running month. ``left_out``: without a
    plan, or with nothing to be billed. ``missing_plans`` and ``own_plans`` as in a ``Simulation``: they stay as they
    are."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, strict=True)

    as_of: datetime
    currency: str
    compared: int
    blocked: int
    freed: int
    total: Amounts
    refused_then: Units
    allowed_then: Units
    tenants: tuple[TenantShadow, ...]
    left_out: int
    missing_plans: Mapping[str, int]
    own_plans: int


# -- one tenant --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Month:
    """What a tenant's limits are made of: its month's stretches, replayed, and its levels as they stand. ``meters``:
    all that its plans may limit."""

    meters: Collection[str]
    replay: Replay
    stretches: tuple[Stretch, ...]
    levels: Mapping[str, int]
    now_us: int

    @property
    def today(self) -> list[Stretch]:
        return [each for each in self.stretches if each.start_us >= self.replay.today_us]

    @property
    def share(self) -> Fraction:
        """The largest part of a count's usage in the month that a limit would have refused."""
        used, hits = _used(self.stretches), self.replay.hits
        parts = [Fraction(hit.month, used[meter]) for (meter, _), hit in hits.items() if used[meter] > 0]
        return max(parts, default=Fraction(0))

    def limits(self, *, every: bool) -> Iterator[LimitShadow]:
        """By meter, each from the shortest window to the longest: those that decide otherwise, or ``every`` one."""
        meters = self.meters if every else {*_used(self.stretches), *_refused(self.stretches), *self.levels}
        for meter in sorted(meters):
            for window in Window:
                now, then = (self._bound(each.limits, meter, window) for each in (self.replay.now, self.replay.then))
                hit = self.replay.hits.get((meter, window))
                if hit or now or then:
                    row = (
                        self._level(meter, now, then)
                        if window is Window.NONE
                        else self._count(meter, window, now, then)
                    )
                    if every or row.refused_then_month or row.allowed_then:
                        yield row

    def _bound(self, limits: Limits, meter: str, window: Window) -> Bound | None:
        return next((bound for bound in limits(meter, self.now_us) if bound.limit.window is window), None)

    def _count(self, meter: str, window: Window, now: Bound | None, then: Bound | None) -> LimitShadow:
        stretches = self.stretches if window is Window.MONTH else self.today
        hit = self.replay.hits.get((meter, window), Hit())
        let_in = {Window.MONTH: self.replay.allowed, Window.DAY: self.replay.allowed_today}.get(window, Counter())
        shown = from_nanos if _is_money(now, then) else int
        return LimitShadow(
            meter=meter,
            window=window.value,
            limit_now=_most(now),
            limit_then=_most(then),
            used=shown(_used(stretches)[meter]),
            refused=shown(_refused(stretches)[meter]),
            refused_then=shown(hit.window),
            refused_then_month=shown(hit.month),
            allowed_then=shown(let_in[meter]),
            since=None if hit.since_us is None else from_micros(hit.since_us),
        )

    def _level(self, meter: str, now: Bound | None, then: Bound | None) -> LimitShadow:
        value, refused = self.levels.get(meter, 0), _refused(self.today)[meter]
        past = level_past(value, now, then)
        return LimitShadow(
            meter=meter,
            window=Window.NONE.value,
            limit_now=_most(now),
            limit_then=_most(then),
            used=value,
            refused=refused,
            refused_then=past,
            refused_then_month=past,
            allowed_then=level_let_in(value, refused, now, then),
            since=None,
        )


def tenant_shadow(
    row: tuple[str, str, str], month: Month, amounts: Compared, current: Catalogue, *, every: bool, estimated: bool
) -> TenantShadow:
    """``row``: tenant, plan and period. With ``every`` limit or those that decide otherwise."""
    tenant, plan, period = row
    limits = tuple(month.limits(every=every))
    levels = [each for each in limits if each.window == Window.NONE]
    refused = month.replay.refused + Counter({each.meter: int(each.refused_then) for each in levels})
    allowed = month.replay.allowed + Counter({each.meter: int(each.allowed_then) for each in levels})
    return TenantShadow(
        tenant=tenant,
        plan=plan,
        period=period,
        limits=limits,
        refused_then=units_of(refused, current.meters),
        allowed_then=units_of(allowed, current.meters),
        estimated=estimated,
        **amounts_in(current.currency, amounts[:3]),
    )


def _used(stretches: Iterable[Stretch]) -> Counter[str]:
    return _added(each.used for each in stretches)


def _refused(stretches: Iterable[Stretch]) -> Counter[str]:
    return _added(each.refused for each in stretches)


def _added(rows: Iterable[Mapping[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row)
    return total


def _most(bound: Bound | None) -> int | Decimal | None:
    most = most_of(bound)
    return most if most is None or not _is_money(bound) else from_nanos(most)


def _is_money(*bounds: Bound | None) -> bool:
    return any(bound.limit.unit == "money" for bound in bounds if bound)


# -- all of them -------------------------------------------------------------------------------------------------------


@dataclass
class ShadowTally:
    """Adds tenants up. It keeps a value of each that is decided or billed otherwise."""

    currency: str
    as_of: datetime
    left_out: int = 0
    own_plans: int = 0
    compared: int = 0
    blocked: int = 0
    freed: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    _refused: Units = field(default_factory=dict)
    _allowed: Units = field(default_factory=dict)
    _sums: list[Decimal] = field(default_factory=lambda: [_ZERO] * 3)
    _tenants: list[tuple[Fraction, TenantShadow]] = field(default_factory=list)

    def add(self, found: TenantShadow, share: Fraction, *, keep: bool) -> None:
        """``share``: of the month that was hit. ``keep`` also what is decided and billed alike."""
        self.compared += 1
        self.blocked += any(found.refused_then.values())
        self.freed += any(found.allowed_then.values())
        self._refused = _plus(self._refused, found.refused_then)
        self._allowed = _plus(self._allowed, found.allowed_then)
        self._sums = summed([self._sums, (found.before, found.after, found.with_refused)])
        if keep or found.limits or found.difference or found.difference_with_refused:
            self._tenants.append((-share, found))

    def report(self) -> ShadowReport:
        return ShadowReport(
            as_of=self.as_of,
            currency=self.currency,
            compared=self.compared,
            blocked=self.blocked,
            freed=self.freed,
            total=Amounts(**amounts_in(self.currency, self._sums)),
            refused_then=self._refused,
            allowed_then=self._allowed,
            tenants=tuple(found for _, found in sorted(self._tenants, key=lambda each: (each[0], each[1].tenant))),
            left_out=self.left_out,
            missing_plans=dict(sorted(self.missing.items())),
            own_plans=self.own_plans,
        )


def _plus(units: Units, more: Units) -> Units:
    with localcontext(EXACT):
        return {meter: units.get(meter, 0) + more.get(meter, 0) for meter in sorted({*units, *more})}
