"""Runs a scenario through a real Metering on memory stores, under a clock that jumps from one event to the next.

Owns: what is asked, when, and what of it fits. Does not own: what a limit says, what an invoice is. Demand meets the
plan's limits as in an app: what does not fit is refused, and not billed. Burst rates per second and minute are left
out, since a day's use comes at one instant.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, cast

from pydantic import BaseModel, ConfigDict

from mm_metering import catalogues
from mm_metering.billing.subscriptions import Anchor, Tenant
from mm_metering.clock import FrozenClock
from mm_metering.core.catalogue import Catalogue, Plan
from mm_metering.core.catalogue_file import toml
from mm_metering.core.invoices import FEES, METERED, Invoice
from mm_metering.core.money import EXACT, Money
from mm_metering.core.periods import local_day, period_of, zone
from mm_metering.core.scenario import Group, Scenario, Step, Usage
from mm_metering.core.scenario_file import check, read_scenario
from mm_metering.core.schema import ROOT, Place
from mm_metering.errors import CatalogueError, Refused
from mm_metering.gate.admission import Wish
from mm_metering.metering import Metering

Source: TypeAlias = "Scenario | Mapping[str, Any] | str | os.PathLike[str]"
_LONGEST_WAIT: Final = timedelta(days=35)
"""After the last month has begun to end, everywhere and whatever its anchor, it is over and its grace, too."""
_ZERO = Decimal(0)


class ScenarioMonth(BaseModel):
    """A month of a group's tenants together, before tax and credit: ``total`` = fees + overage + other. ``other`` is
    what else stands on their invoices, such as a minimum. ``refused``: units that did not fit, by meter."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    period: str
    group: str
    tenants: int
    fees: Money
    overage: Mapping[str, Money]
    other: Money
    total: Money
    refused: Mapping[str, int]


class Unexpected(BaseModel):
    """A total that is not what the scenario expects."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    period: str
    group: str
    expected: Money
    found: Money


class ScenarioResult(BaseModel):
    """Months in order, in each the groups as the scenario has them."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    currency: str
    months: tuple[ScenarioMonth, ...]
    unexpected: tuple[Unexpected, ...] = ()

    def total(self, period: str, group: str) -> Decimal:
        """A group's total of a month; 0 where it has none."""
        return next((each.total for each in self.months if (each.period, each.group) == (period, group)), _ZERO)


def load_scenario(source: Source) -> tuple[Scenario, Catalogue]:
    """A scenario, its tables or its file, with its catalogue. CatalogueError with file and line for what is wrong."""
    at, base = ROOT, Path()
    if isinstance(source, Scenario):
        scenario = source
    elif isinstance(source, Mapping):
        scenario = read_scenario(source, at)
    else:
        path = os.fspath(source)
        tree, at = toml(catalogues.text_of(path), path)
        scenario, base = read_scenario(tree, at), Path(path).parent
    catalogue = _catalogue(scenario.catalogue, base, at)
    check(scenario, catalogue, at)
    return scenario, catalogue


def _catalogue(named: str | Mapping[str, Any], base: Path, at: Place) -> Catalogue:
    if isinstance(named, str):
        return catalogues.named(named if named in catalogues.SHIPPED else str(base / named))
    try:
        return Catalogue.from_dict(named)
    except CatalogueError as error:
        raise (at / "catalogue").error(str(error)) from None


async def run_scenario(source: Source, *, progress: Callable[[int], None] = lambda _: None) -> ScenarioResult:
    """Runs all of it, within seconds. ``progress`` is told how many of its ``instants`` are done."""
    scenario, catalogue = load_scenario(source)
    run = _Run(scenario, _without_rates(catalogue))
    return await run.result(progress)


def instants(scenario: Scenario) -> int:
    """How many instants at which something happens."""
    return len({each.at for each in _events(scenario)})


def _without_rates(catalogue: Catalogue) -> Catalogue:
    return replace(catalogue, plans=MappingProxyType({name: _slow(plan) for name, plan in catalogue.plans.items()}))


def _slow(plan: Plan) -> Plan:
    quotas = {meter: tuple(limit for limit in limits if not limit.is_rate) for meter, limits in plan.quotas.items()}
    return replace(plan, quotas=MappingProxyType({meter: limits for meter, limits in quotas.items() if limits}))


class _Event(NamedTuple):
    """At one instant sign-ups come first, then changes, then use."""

    at: datetime
    order: int
    tenant: str
    what: Group | Step | Usage
    units: int = 0


def _events(scenario: Scenario) -> list[_Event]:
    found = [each for group in scenario.groups for tenant in group.tenants for each in _of(scenario, group, tenant)]
    return sorted(found, key=lambda each: each[:3])


def _of(scenario: Scenario, group: Group, tenant: str) -> Iterator[_Event]:
    yield _Event(scenario.begins(group), 0, tenant, group)
    for step in group.steps:
        yield _Event(step.at, 1, tenant, step)
    for at, usage, units in scenario.uses(group, tenant):
        yield _Event(at, 2, tenant, usage, units)


