"""A simulation: what a new catalogue would have brought, over all tenants and months, as frozen values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, localcontext
from heapq import nlargest
from typing import ClassVar, Final, TypeAlias

from pydantic import BaseModel, ConfigDict, computed_field

from mm_metering.core.catalogue import Catalogue, Meter
from mm_metering.core.money import EXACT, Money, from_nanos, minor_unit
from mm_metering.core.whatif import Compared, Question

LARGEST: Final = 10
"""How many rises and falls are told."""
_ZERO = Decimal(0)

Units: TypeAlias = Mapping[str, int | Money]
"""By meter: units, or money for a money meter."""


class Amounts(BaseModel):
    """Before tax and credit, in the catalogue's currency: under the stored plans, under the new ones, and under the new
    ones with the refused demand that they have room for. A difference is against ``before``."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, strict=True)

    before: Money
    after: Money
    with_refused: Money

    @computed_field  # type: ignore[prop-decorator]
    @property
    def difference(self) -> Money:
        return _less(self.after, self.before)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def difference_with_refused(self) -> Money:
        return _less(self.with_refused, self.before)


class MonthChange(Amounts):
    """All tenants' calendar month, each in its zone."""

    period: str


class TenantChange(Amounts):
    """A tenant's months together. ``plans``: those it was on, in order; ``refused``: what was asked and not allowed."""

    tenant: str
    plans: tuple[str, ...]
    refused: Units


class Simulation(BaseModel):
    """What the months from ``start`` to ``end``, both included, came to, and would have come to.

    ``tenants`` are in order of their ids; ``more``, ``less`` and ``same`` count them by ``difference``, and ``rises``
    and ``falls`` are the ten largest. ``left_out``: tenants without a plan in these months or not signed up yet, and
    those that have cells and are not known. ``missing_plans``: how many tenants were on each plan that the new
    catalogue does not have, ``own_plans``: how many on a version of their own; both keep their definition. ``running``:
    months of a tenant that were not over ``as_of``, with their usage so far. ``new_meters`` of the new catalogue count
    what was not counted so far: they have no usage here, or another one than they will have.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, strict=True)

    start: str
    end: str
    currency: str
    as_of: datetime
    total: Amounts
    months: tuple[MonthChange, ...]
    tenants: tuple[TenantChange, ...]
    more: int
    less: int
    same: int
    rises: tuple[TenantChange, ...]
    falls: tuple[TenantChange, ...]
    refused: Units
    left_out: int
    missing_plans: Mapping[str, int]
    own_plans: int
    running: int
    new_meters: tuple[str, ...]


@dataclass
class Tally:
    """Adds tenants up, in order of their ids; it keeps one small value of each."""

    question: Question
    current: Catalogue
    left_out: int = 0
    own_plans: int = 0
    running: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    _tenants: list[TenantChange] = field(default_factory=list)
    _months: dict[str, list[Decimal]] = field(default_factory=dict)
    _refused: Counter[str] = field(default_factory=Counter)

    def add(self, tenant: str, plans: Iterable[str], months: Mapping[str, Compared]) -> None:
        """One tenant's months, by period."""
        refused: Counter[str] = Counter()
        for period, month in months.items():
            refused.update(month.refused)
            self._months[period] = summed([self._months.get(period, [_ZERO] * 3), month[:3]])
        self._refused.update(refused)
        sums = self._amounts(summed([month[:3] for month in months.values()]))
        named = tuple(dict.fromkeys(plans))
        self._tenants.append(TenantChange(tenant=tenant, plans=named, refused=self._units(refused), **sums))

    def simulation(self) -> Simulation:
        periods, none = self.question.periods, [_ZERO] * 3
        months = [MonthChange(period=each, **self._amounts(self._months.get(each, none))) for each in periods]
        rises = [each for each in self._tenants if each.difference > 0]
        falls = [each for each in self._tenants if each.difference < 0]
        return Simulation(
            start=periods[0],
            end=periods[-1],
            currency=self.current.currency,
            as_of=self.question.asked_at,
            total=Amounts(**self._amounts(summed([*self._months.values(), none]))),
            months=tuple(months),
            tenants=tuple(self._tenants),
            more=len(rises),
            less=len(falls),
            same=len(self._tenants) - len(rises) - len(falls),
            rises=tuple(nlargest(LARGEST, rises, key=lambda each: each.difference)),
            falls=tuple(nlargest(LARGEST, falls, key=lambda each: each.difference.copy_negate())),
            refused=self._units(self._refused),
            left_out=self.left_out,
            missing_plans=dict(sorted(self.missing.items())),
            own_plans=self.own_plans,
            running=self.running,
            new_meters=tuple(filter(self._is_new, self.question.catalogue.meters)),
        )

    def _is_new(self, name: str) -> bool:
        new, known = self.question.catalogue.meters[name], self.current.meters.get(name)
        return known is None or (new.event, new.resource) != (known.event, known.resource)

    def _amounts(self, sums: Sequence[Decimal]) -> dict[str, Decimal]:
        return amounts_in(self.current.currency, sums)

    def _units(self, refused: Mapping[str, int]) -> dict[str, int | Decimal]:
        return units_of(refused, self.current.meters)


def amounts_in(currency: str, sums: Sequence[Decimal]) -> dict[str, Decimal]:
    """Before, after and with refused demand, as the fields of ``Amounts``."""
    with localcontext(EXACT):
        shown = [each.quantize(minor_unit(currency)) for each in sums]
    return dict(zip(("before", "after", "with_refused"), shown, strict=True))


def units_of(counted: Mapping[str, int], meters: Mapping[str, Meter]) -> dict[str, int | Decimal]:
    """By meter, in order of names: nano-units of money as money."""
    money = {name for name, meter in meters.items() if meter.unit == "money"}
    return {meter: from_nanos(n) if meter in money else n for meter, n in sorted(counted.items())}


def summed(rows: Iterable[Sequence[Decimal]]) -> list[Decimal]:
    with localcontext(EXACT):
        return [sum(column, _ZERO) for column in zip(*rows, strict=True)]


def _less(amount: Decimal, by: Decimal) -> Decimal:
    with localcontext(EXACT):
        return amount - by
