"""What the ledger keeps of webhooks that go out: tenants' endpoints, and each event on its way to each of them.

What is told stands in the outbox (``backends/collecting``), written in one transaction with the change that it tells.
From there it is made into deliveries once, in one transaction with the mark that it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mm_metering.core.audit import Act, AuditEntry
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Delivery, DeliveryState, EndpointRow, Result
from mm_metering.errors import InvalidInput

FAN_OUT_PAGE = 500
"""Most notices of one ``fan_out``."""
MAX_ENDPOINTS = 50
"""Of one tenant."""
SCAN = 1000
"""Most due deliveries that one ``claim_deliveries`` looks at."""


class Claimed(NamedTuple):
    """A delivery that is to be attempted, with all that this takes."""

    delivery: Delivery
    endpoint: EndpointRow
    notice: Notice


class Outgoing(Protocol):
    """A part of the ``Ledger`` law. Each method is one transaction."""

    async def put_endpoint(
        self, endpoint: EndpointRow, *, instead_of: EndpointRow | None, audit: Sequence[AuditEntry] = ()
    ) -> bool:
        """Stores it if the one that stands has the revision of ``instead_of`` (None: if there is none); False, and
        nothing is written, otherwise. The deliveries that wait for one that is not enabled are dead. A tenant has
        MAX_ENDPOINTS at most: InvalidInput."""
        ...

    async def endpoint(self, endpoint_id: str) -> EndpointRow | None: ...

    async def endpoints(self, tenant: str) -> list[EndpointRow]:
        """In the order in which they were created."""
        ...

    async def put_notice(self, notice: Notice) -> bool:
        """Puts a host's notice into the outbox, for webhooks alone; False, and nothing is changed, if one of that id is
        there."""
        ...

    async def notice(self, notice_id: str) -> Notice | None: ...

    async def fan_out(self, now_us: int) -> int:
        """Makes the deliveries of notices that have none yet: one for each enabled endpoint of the tenant that wants
        the type and was there when it happened, due now. How many notices; each is taken once, by whoever comes
        first."""
        ...

    async def claim_deliveries(
        self, now_us: int, *, until_us: int, busy: Sequence[str], per_endpoint: int, limit: int
    ) -> list[Claimed]:
        """The longest due deliveries of enabled endpoints that are not throttled and not ``busy``: ``limit`` at most,
        and ``per_endpoint`` of each; of one that fails, one. They are due again at ``until_us``, under a higher claim,
        unless they are settled."""
        ...

    async def settle_deliveries(self, results: Sequence[Result], *, act: Act | None = None) -> int:
        """Writes what follows from attempts (``deliveries.settled``), with its notices; how many counted: not those
        whose delivery was claimed again, or sent again."""
        ...

    async def open_deliveries(self, deliveries: Sequence[Delivery], *, again: bool, act: Act | None = None) -> int:
        """Makes those due at their ``next_at``, as if never tried, that are not there or dead; with ``again`` whatever
        their state. How many."""
        ...

    async def delivery(self, delivery_id: str) -> Delivery | None: ...

    async def deliveries(
        self,
        tenant: str,
        *,
        endpoint: str | None = None,
        state: DeliveryState | None = None,
        before: tuple[int, str] | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        """A page, the newest first: those before (occurred_us, id)."""
        ...

    async def notices_of(
        self, tenant: str, *, start_us: int, end_us: int, after: tuple[int, str] | None = None, limit: int = 500
    ) -> list[Notice]:
        """What happened in [start, end), in order of (made_us, id) and past ``after``."""
        ...

    async def forget_deliveries(self, *, before_us: int) -> int:
        """Deletes those of what happened before then; how many."""
        ...


def refuse_more(count: int) -> None:
    """InvalidInput where a tenant has all the endpoints that it may have."""
    if count >= MAX_ENDPOINTS:
        raise InvalidInput("endpoint", f"{count} of {MAX_ENDPOINTS} are there already; update one that is not used")
