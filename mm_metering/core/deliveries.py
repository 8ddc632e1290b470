"""One event on its way to one endpoint, and how an endpoint does; pure.

``settled`` is the whole state machine: a delivery, its endpoint and what an attempt came to make the two that follow,
and the notices that go out with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from pydantic import Field

from mm_metering.core.collecting import Notice, NoticeType
from mm_metering.core.event_types import is_wanted, told
from mm_metering.core.identity import derived_id
from mm_metering.core.invoices import Value

DeliveryState: TypeAlias = Literal["pending", "delivered", "dead"]
Why: TypeAlias = Literal["", "by hand", "gone", "failing"]

SCHEDULE: Final[tuple[timedelta, ...]] = (
    timedelta(0),
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""How long after the one before each attempt is; after the last failed one the delivery is dead."""
JITTER: Final = 0.1
MAX_RETRY_AFTER: Final = timedelta(hours=24)
THROTTLE: Final = timedelta(minutes=1)
"""How long an endpoint that asks for less, and does not say for how long, is left alone."""
POSTPONED: Final = timedelta(minutes=1)
WARNED_AFTER: Final = timedelta(days=1)
DISABLED_AFTER: Final = timedelta(days=5)
KEPT_ATTEMPTS: Final = 20
GONE: Final = 410
SLOW_DOWN: Final = frozenset({429, 502, 504})


class Sealed(Value):
    """A secret as it is stored. ``until``: when it is live no more."""

    text: str = Field(repr=False)
    until: datetime | None = None


class EndpointRow(Value):
    """Where a tenant's events go.

    events           filters; ``*``, a type, or a group such as ``invoice.*``
    secrets          the newest first; at most two are live
    why_disabled     "by hand", "gone" (it answered 410) or "failing"
    failing_since    since when there was nothing but failures
    warned           whether somebody was told of that
    throttled_until  it asked for less until then
    revision         rises with each change
    """

    id: str
    tenant: str
    url: str = Field(repr=False)
    events: tuple[str, ...]
    created_at: datetime
    secrets: tuple[Sealed, ...]
    enabled: bool = True
    why_disabled: Why = ""
    failing_since: datetime | None = None
    warned: bool = False
    throttled_until: datetime | None = None
    revision: int = 1

    @property
    def was_switched_off(self) -> bool:
        """By the house, and not by somebody's hand."""
        return self.why_disabled in ("gone", "failing")

    def live(self, now: datetime) -> tuple[Sealed, ...]:
        """The secrets that sign now."""
        return tuple(each for each in self.secrets if each.until is None or now < each.until)

    def changed(self, **changes: Any) -> EndpointRow:
        return self.model_copy(update={**changes, "revision": self.revision + 1})


class Attempt(Value):
    """One request. ``status`` None: no answer. ``error`` says why it failed, as where a 2xx did not end in time.
    ``excerpt``: the answer's first kilobyte."""

    at: datetime
    status: int | None = None
    error: str = ""
    took_ms: int = 0
    excerpt: str = Field(default="", repr=False)

    @property
    def succeeded(self) -> bool:
        return not self.error and self.status is not None and 200 <= self.status < 300


class Delivery(Value):
    """One event on its way to one endpoint.

    event        its ``webhook-id``: the same in every attempt, and at every endpoint
    notice       what it tells, in the outbox
    occurred_at  when that happened
    next_at      when it is tried next; None: it is not
    tries        failed attempts since it was sent, or sent again
    claim        rises with each attempt that is begun: only the last one's answer counts
    attempts     the last 20
    """

    id: str
    tenant: str
    endpoint: str
    event: str
    notice: str
    type: str
    occurred_at: datetime
    state: DeliveryState = "pending"
    next_at: datetime | None = None
    tries: int = 0
    claim: int = 0
    attempts: tuple[Attempt, ...] = ()


class Result(NamedTuple):
    """What an attempt came to. ``attempt`` None: it could not be made, through no fault of the endpoint, and is put
    off by ``retry_after``, which else is what the endpoint asks for."""

    delivery: str
    claim: int
    at: datetime
    attempt: Attempt | None
    retry_after: timedelta | None = None


class Settled(NamedTuple):
    delivery: Delivery
    endpoint: EndpointRow
    notices: tuple[Notice, ...] = ()


def webhook_id(notice_id: str) -> str:
    """The ``webhook-id`` of what a notice tells."""
    return derived_id("msg", notice_id)


def delivery_of(notice: Notice, endpoint: EndpointRow, now: datetime) -> Delivery:
    """The same one, however often it is made."""
    return Delivery(
        id=derived_id("dlv", notice.id, endpoint.id),
        tenant=endpoint.tenant,
        endpoint=endpoint.id,
        event=webhook_id(notice.id),
        notice=notice.id,
        type=told(notice.type, notice.data).type,
        occurred_at=notice.made_at,
        next_at=now,
    )


