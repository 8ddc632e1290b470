"""Other terms than the ledger's, for the time of a test: which plan a tenant's view is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, TypeAlias

from mm_metering.core.catalogue import Catalogue, Plan
from mm_metering.core.catalogue_layout import overridden

Limits: TypeAlias = Mapping[str, Any]
_numbers: Final = count(1)


@dataclass(frozen=True, slots=True)
class Terms:
    """Which plan all tenants are on. ``limits`` by meter: a number, None for unlimited, or limits as a plan has them.
    ``is_unlimited``: nothing is limited, and no state of a subscription refuses. ``number`` tells it from all others.
    """

    catalogue: Catalogue
    plan: str | None = None
    limits: Limits = field(default_factory=dict)
    is_unlimited: bool = False
    number: int = field(default_factory=_numbers.__next__)

    def __post_init__(self) -> None:
        """CatalogueError or InvalidEvent for what a plans file may not say either."""
        plans = self.catalogue.plans.values() if self.plan is None else [self.catalogue.plan(self.plan)]
        for plan in plans:
            self._limited(plan)

    def of(self, plan: Plan | None) -> Plan | None:
        """The plan instead of that one; None limits nothing."""
        if self.is_unlimited:
            return None
        plan = plan if self.plan is None else self.catalogue.plan(self.plan)
        return plan and self._limited(plan)

    def _limited(self, plan: Plan) -> Plan:
        quotas = {meter: self._limit(plan, meter, most) for meter, most in self.limits.items()}
        return overridden(plan, {"quotas": quotas}, meters=self.catalogue.meters) if quotas else plan

    def _limit(self, plan: Plan, meter: str, most: object) -> object:
        """A number is one per the longest window that the plan has for the meter, per month if it has none."""
        if type(most) is not int:
            return most
        if self.catalogue.meter(meter).aggregation == "level":
            return {"limit": most}
        windows = [limit.window.value for limit in plan.quotas.get(meter, ()) if not limit.is_rate]
        return {"limit": most, "per": windows[-1] if windows else "month"}


def overruled(terms: Sequence[Terms], plan: Plan | None, label: str) -> tuple[Plan | None, str]:
    """The plan under all of these terms, one after the other, and a label that no other plan has."""
    for each in terms:
        plan, label = each.of(plan), f"{label} under {each.number}"
    return plan, label
