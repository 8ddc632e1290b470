"""Limits: what is taken, looked at and given back before or while it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from datetime import datetime
from typing import Any

from mm_metering.core.decision import Decision
from mm_metering.core.events import whole_quantity
from mm_metering.core.identity import tenant_id
from mm_metering.errors import InvalidInput, UnknownTenant
from mm_metering.gate.admission import Admission, Wish
from mm_metering.gate.explaining import RequestExplanation, explained
from mm_metering.gate.refusals import raise_if_refused
from mm_metering.metering.house import House
from mm_metering.middleware.listing import Met, met
from mm_metering.middleware.matches import Costs


class Limiting(House):
    """What may be refused, and levels."""

    # -- what the middleware and the decorators call

    def take(self, tenant: str, wishes: Sequence[Wish]) -> Coroutine[Any, Any, Admission]:
        """Counts all wishes or none."""
        return self.gate.take(tenant, wishes) if self._open else self._take_when_open(tenant, wishes)

    async def _take_when_open(self, tenant: str, wishes: Sequence[Wish]) -> Admission:
        await self.startup()
        return await self.gate.take(tenant, wishes)

    async def reverse(self, admission: Admission, *, meters: Collection[str] | None = None) -> None:
        """Takes back what an admission counted, in these meters or in all."""
        await self.gate.reverse(admission, meters=meters)

    async def add(self, tenant: str, wishes: Sequence[Wish]) -> None:
        """States that this was used: never refused for a quota."""
        await self.startup()
        await self.gate.add(tenant, wishes)

    def add_soon(self, tenant: str, wishes: Sequence[Wish]) -> None:
        """The same from code that cannot wait: done when ``flush`` or ``shutdown`` returns."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.from_sync(lambda: self.add(tenant, wishes))
        else:
            self._keep(self.add(tenant, wishes))

    # -- by hand

    async def check_limit(self, tenant: str, meter: str, quantity: int = 1, *, resource: str | None = None) -> Decision:
        """Whether ``quantity`` more of a meter would be allowed now. Truthy if so; consumes nothing."""
        return await self._decide(tenant, meter, quantity, resource, look=True)

    async def enforce_quota(
        self, tenant: str, meter: str, quantity: int = 1, *, resource: str | None = None
    ) -> Decision:
        """Consumes ``quantity`` of a meter, or raises the Refused that fits (QuotaExceeded, BudgetExceeded,
        FeatureNotInPlan) and consumes nothing. A level goes up; ``release`` takes off again."""
        decision = await self._decide(tenant, meter, quantity, resource, look=False)
        raise_if_refused((decision,), self.clock.now())
        return decision

    async def _decide(self, tenant: str, meter: str, quantity: int, resource: str | None, *, look: bool) -> Decision:
        await self.startup()
        wish = Wish("", resource or "", whole_quantity(quantity), meter=self.catalogue.meter(meter).name)
        admission = await self.gate.take(tenant, (wish,), look=look)
        return admission.on(meter, quantity)

    async def release(self, tenant: str, meter: str, quantity: int = 1) -> None:
        """Takes ``quantity`` off a level such as users; it never falls below 0."""
        await self.startup()
        await self._recorder.release(tenant, meter, quantity)

    async def set_level(
        self, tenant: str, meter: str, value: int, *, resource: str | None = None, occurred_at: datetime | None = None
    ) -> None:
        """States a level as it is, 0 to 2**40. Never refused; a statement older than the last changes nothing now."""
        await self.startup()
        await self._recorder.set_level(tenant, meter, value, resource=resource, occurred_at=occurred_at)

    # -- why

    async def explain_request(
        self, tenant: str, *, route: str | None = None, meter: str | None = None, quantity: int = 1
    ) -> RequestExplanation:
        """Why a request would be allowed or refused now: each limit with its numbers and a sentence. Truthy if allowed;
        it consumes nothing, and makes no tenant.

        ``route``, such as "POST /v1/reports", is what that uses, times ``quantity``; ``meter`` so many of one meter;
        neither: so many of each meter that has a limit. InvalidInput for both or a route that no app has.
        """
        if route is not None and meter is not None:
            raise InvalidInput("route", "or meter may be named, and not both")
        await self.startup()
        if await self.ledger.tenant(tenant_id(tenant)) is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known; put_tenant or its first request makes it")
        at = None if route is None else met(self._hosts, route)
        groups = self._groups(at, meter, whole_quantity(quantity))
        looks = [await self.gate.take(tenant, wishes, look=True) for wishes in groups]
        return explained(tenant, looks, now=self.clock.now(), asked=self._asked(groups), at=at)

    def _groups(self, at: Met | None, meter: str | None, quantity: int) -> Sequence[tuple[Wish, ...]]:
        """What is looked at together: a route's wishes, else each meter by itself."""
        if at is not None:
            return [tuple(each._replace(quantity=each.quantity * quantity) for each in at.wishes)]
        names = [self.catalogue.meter(meter).name] if meter else [*self.catalogue.meters]
        return [(Wish("", "", quantity, meter=name),) for name in names]

    def _asked(self, groups: Sequence[tuple[Wish, ...]]) -> dict[str, int]:
        by_meter, costs = dict[str, int](), Costs(self.catalogue)
        for wishes in groups:
            by_meter = costs.by_meter(wishes) | by_meter
        return by_meter
