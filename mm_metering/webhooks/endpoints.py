"""``metering.webhooks``: where tenants want to hear of events, what was sent to them, and sending it again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from pydantic import Field

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.privacy import secret_place
from mm_metering.backends.webhooks import Claimed
from mm_metering.clock import Clock
from mm_metering.core import deliveries
from mm_metering.core.audit import Act
from mm_metering.core.audited import endpoint_changed
from mm_metering.core.cards import refuse_card
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Attempt, Delivery, DeliveryState, EndpointRow, Sealed, webhook_id
from mm_metering.core.event_types import (
    EVENT_TYPES,
    EventType,
    Fields,
    event_name,
    filters,
    known_type,
)
from mm_metering.core.events import aware
from mm_metering.core.identity import derived_id, event_id, tenant_id
from mm_metering.core.invoices import Value
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import refuse_forgotten
from mm_metering.errors import ChangedMeanwhile, EventConflict, InvalidInput, NotFound, WrongState
from mm_metering.gate.acting import WORKER, act_now
from mm_metering.gate.keyring import Keyring
from mm_metering.telemetry.measures import Measures
from mm_metering.vault import Vault
from mm_metering.webhooks.dispatcher import Dispatcher
from mm_metering.webhooks.guard import Rules, check_url
from mm_metering.webhooks.messages import body_of, checked_data
from mm_metering.webhooks.sender import send
from mm_metering.webhooks.signing import checked_secret, new_secret

KEEP_OLD_SECRET: Final = timedelta(hours=24)
MOST_TRIES: Final = 5
PAGE: Final = 500
MAX_PAGE: Final = 1000

Change = Callable[[EndpointRow], EndpointRow]


class Endpoint(Value):
    """``secret`` is there where it was made, and never again. ``why_disabled``: "by hand", "gone" (it answered 410) or
    "failing" (nothing but failures for five days); ``failing_since``: since when there was nothing but failures."""

    id: str
    tenant: str
    url: str = Field(repr=False)
    events: tuple[str, ...]
    enabled: bool
    why_disabled: str
    failing_since: datetime | None
    created_at: datetime
    secret: str | None = Field(default=None, repr=False)


class SentEvent(Value):
    """``id`` is its ``webhook-id`` at every endpoint."""

    id: str
    tenant: str
    type: str
    occurred_at: datetime


class Webhooks:
    """Each call may name a ``tenant``: what is another's is then not found."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Clock,
        vault: Vault,
        keyring: Keyring,
        rules: Rules,
        startup: Callable[[], Awaitable[None]],
        check_plan: Callable[[str], Awaitable[None]],
        record: Callable[[Claimed], Awaitable[None]],
        new_id: Callable[[], str],
        measures: Measures | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._vault = vault
        self._keyring = keyring
        self._rules = rules
        self._startup = startup
        self._check_plan = check_plan
        self._new_id = new_id
        self._types = dict(EVENT_TYPES)
        self.dispatcher: Dispatcher = Dispatcher(
            ledger,
            clock=clock,
            post=partial(send, rules=rules),
            secrets=lambda row, now: [vault.open(each.text, secret_place(row.id)) for each in row.live(now)],
            body=lambda notice: body_of(notice, self._types),
            keyring=keyring,
            record=record,
            act=partial(act_now, clock, new_id, actor=WORKER),
            measures=measures,
        )

    # -- event types --------------------------------------------------------------------------------------------------

    @property
    def event_types(self) -> Mapping[str, EventType]:
        """By name; each has its ``version``, ``doc`` and JSON ``schema``."""
        return dict(self._types)

    def add_event_type(self, name: str, doc: str, fields: Fields | None = None, *, version: int = 1) -> EventType:
        """A type of the host's own, such as ``report.finished``. ``fields`` of its data, each with its JSON Schema."""
        if name in EVENT_TYPES:
            raise InvalidInput("type", f"{name!r} is one of the house's own")
        self._types[name] = EventType(event_name(name), doc, fields or {}, version, of_host=True)
        return self._types[name]

    # -- endpoints ----------------------------------------------------------------------------------------------------

    async def create_endpoint(
        self, tenant: str, url: str, events: Iterable[str] = ("*",), *, secret: str | None = None
    ) -> Endpoint:
        """The endpoint, with its secret, which is shown this once. ``events``: types, groups such as ``invoice.*``, or
        ``*``. FeatureNotInPlan where the plan has no webhooks, UrlRefused for a URL that is never called."""
        await self._startup()
        owner, wanted = await self._owner(tenant), filters(events, self._types)
        await self._check_plan(owner)
        _check_url(url, self._rules)
        shown, name = checked_secret(secret) if secret else new_secret(), f"ep_{self._new_id()}"
        row = EndpointRow(
            id=name,
            tenant=owner,
            url=url,
            events=wanted,
            created_at=self._clock.now(),
            secrets=(Sealed(text=self._vault.seal(shown, secret_place(name))),),
        )
        created = endpoint_changed(None, row, "created", self._act())
        await self._ledger.put_endpoint(row, instead_of=None, audit=[created])
        return _shown(row, shown)

    async def list_endpoints(self, tenant: str) -> list[Endpoint]:
        await self._startup()
        return [_shown(each) for each in await self._ledger.endpoints(tenant_id(tenant))]

    async def get_endpoint(self, endpoint_id: str, *, tenant: str | None = None) -> Endpoint:
        return _shown(await self._row(endpoint_id, tenant))

    async def update_endpoint(
        self,
        endpoint_id: str,
        *,
        tenant: str | None = None,
        url: str | None = None,
        events: Iterable[str] | None = None,
        enabled: bool | None = None,
    ) -> Endpoint:
        """None leaves a value as it is. Enabling it, or another URL, begins with a clean record; what it missed is sent
        by ``recover``."""
        changes: dict[str, Any] = {}
        if url is not None:
            _check_url(url, self._rules)
            changes["url"] = url
        if events is not None:
            changes["events"] = filters(events, self._types)

        def change(row: EndpointRow) -> EndpointRow:
            after = row.changed(**changes)
            if enabled is False and row.enabled:
                return deliveries.disabled(after, "by hand")
            return deliveries.enabled(after) if enabled or (url is not None and row.enabled) else after

        return _shown(await self._change(endpoint_id, tenant, "updated", change))

    async def disable_endpoint(self, endpoint_id: str, *, tenant: str | None = None) -> Endpoint:
        """Nothing is sent to it any more; what waited for it is dead until ``recover``."""
        return await self.update_endpoint(endpoint_id, tenant=tenant, enabled=False)

    async def rotate_secret(
        self, endpoint_id: str, *, tenant: str | None = None, secret: str | None = None, keep: timedelta | None = None
    ) -> Endpoint:
        """With a new secret, which is shown this once. Both sign for as long as the old one is kept: 24 hours unless
        ``keep`` says otherwise. Of two that were live the older ends now."""
        shown, now = checked_secret(secret) if secret else new_secret(), self._clock.now()
        until = now + (KEEP_OLD_SECRET if keep is None else max(keep, timedelta(0)))

        def change(row: EndpointRow) -> EndpointRow:
            old = row.secrets[0].model_copy(update={"until": until})
            return row.changed(secrets=(Sealed(text=self._vault.seal(shown, secret_place(row.id))), old))

        return _shown(await self._change(endpoint_id, tenant, "secret rotated", change), shown)

    async def test_endpoint(self, endpoint_id: str, *, tenant: str | None = None) -> Attempt:
        """Sends an ``endpoint.test`` now, once, also to one that is disabled, and waits for the answer. It is neither
        kept nor metered."""
        row, name = await self._row(endpoint_id, tenant), f"test_{self._new_id()}"
        notice = Notice(name, row.tenant, "endpoint.test", {"endpoint": row.id}, self._clock.now())
        attempt, _ = await self.dispatcher.attempt(row, notice, webhook_id(name))
        return attempt

    # -- events and deliveries ----------------------------------------------------------------------------------------

    async def send_event(self, tenant: str, type: str, data: Mapping[str, Any], *, id: str | None = None) -> SentEvent:
        """Tells an event to each endpoint of the tenant that wants it: at least once, in no promised order. ``data`` is
        JSON of at most 20 kB. With an ``id`` it is one event however often this is called; EventConflict for other
        data. A delivery of it is metered once, as ``webhook_delivery``."""
        await self._startup()
        owner, name, checked = await self._owner(tenant), known_type(type, self._types).name, checked_data(data)
        own = f"evt_{self._new_id()}" if id is None else derived_id("evt", owner, event_id(id))
        notice = Notice(own, owner, name, checked, self._clock.now(), "host")
        if not await self._ledger.put_notice(await self._keyring.sealed_notice(notice)):
            found = await self._ledger.notice(own)
            stands = notice if found is None else await self._keyring.opened_notice(found)
            if (stands.type, stands.data) != (name, checked):
                raise EventConflict(f"the event {str(id)[:60]!r} was sent before with other data; that one stays")
            notice = stands
        self.dispatcher.wake()
        return SentEvent(id=webhook_id(own), tenant=owner, type=name, occurred_at=notice.made_at)

    async def list_deliveries(
        self,
        tenant: str,
        *,
        endpoint: str | None = None,
        state: DeliveryState | None = None,
        before: Delivery | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        """The newest first; ``before``: the last of the page before. Those of the last 30 days."""
        await self._startup()
        past = None if before is None else (micros(before.occurred_at), before.id)
        chosen: dict[str, Any] = {"endpoint": endpoint, "state": state, "before": past}
        page = await self._ledger.deliveries(tenant_id(tenant), **chosen, limit=max(1, min(limit, MAX_PAGE)))
        return [await self._keyring.opened_delivery(each) for each in page]

    async def get_delivery(self, delivery_id: str, *, tenant: str | None = None) -> Delivery:
        await self._startup()
        found = await self._ledger.delivery(delivery_id)
        if found is None or tenant not in (None, found.tenant):
            raise NotFound(f"there is no delivery {str(delivery_id)[:60]!r}")
        return await self._keyring.opened_delivery(found)

    async def resend(self, delivery_id: str, *, tenant: str | None = None) -> Delivery:
        """Sends one again now, whatever became of it, under the same ``webhook-id``."""
        found = await self.get_delivery(delivery_id, tenant=tenant)
        await self._enabled(found.endpoint, None)
        now_due = found.model_copy(update={"next_at": self._clock.now()})
        await self._ledger.open_deliveries([now_due], again=True, act=self._act())
        self.dispatcher.wake()
        return await self.get_delivery(delivery_id)

    async def recover(self, endpoint_id: str, since: datetime | str, *, tenant: str | None = None) -> int:
        """Sends what happened since then and did not reach the endpoint: dead deliveries, and what it missed while it
        was disabled or not there. How many."""
        return await self._again(endpoint_id, tenant, since, None, again=False)

    async def replay(
        self, endpoint_id: str, start: datetime | str, end: datetime | str, *, tenant: str | None = None
    ) -> int:
        """Sends all that happened in [start, end) and that the endpoint wants, also what was delivered. How many."""
        return await self._again(endpoint_id, tenant, start, end, again=True)

    async def deliver(self) -> int:
        """What the worker does continuously: sends all that is due now, and waits for it; how many attempts."""
        await self._startup()
        return await self.dispatcher.drain()

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _again(
        self, endpoint_id: str, tenant: str | None, start: datetime | str, end: datetime | str | None, *, again: bool
    ) -> int:
        row, now = await self._enabled(endpoint_id, tenant), self._clock.now()
        start_us = micros(_instant(start, "start"))
        end_us = micros(now) + 1 if end is None else micros(_instant(end, "end"))
        after, opened = None, 0
        while page := await self._ledger.notices_of(
            row.tenant, start_us=start_us, end_us=end_us, after=after, limit=PAGE
        ):
            wanted = [deliveries.delivery_of(each, row, now) for each in page if deliveries.wants(row, each)]
            opened += await self._ledger.open_deliveries(wanted, again=again, act=self._act())
            after = (micros(page[-1].made_at), page[-1].id)
        self.dispatcher.wake()
        return opened

    async def _owner(self, tenant: str) -> str:
        """Its id; WrongState if it was forgotten."""
        row = await self._ledger.tenant(tenant_id(tenant))
        if row is not None:
            refuse_forgotten(row)
        return tenant

    async def _row(self, endpoint_id: str, tenant: str | None) -> EndpointRow:
        await self._startup()
        found = await self._ledger.endpoint(endpoint_id)
        if found is None or tenant not in (None, found.tenant):
            raise NotFound(f"there is no endpoint {str(endpoint_id)[:60]!r}")
        return found

    async def _enabled(self, endpoint_id: str, tenant: str | None) -> EndpointRow:
        row = await self._row(endpoint_id, tenant)
        if not row.enabled:
            raise WrongState(f"endpoint {row.id} is disabled ({row.why_disabled}); enable it first", state="disabled")
        return row

    async def _change(self, endpoint_id: str, tenant: str | None, action: str, change: Change) -> EndpointRow:
        for _ in range(MOST_TRIES):
            before = await self._row(endpoint_id, tenant)
            after = change(before)
            audit = [endpoint_changed(before, after, action, self._act())]
            if await self._ledger.put_endpoint(after, instead_of=before, audit=audit):
                return after
        raise ChangedMeanwhile(f"endpoint {endpoint_id} keeps changing; ask again", state="changing")

    def _act(self) -> Act:
        return act_now(self._clock, self._new_id)


def _shown(row: EndpointRow, secret: str | None = None) -> Endpoint:
    names = ("id", "tenant", "url", "events", "enabled", "why_disabled", "failing_since", "created_at")
    return Endpoint(**{name: getattr(row, name) for name in names}, secret=secret)


def _check_url(url: str, rules: Rules) -> None:
    check_url(url, rules)
    refuse_card(url, "url")


def _instant(value: datetime | str, field: str) -> datetime:
    return aware(value, field).astimezone(UTC)
