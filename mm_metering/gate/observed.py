"""What decisions come to, for whoever watches: sums of this process, and attributes of the current span.

A take that fits adds to cells that were found when its wishes were prepared; all else is seldom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from mm_metering.core.decision import Decision
from mm_metering.core.facts import Fact
from mm_metering.core.limits import State
from mm_metering.gate.admission import policy_name
from mm_metering.telemetry.instruments import DECISIONS, TAKEN_BACK, TENANT_DECISIONS, TENANT_USAGE, USAGE
from mm_metering.telemetry.measures import Measures
from mm_metering.telemetry.spans import COST, DECISION, PLAN, POLICY, REASON
from mm_metering.telemetry.tallies import Cell
from mm_metering.telemetry.tenants import TenantNames

if TYPE_CHECKING:
    from mm_metering.gate.tenants import View
    from mm_metering.gate.windows import Prepared

ALLOWED, OVERAGE, DEGRADED, REFUSED, UNAVAILABLE = "allowed", "overage", "degraded", "refused", "unavailable"
COUNTED: Final = frozenset({"use", "close"})
"""The kinds of facts that are usage; the others are levels, holds and what takes back."""


class Tallied(NamedTuple):
    """Where a set of wishes counts if it fits, and what a span then says."""

    allowed: Cell
    usage: tuple[tuple[Cell, int], ...]
    attributes: Mapping[str, str | int]


NOWHERE: Final = Tallied(Cell(), (), {})
"""For plans that nobody takes under: those of a simulation."""


class Observed:
    """``money``: the meters whose amounts are no units."""

    def __init__(self, measures: Measures, *, money: frozenset[str]) -> None:
        self._money = money
        self._decisions = measures.tally(DECISIONS)
        self._usage = measures.tally(USAGE)
        self._taken_back = measures.tally(TAKEN_BACK)
        self._routes = measures.routes
        self._spans = measures.spans
        self._of_tenants = _OfTenants(measures) if measures.options.tells_tenants else None

    def tallied(self, plan: str, facts: Sequence[Fact]) -> Tallied:
        """Of a plan's takes of these facts."""
        usage = tuple((self._usage.cell(meter, plan, route), n) for meter, route, n in self._amounts(facts))
        costs = Counter[str]()
        for fact in facts:
            for meter, _, amount in fact.counts:
                costs[COST + meter] += amount
        return Tallied(self._decisions.cell(ALLOWED, "", "", plan), usage, {DECISION: ALLOWED, PLAN: plan, **costs})

    def granted(self, view: View, asked: Prepared, states: Sequence[State]) -> None:
        tallied = asked.tallied
        attributes = tallied.attributes
        over = [policy for order, policy in asked.charged if states[order].used > policy.limit] if asked.charged else ()
        if over:
            policy = policy_name(over[0].meter, over[0].window)
            self._decisions.add(OVERAGE, "", policy, view.plan)
            attributes = {**attributes, DECISION: OVERAGE, POLICY: policy}
        else:
            tallied.allowed.n += 1
        for cell, amount in tallied.usage:
            cell.n += amount
        if self._of_tenants is not None:
            self._of_tenants.add(view.tenant, OVERAGE if over else ALLOWED, self._amounts(asked.facts))
        self._spans.tell(view.tenant, attributes)

    def held(self, view: View) -> None:
        """A reservation: what it uses is counted when it is closed."""
        self._decide(view, ALLOWED)

    def degraded(self, view: View, facts: Sequence[Fact]) -> None:
        """Allowed without the counters."""
        self._decide(view, DEGRADED)
        self.posted(view, facts)

    def unavailable(self, view: View) -> None:
        self._decide(view, UNAVAILABLE)

    def refused(self, tenant: str, plan: str, decision: Decision) -> None:
        policy, reason = policy_name(decision.meter, decision.window), decision.reason or ""
        self._decisions.add(REFUSED, reason, policy, plan)
        if self._of_tenants is not None:
            self._of_tenants.add(tenant, REFUSED)
        self._spans.tell(tenant, {DECISION: REFUSED, PLAN: plan, POLICY: policy, REASON: reason})

    def posted(self, view: View, facts: Iterable[Fact]) -> None:
        amounts = [*self._amounts(facts)]
        for meter, route, amount in amounts:
            self._usage.add(meter, view.plan, route, n=amount)
        if self._of_tenants is not None:
            self._of_tenants.add(view.tenant, "", amounts)

    def taken_back(self, view: View, facts: Iterable[Fact]) -> None:
        for meter, _, amount in self._amounts(facts):
            self._taken_back.add(meter, view.plan, n=amount)

    def _decide(self, view: View, decision: str) -> None:
        self._decisions.add(decision, "", "", view.plan)
        if self._of_tenants is not None:
            self._of_tenants.add(view.tenant, decision)
        self._spans.tell(view.tenant, {DECISION: decision, PLAN: view.plan})

    def _amounts(self, facts: Iterable[Fact]) -> Iterator[tuple[str, str, int]]:
        """Meter, route and units. Other resources are not told: a model, an export, a path that the host records."""
        for fact in facts:
            if fact.kind in COUNTED:
                route = fact.resource if fact.resource in self._routes else ""
                for meter, scope, amount in fact.counts:
                    if not scope and meter not in self._money:
                        yield meter, route, amount


class _OfTenants:
    """The same by tenant, where the host wants that."""

    def __init__(self, measures: Measures) -> None:
        self._names = TenantNames(measures.options)
        self._decisions = measures.tally(TENANT_DECISIONS)
        self._usage = measures.tally(TENANT_USAGE)
        measures.before_read(self._names.choose)

    def add(self, tenant: str, decision: str, amounts: Iterable[tuple[str, str, int]] = ()) -> None:
        label = self._names.label(tenant)
        if decision:
            self._decisions.add(label, decision)
        for meter, _, amount in amounts:
            self._usage.add(label, meter, n=amount)
