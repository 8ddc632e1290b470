"""Plans as prices at Stripe, found by lookup key: "pro" is the price that is called "mm_pro" there.

We rate, so a mirrored price is zero; a subscription at Stripe says which plan it is, and no more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from mm_metering.billing.adapter import plan_of
from mm_metering.billing.stripe.calls import Calls
from mm_metering.billing.stripe.shapes import PLAN, told
from mm_metering.core.catalogue import Catalogue
from mm_metering.errors import InvalidInput, InvalidRequest

if TYPE_CHECKING:
    import stripe

PREFIX: Final = "mm_"
AT_ONCE: Final = 10
"""Lookup keys in one request."""
_NAME: Final = re.compile(r"[ -~]{1,200}")

PriceState: TypeAlias = Literal["there", "missing", "made"]


class PlanPrice(NamedTuple):
    """A plan of the catalogue and its price at Stripe. ``price_id`` is empty while it is missing."""

    plan: str
    lookup_key: str
    state: PriceState
    price_id: str = ""


class Prices:
    """``names``: plans whose price is called otherwise, by a lookup key or a price's id ("price_…")."""

    def __init__(self, calls: Calls, names: Mapping[str, str], currency: str) -> None:
        for plan, name in names.items():
            if not _NAME.fullmatch(str(name)):
                raise InvalidInput("prices", f'{plan!r} has no lookup key or price id such as "mm_pro"')
        self._calls = calls
        self._names = {plan_of(plan): name for plan, name in names.items()}
        self._plans = {name: plan for plan, name in self._names.items()}
        self._currency = currency

    def name(self, plan_id: str) -> str:
        plan = plan_of(plan_id)
        return self._names.get(plan, f"{PREFIX}{plan}")

    async def id_of(self, plan_id: str) -> str:
        """The plan's price; InvalidRequest if Stripe has none."""
        name = self.name(plan_id)
        if name.startswith("price_"):
            return name
        if found := (await self._found([name])).get(name):
            return found
        raise InvalidRequest(
            f"the plan {plan_of(plan_id)[:60]!r} has no price {name[:80]!r} at Stripe; mm-metering plans push makes it"
        )

    def plan_of(self, subscription: stripe.Subscription, price: stripe.Price | None) -> str:
        """What the subscription's price says, else what was written down when it was made."""
        for name in (price.lookup_key, price.id) if price is not None else ():
            if name and name in self._plans:
                return self._plans[name]
            if name and name.startswith(PREFIX):
                return name.removeprefix(PREFIX)
        return told(subscription.metadata).get(PLAN, "")

    async def push(self, catalogue: Catalogue, *, dry_run: bool) -> tuple[PlanPrice, ...]:
        names = {plan: self.name(plan) for plan in catalogue.plans}
        wanted = {plan: name for plan, name in names.items() if not name.startswith("price_")}
        found = await self._found(list(wanted.values()))
        pushed = []
        for plan, name in wanted.items():
            if name in found:
                pushed.append(PlanPrice(plan, name, "there", found[name]))
            elif dry_run:
                pushed.append(PlanPrice(plan, name, "missing"))
            else:
                pushed.append(PlanPrice(plan, name, "made", await self._make(plan, name)))
        return tuple(pushed)

    async def _found(self, names: list[str]) -> dict[str, str]:
        """Ids of active prices by lookup key."""
        found: dict[str, str] = {}
        for start in range(0, len(names), AT_ONCE):
            some = names[start : start + AT_ONCE]
            page = await self._calls.read(
                lambda client, some=some: client.v1.prices.list_async(  # type: ignore[misc]
                    {"lookup_keys": some, "active": True, "limit": 100}
                )
            )
            found |= {each.lookup_key: each.id for each in page.data if each.lookup_key}
        return found

    async def _make(self, plan: str, name: str) -> str:
        made = await self._calls.write(
            lambda client, options: client.v1.prices.create_async(
                {
                    "currency": self._currency.lower(),
                    "unit_amount": 0,
                    "recurring": {"interval": "month"},
                    "lookup_key": name,
                    "metadata": {PLAN: plan},
                    "product_data": {"name": plan},
                },
                options,
            )
        )
        return made.id