@dataclass
class _Run:
    scenario: Scenario
    catalogue: Catalogue

    async def result(self, progress: Callable[[int], None]) -> ScenarioResult:
        events = _events(self.scenario)
        clock = FrozenClock(events[0].at)
        self._refused: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._tenants = dict[str, Tenant]()
        self._levels = dict[tuple[str, str, str | None], int]()
        async with Metering(self.catalogue, clock=clock, worker="off") as self._metering:
            done = 0
            for (at, order), some in groupby(events, key=lambda each: each[:2]):
                clock.set(at)
                if order < 2:
                    for each in some:
                        await self._change(each)
                else:
                    await asyncio.gather(*(self._use(*theirs) for theirs in _by_tenant(some)))
                    done += 1
                    progress(done)
            await self._metering.flush()
            last = self.scenario.periods[-1]
            clock.set(max(clock.now(), datetime.fromisoformat(f"{last}-01T00:00:00Z") + 2 * _LONGEST_WAIT))
            invoices = [each for period in self.scenario.periods for each in await self._metering.close_period(period)]
        months = tuple(self._months(invoices))
        result = ScenarioResult(currency=self.catalogue.currency, months=months)
        expected = ((month, group, each, result.total(month, group)) for month, group, each in self.scenario.expect)
        unexpected = [
            Unexpected(period=month, group=group, expected=each, found=found)
            for month, group, each, found in expected
            if each != found
        ]
        return result.model_copy(update={"unexpected": tuple(unexpected)})

    async def _change(self, event: _Event) -> None:
        match event.what:
            case Group() as group:
                self._tenants[event.tenant] = await self._metering.put_tenant(
                    event.tenant,
                    plan=group.plan,
                    timezone=group.timezone,
                    subscribed_at=event.at,
                    trial_days=group.trial_days,
                    anchor=cast("Anchor", group.anchor),
                )
            case Step(plan=str() as plan, since=since):
                await self._metering.change_plan(event.tenant, plan, at=since or "now")
            case Step(timezone=str() as timezone):
                await self._metering.put_tenant(event.tenant, timezone=timezone)
            case Step(addon=str() as addon):
                await self._metering.set_addon(event.tenant, addon, quantity=event.what.quantity, at="now")
            case Step(event=str() as name):
                await getattr(self._metering, f"{name}_subscription")(event.tenant)

    async def _use(self, tenant: str, events: Sequence[_Event]) -> None:
        """All of it in one take, if it fits; else one by one."""
        asked = [(event, each) for event in events if isinstance(each := event.what, Usage)]
        counted = [(event, each) for event, each in asked if not each.is_level]
        wishes = tuple(Wish("", each.resource or "", event.units, meter=each.meter) for event, each in counted)
        if len(wishes) > 1 and (await self._metering.gate.take(tenant, wishes)).allowed:
            counted = []
        for event, usage in (*(each for each in asked if each[1].is_level), *counted):
            wanted = event.units
            if usage.is_level:
                wanted = await self._level(tenant, usage, event.units)
            if missed := wanted - await self._take(tenant, usage, wanted):
                known = self._tenants[tenant]
                period = period_of(local_day(event.at, zone(known.timezone)), known.anchor_day)
                self._refused[period, tenant][usage.meter] += missed

    async def _level(self, tenant: str, usage: Usage, units: int) -> int:
        """By how much the level is to go up. It goes down by itself; what was asked for before is not asked again."""
        level = (tenant, usage.meter, usage.resource)
        before, self._levels[level] = self._levels.get(level, 0), units
        if units < before:
            await self._metering.set_level(tenant, usage.meter, units, resource=usage.resource)
        return max(0, units - before)

    async def _take(self, tenant: str, usage: Usage, units: int) -> int:
        """How many of the units fit, and are counted."""
        if not units:
            return 0
        try:
            await self._metering.enforce_quota(tenant, usage.meter, units, resource=usage.resource)
        except Refused:
            low, high = 0, units
        else:
            return units
        while high - low > 1:
            middle = (low + high) // 2
            fits = await self._metering.check_limit(tenant, usage.meter, middle, resource=usage.resource)
            low, high = (middle, high) if fits else (low, middle)
        if low:
            await self._metering.enforce_quota(tenant, usage.meter, low, resource=usage.resource)
        return low

    def _months(self, invoices: Iterable[Invoice]) -> Iterator[ScenarioMonth]:
        group_of = {tenant: group for group in self.scenario.groups for tenant in group.tenants}
        by_group: dict[tuple[str, str], list[Invoice]] = defaultdict(list)
        for invoice in invoices:
            by_group[invoice.period, group_of[invoice.tenant].name].append(invoice)
        for period in self.scenario.periods:
            for group in self.scenario.groups:
                yield self._month(period, group, by_group[period, group.name])

    def _month(self, period: str, group: Group, invoices: list[Invoice]) -> ScenarioMonth:
        overage, refused = dict[str, Decimal](), Counter[str]()
        for tenant in group.tenants:
            refused.update(self._refused[period, tenant])
        with localcontext(EXACT):
            lines = [line for invoice in invoices for line in invoice.lines]
            fees = sum((line.amount for line in lines if line.kind in FEES), _ZERO)
            for line in lines:
                if line.kind in METERED and line.meter:
                    overage[line.meter] = overage.get(line.meter, _ZERO) + line.amount
            total = sum((invoice.subtotal for invoice in invoices), _ZERO)
            other = total - fees - sum(overage.values(), _ZERO)
        return ScenarioMonth(
            period=period,
            group=group.name,
            tenants=group.count,
            fees=fees,
            overage=overage,
            other=other,
            total=total,
            refused=refused,
        )


def _by_tenant(events: Iterable[_Event]) -> Iterator[tuple[str, list[_Event]]]:
    for tenant, theirs in groupby(events, key=lambda each: each.tenant):
        yield tenant, [*theirs]
