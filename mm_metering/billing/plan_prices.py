"""The catalogue's prices as a provider has them: what ``mm-metering plans push`` makes and shows."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from mm_metering.core.catalogue import Catalogue

PriceState: TypeAlias = Literal["there", "missing", "made", "other"]
"""Of "other" there is one by that name with another price, which is never changed."""


class PlanPrice(NamedTuple):
    """A plan's price a month, or with ``meter`` that of a unit. ``price_id`` is empty while it is missing; ``theirs``
    says what an "other" one is."""

    plan: str
    lookup_key: str
    state: PriceState
    price_id: str = ""
    meter: str = ""
    amount: Decimal = Decimal(0)
    theirs: str = ""


@runtime_checkable
class PlanPusher(Protocol):
    """An adapter that keeps prices at its provider."""

    async def push_plans(self, catalogue: Catalogue, *, dry_run: bool = False) -> tuple[PlanPrice, ...]:
        """Makes the prices that are missing, and says of each what there is. ``dry_run`` makes nothing."""
        ...