def deliveries_of(notice: Notice, endpoints: Iterable[EndpointRow], now: datetime) -> list[Delivery]:
    """One for each enabled endpoint that wants what the notice tells, and was there when it happened."""
    there = [each for each in endpoints if each.enabled and each.created_at <= notice.made_at]
    return [delivery_of(notice, each, now) for each in there if wants(each, notice)]


def wants(endpoint: EndpointRow, notice: Notice) -> bool:
    """Its own troubles it is not told."""
    name, data = told(notice.type, notice.data)
    is_own = name.startswith("endpoint.") and data.get("endpoint") == endpoint.id
    return is_wanted(endpoint.events, name) and not is_own


def settled(delivery: Delivery, endpoint: EndpointRow, result: Result) -> Settled:
    """What follows from an attempt."""
    attempt, now = result.attempt, result.at
    if attempt is None:
        wait = POSTPONED if result.retry_after is None else result.retry_after
        return Settled(_with(delivery, next_at=now + wait), endpoint)
    delivery = _with(delivery, attempts=(*delivery.attempts, attempt)[-KEPT_ATTEMPTS:])
    if attempt.succeeded:
        return Settled(_with(delivery, state="delivered", next_at=None), _well(endpoint))
    wait = min(max(result.retry_after or timedelta(0), timedelta(0)), MAX_RETRY_AFTER)
    endpoint, notices = _ill(endpoint, attempt, wait, now)
    tries = delivery.tries + 1
    if tries >= len(SCHEDULE) or not endpoint.enabled:
        return Settled(_with(delivery, state="dead", tries=tries, next_at=None), endpoint, notices)
    next_at = now + max(pause(delivery.id, tries), wait)
    return Settled(_with(delivery, tries=tries, next_at=next_at), endpoint, notices)


def pause(delivery_id: str, tries: int) -> timedelta:
    """How long after so many failed attempts the next one is: its own share of the jitter, the same each time."""
    share = int.from_bytes(sha256(f"{delivery_id}:{tries}".encode()).digest()[:8]) / 2**64
    return SCHEDULE[tries] * (1 - JITTER + 2 * JITTER * share)


def disabled(endpoint: EndpointRow, why: Why) -> EndpointRow:
    return endpoint.changed(enabled=False, why_disabled=why)


def enabled(endpoint: EndpointRow) -> EndpointRow:
    """With a clean record."""
    clean = {"failing_since": None, "warned": False, "throttled_until": None}
    return endpoint.changed(enabled=True, why_disabled="", **clean)


def _well(endpoint: EndpointRow) -> EndpointRow:
    if endpoint.failing_since is None:
        return endpoint
    return endpoint.changed(failing_since=None, warned=False, throttled_until=None)


def _ill(
    endpoint: EndpointRow, attempt: Attempt, wait: timedelta, now: datetime
) -> tuple[EndpointRow, tuple[Notice, ...]]:
    since = endpoint.failing_since or now
    if not endpoint.enabled:
        return endpoint, ()
    if attempt.status == GONE or now - since >= DISABLED_AFTER:
        why: Why = "gone" if attempt.status == GONE else "failing"
        off = disabled(endpoint.changed(failing_since=since), why)
        return off, (_notice("endpoint.disabled", off, now, {"reason": why}),)
    changes: dict[str, Any] = {}
    if endpoint.failing_since is None:
        changes["failing_since"] = since
    if attempt.status in SLOW_DOWN or wait:
        until = now + (wait or THROTTLE)
        changes["throttled_until"] = max(until, endpoint.throttled_until or until)
    if now - since >= WARNED_AFTER and not endpoint.warned:
        ill = endpoint.changed(**changes, warned=True)
        return ill, (_notice("endpoint.failing", ill, now, {}),)
    return (endpoint.changed(**changes) if changes else endpoint), ()


def _notice(type_: NoticeType, endpoint: EndpointRow, now: datetime, more: dict[str, str]) -> Notice:
    since = endpoint.failing_since or now
    place = "/".join(endpoint.url.split("?")[0].split("/")[:3])  # what comes behind may be a secret
    data = {"endpoint": endpoint.id, "url": place, "failing_since": f"{since:%Y-%m-%dT%H:%M:%SZ}", **more}
    return Notice(derived_id("note", endpoint.id, endpoint.revision, type_), endpoint.tenant, type_, data, now)


def _with(delivery: Delivery, **changes: Any) -> Delivery:
    return delivery.model_copy(update=changes)
