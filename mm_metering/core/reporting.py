"""Usage that a payment provider multiplies by its own prices: what it can, and what it is told. Pure.

What is told are the units that our invoice bills past the allowances, since only we know the quotas. A meter at the
provider stands for a meter of the catalogue, or, where prices differ by resource, for one of its resources.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, NamedTuple, TypeAlias

from mm_metering.core.catalogue import Catalogue, Limit, Plan
from mm_metering.core.periods import Span
from mm_metering.core.rating import Overage
from mm_metering.errors import CatalogueError, InvalidInput

ReportState: TypeAlias = Literal["unsent", "sent", "parked"]

MAX_IDENTIFIER: Final = 100
STILL_OPEN: Final = timedelta(minutes=30)
"""How long after a month's end its usage is dated into it. A provider finalizes its own invoice an hour after, and what
is dated into a finalized month is billed by nobody: later usage is dated as it is told, for its next invoice."""
IDENTIFIER_KNOWN: Final = timedelta(hours=23)
"""How long an identifier is surely known at the provider, less an hour for clocks that differ."""
OLDEST: Final = timedelta(days=34)
"""How far back a provider takes an instant (35 days), less a day for what is on its way."""
_NAME: Final = re.compile(r"[!-~]{1,80}")


@dataclass(frozen=True, slots=True)
class UsageReport:
    """Units for a provider's meter, to be counted once by ``identifier`` (at most 100 characters).

    ``quantity`` is what is added, or, for those who take totals, all of the month ``period`` ("2024-01"). It may be
    negative. ``instant`` is when it counts, at least at the second.
    """

    tenant: str
    customer: str
    meter: str
    quantity: int
    identifier: str
    instant: datetime
    period: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.identifier) <= MAX_IDENTIFIER:
            raise InvalidInput("identifier", f"has {len(self.identifier)} characters, not 1 to {MAX_IDENTIFIER}")


@dataclass(frozen=True, slots=True)
class Intent:
    """A report as the ledger keeps it, written before it is told: the ``number``th of its tenant, month and meter, from
    1 on. ``quantity`` is what it adds, ``total`` the sum with those before it; neither ever changes."""

    tenant: str
    period: str
    meter: str
    number: int
    customer: str
    quantity: int
    total: int
    identifier: str
    instant: datetime
    made_at: datetime
    state: ReportState = "unsent"

    def report(self, *, totals: bool) -> UsageReport:
        """What the provider is told."""
        quantity = self.total if totals else self.quantity
        return UsageReport(self.tenant, self.customer, self.meter, quantity, self.identifier, self.instant, self.period)

    def dated(self, now: datetime) -> Intent:
        """With an instant that a provider still takes."""
        return self if now - self.instant <= OLDEST else replace(self, instant=now)


def next_intent(
    before: Intent | None,
    *,
    tenant: str,
    period: str,
    meter: str,
    customer: str,
    billed: int,
    identifier: str,
    month: Span,
    now: datetime,
) -> Intent | None:
    """What is to be told next, if anything: ``billed`` in the month so far, less what was told, ``before`` last."""
    number, total = (before.number, before.total) if before else (0, 0)
    if billed == total:
        return None
    is_open = now < month.end + STILL_OPEN
    instant = max(month.start, min(now, month.end - timedelta(seconds=1))) if is_open else now
    return Intent(
        tenant=tenant,
        period=period,
        meter=meter,
        number=number + 1,
        customer=customer,
        quantity=billed - total,
        total=billed,
        identifier=identifier,
        instant=instant.replace(microsecond=0),
        made_at=now,
    )


def provider_meter(meter: str, resource: str = "") -> str:
    """ "api_calls"; "ai_tokens.gpt-4" where models have prices of their own: no meter's name holds a dot."""
    return f"{meter}.{resource}" if resource else meter


def billed_units(usage: Iterable[Overage]) -> Mapping[str, int]:
    """By the provider's meter. InvalidInput for what it cannot multiply, as an older version of a plan may have it."""
    found: Counter[str] = Counter()
    for over in usage:
        if not isinstance(over.price, Decimal) or not isinstance(over.quantity, int):
            plan = over.windows[0].plan
            raise InvalidInput("plan", f"{plan} has a price of {over.meter} that a payment provider cannot multiply")
        found[provider_meter(over.meter, over.resource)] += over.quantity
    return found


# -- prices ------------------------------------------------------------------------------------------------------------


class MeteredPrice(NamedTuple):
    """What a unit of a provider's meter costs on a plan."""

    plan: str
    meter: str
    unit_price: Decimal


def metered_prices(catalogue: Catalogue) -> tuple[MeteredPrice, ...]:
    """All that a provider must multiply. CatalogueError names the first plan and meter for which it cannot."""
    if catalogue.changes.proration != "second":
        raise _cannot(f'changes.proration = "{catalogue.changes.proration}"', "a provider splits fees by the second")
    for addon in catalogue.addons.values():
        raise _cannot(f"addons.{addon.name}", "a provider's subscription has the plan's prices alone")
    for plan in catalogue.plans.values():
        if plan.minimum:
            raise _cannot(f"plans.{plan.name}.minimum", "a provider tops nothing up")
    found: list[MeteredPrice] = []
    for plan in catalogue.plans.values():
        for limit in (limit for limits in plan.quotas.values() for limit in limits):
            for resource, price in _unit_prices(plan, limit):
                name, where = provider_meter(limit.meter, resource), f"plans.{plan.name}.quotas.{limit.meter}"
                if not _NAME.fullmatch(name):
                    raise _cannot(where, f"{name[:90]!r} does not do as the name of a provider's meter")
                found.append(MeteredPrice(plan.name, name, price))
    return tuple(found)


def refuse_other_prices(before: Plan, after: Plan) -> None:
    """InvalidInput for a tenant's own version of a plan that costs something else: the provider has the plan's prices
    for all of its subscriptions. Other limits are ours, and may be."""
    theirs = _costs(before)
    same_units = all(theirs.get(meter) == price for meter, price in _costs(after).items())
    if (before.price, before.minimum) != (after.price, after.minimum) or not same_units:
        raise InvalidInput(
            "changes",
            f"make other prices than {before.name} has at the payment provider, which multiplies "
            '(billing_mode="report"); limits alone may be a tenant\'s own',
        )


def _costs(plan: Plan) -> dict[str, list[object]]:
    """By meter, what units past its limits cost; none where they are refused."""
    found: dict[str, list[object]] = {}
    for meter, limits in plan.quotas.items():
        if costs := [each.price or each.unit_price for each in limits if not each.blocks]:
            found[meter] = [*costs]
    return found


def _unit_prices(plan: Plan, limit: Limit) -> Iterator[tuple[str, Decimal]]:
    """By resource; "" where all cost the same."""
    where = f"plans.{plan.name}.quotas.{limit.meter}"
    if limit.blocks:
        return
    if limit.price is not None:
        raise _cannot(f"{where}.price", "a provider multiplies units by a unit_price alone")
    if limit.is_level:
        raise _cannot(where, "a level is billed by its mean over time, and a provider counts whole units")
    if isinstance(limit.unit_price, Decimal):
        yield "", limit.unit_price
    else:
        yield from (limit.unit_price or {}).items()


def _cannot(where: str, why: str) -> CatalogueError:
    return CatalogueError(f'{where}: not with billing_mode="report": {why}. Change it, or let us rate: "invoice"')
