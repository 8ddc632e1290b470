"""What becomes of a finalized invoice at the payment provider, step by step; pure.

Each function takes a ``Collection`` and returns the one that follows, with the notices that go out with it. Every step
can be decided again after a crash, from what was written and what the provider says then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

from mm_metering.core.cards import masked
from mm_metering.core.dunning import Dunning
from mm_metering.core.identity import derived_id
from mm_metering.core.invoices import Invoice, Value
from mm_metering.core.lifecycles import COLLECTION
from mm_metering.core.money import Money, plain
from mm_metering.core.periods import from_micros
from mm_metering.core.tenancy import TenantRow, plan_name

CollectionState: TypeAlias = Literal["open", "failing", "confirming", "parked", "paid", "void", "uncollectible"]
Outcome: TypeAlias = Literal["paid", "declined", "confirm", "pending", "refused"]
Standing: TypeAlias = Literal["paid", "past_due", "unpaid"]
NoticeType: TypeAlias = Literal[
    "payment.succeeded",
    "payment.failed",
    "payment.action_required",
    "subscription.past_due",
    "subscription.suspended",
    "subscription.recovered",
    "invoice.uncollectible",
    "quota.warning",
    "quota.exceeded",
    "overage.started",
    "budget.warning",
    "budget.exceeded",
    "budget.forecast",
    "usage.spike",
    "model.unpriced",
    "alert.test",
    "worker.lag",
    "journal.waiting",
    "counters.drift",
    "billing.invoice_created",
    "invoice.finalized",
    "subscription.updated",
    "endpoint.failing",
    "endpoint.disabled",
]

FINAL: Final = frozenset({"paid", "void"})
PENDING_LOOK: Final = timedelta(days=1)
"""How often a payment on its way is looked at."""
FIRST_REST: Final = timedelta(minutes=5)
"""After a step that the provider did not answer; twice as long after each further one."""
MOST_REST: Final = timedelta(hours=6)
_STANDINGS: Final[tuple[Standing, ...]] = ("paid", "past_due", "unpaid")
_STANDING_NOTICES: Final[Mapping[Standing, NoticeType]] = {
    "paid": "subscription.recovered",
    "past_due": "subscription.past_due",
    "unpaid": "subscription.suspended",
}


class Attempt(Value):
    """One payment that was asked for. ``key`` was stored before, so that it is asked once; ``outcome`` is None until
    its answer was."""

    number: int
    key: str
    started_at: datetime
    outcome: Outcome | None = None
    code: str = ""


class Collection(Value):
    """An invoice on its way to be paid.

    amount             what is asked for: the invoice's amount due
    issue              counts up where the provider's invoice is made anew, for another amount
    due_at             when the next step is; None: something must happen first
    failed_at          the first failure; suspends_at and gives_up_at follow from it
    method             the way to pay that failed last: only another one is asked before its day
    tries              steps in a row that the provider did not answer
    note               why it is parked
    """

    invoice: str
    tenant: str
    period: str
    currency: str
    amount: Money
    state: CollectionState = "open"
    issue: int = 1
    provider_invoice: str | None = None
    attempts: tuple[Attempt, ...] = ()
    due_at: datetime | None = None
    failed_at: datetime | None = None
    method: str = ""
    suspends_at: datetime | None = None
    gives_up_at: datetime | None = None
    suspended: bool = False
    tries: int = 0
    note: str = ""

    @property
    def key(self) -> str:
        """With which its invoice is made at the provider, once."""
        return f"{self.invoice}:{self.issue}"

    @property
    def unanswered(self) -> Attempt | None:
        """The attempt whose answer is not known."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].outcome is None else None

    @property
    def is_pending(self) -> bool:
        """Whether a payment is on its way."""
        return self.state == "open" and bool(self.attempts) and self.attempts[-1].outcome == "pending"

    @property
    def next_at(self) -> datetime | None:
        """When something is to be done about it by itself."""
        if self.state in (*FINAL, "uncollectible"):
            return self.due_at
        times = (self.due_at, None if self.suspended else self.suspends_at, self.gives_up_at)
        return min((each for each in times if each is not None), default=None)

    @property
    def standing(self) -> Standing:
        """What it makes of its tenant."""
        if self.state in FINAL:
            return "paid"
        if self.suspended:
            return "unpaid"
        return "past_due" if self.failed_at is not None and self.state != "uncollectible" else "paid"


class Notice(NamedTuple):
    """Something that others may want to hear of. The same one has the same ``id`` wherever it is made; ``data`` is
    JSON. ``type``: a NoticeType where the house is its ``source``; a host's notices go to webhooks alone."""

    id: str
    tenant: str
    type: str
    data: Mapping[str, Any]
    made_at: datetime
    source: Literal["house", "host"] = "house"

    def __repr__(self) -> str:
        """Without the data, which may be personal."""
        return f"Notice({self.id!r}, {self.tenant!r}, {self.type!r})"


class Moved(NamedTuple):
    collection: Collection
    notices: tuple[Notice, ...] = ()


def begin(invoice: Invoice, now: datetime) -> Collection:
    return Collection(
        invoice=invoice.id,
        tenant=invoice.tenant,
        period=invoice.period,
        currency=invoice.currency,
        amount=invoice.amount_due,
        due_at=now,
    )


def issued(each: Collection, provider_invoice: str, now: datetime) -> Moved:
    """It is at the provider; it is to be paid now."""
    return Moved(_with(each, provider_invoice=provider_invoice, due_at=now, tries=0))


def attempting(each: Collection, now: datetime) -> Moved:
    """With an attempt whose key is known before it is asked for."""
    if each.unanswered is not None:
        return Moved(each)
    number = len(each.attempts) + 1
    attempt = Attempt(number=number, key=f"{each.key}:pay:{number}", started_at=now)
    return Moved(_with(each, attempts=(*each.attempts, attempt)))


def paid(each: Collection, now: datetime) -> Moved:
    moved = _happened(each, "pay", "paid", due_at=None)
    data = {"amount": plain(each.amount), "currency": each.currency}
    return Moved(moved, (_notice(moved, "payment.succeeded", now, data),))


def declined(
    each: Collection, code: str, now: datetime, dunning: Dunning, *, method: str = "", is_final: bool = False
) -> Moved:
    """Tried again on the days of the schedule, but not with a card that is final."""
    failed_at = each.failed_at or now
    retry_at = None if is_final else dunning.retry_at(failed_at, now)
    moved = _failed(_happened(each, "fail", "declined", code=code, due_at=retry_at), failed_at, dunning, method)
    data = {
        "attempt": len(each.attempts),
        "decline_code": code,
        "next_attempt_at": _text(retry_at),
        "suspends_at": _text(moved.suspends_at),
    }
    return Moved(moved, (_notice(moved, "payment.failed", now, data),))


def to_confirm(each: Collection, now: datetime, dunning: Dunning, *, method: str = "") -> Moved:
    """The customer must do something; the days count as after a failure."""
    moved = _failed(_happened(each, "confirm", "confirm", due_at=None), each.failed_at or now, dunning, method)
    data = {"attempt": len(each.attempts), "suspends_at": _text(moved.suspends_at)}
    return Moved(moved, (_notice(moved, "payment.action_required", now, data),))


def pending(each: Collection, now: datetime) -> Moved:
    """The bank takes its time; the provider will say how it went."""
    return Moved(_with(_answered(each, "pending"), due_at=now + PENDING_LOOK, tries=0))


def parked(each: Collection, note: str) -> Moved:
    """Somebody must look: asking again as it is would be of no use."""
    return Moved(_happened(each, "park", "refused", note=masked(note), due_at=None))


def withdrawn(each: Collection) -> Moved:
    """The invoice is not to be paid through the provider any more."""
    return Moved(_happened(each, "void", "refused", due_at=None))


def given_up(each: Collection, now: datetime) -> Moved:
    """Left uncollected for good. A tenant that was suspended stays so, until it is paid after all."""
    moved = _happened(each, "give up", "refused", due_at=None)
    data = {"amount": plain(each.amount), "currency": each.currency}
    return Moved(moved, (_notice(moved, "invoice.uncollectible", now, data),))


def suspended(each: Collection) -> Moved:
    return Moved(_with(each, suspended=True))


def reissued(each: Collection, amount: Decimal, now: datetime) -> Moved:
    """To be made anew at the provider, since another amount is due."""
    return Moved(_with(each, amount=amount, issue=each.issue + 1, provider_invoice=None, due_at=now, tries=0))


def hurried(each: Collection, now: datetime) -> Moved:
    """There is a new way to pay, or somebody has mended what it was parked for: tried again now."""
    if each.state == "parked":
        return Moved(_with(each, state=COLLECTION.after("parked", "retry", name=each.invoice), note="", due_at=now))
    if each.state in ("failing", "confirming"):
        return Moved(_with(each, due_at=now))
    return Moved(each)


def at_rest(each: Collection) -> Moved:
    """There is nothing to do about it."""
    return Moved(_with(each, due_at=None))


def touched(each: Collection, now: datetime) -> Moved:
    """Its invoice has changed: to be looked at."""
    return Moved(each if each.state in FINAL else _with(each, due_at=now))


def rested(each: Collection, now: datetime) -> Moved:
    """The provider did not answer: later, ever less often."""
    rest = min(FIRST_REST * 2 ** min(each.tries, 10), MOST_REST)
    return Moved(_with(each, due_at=now + rest, tries=each.tries + 1))


# -- tenants ----------------------------------------------------------------------------------------------------------


def standing(collections: Iterable[Collection]) -> Standing:
    """The worst that one of them makes of the tenant."""
    return max((each.standing for each in collections), key=_STANDINGS.index, default="paid")


def standing_notice(tenant: str, now_standing: Standing, because: str, now: datetime) -> Notice:
    """``because``: the invoice, or the provider's subscription, that made it so. It goes out after what caused it."""
    return Notice(
        derived_id("note", tenant, because, now_standing, _text(now)),
        tenant,
        _STANDING_NOTICES[now_standing],
        {"because": because},
        now + timedelta(microseconds=1),
    )


def changed_notice(row: TenantRow, at_us: int, now_us: int) -> Notice:
    """That a host changed a tenant's timeline: what holds from ``at_us`` on. One per revision."""
    segment = row.segment_at(at_us)
    data = {
        "status": segment.status,
        "plan": plan_name(segment.plan),
        "because": "host",
        "at": _text(from_micros(at_us)),
    }
    name = derived_id("note", "subscription", row.id, row.revision)
    return Notice(name, row.id, "subscription.updated", data, from_micros(now_us))


# -- inside -----------------------------------------------------------------------------------------------------------


def _with(each: Collection, **changes: Any) -> Collection:
    return each.model_copy(update=changes)


def _happened(each: Collection, event: str, outcome: Outcome, *, code: str = "", **changes: Any) -> Collection:
    state = cast(CollectionState, COLLECTION.after(each.state, event, name=each.invoice))
    return _with(_answered(each, outcome, code), state=state, tries=0, **changes)


def _answered(each: Collection, outcome: Outcome, code: str = "") -> Collection:
    """The last attempt's answer, if it has none yet or was on its way."""
    if not each.attempts or each.attempts[-1].outcome not in (None, "pending"):
        return each
    last = each.attempts[-1].model_copy(update={"outcome": outcome, "code": code})
    return _with(each, attempts=(*each.attempts[:-1], last))


def _failed(each: Collection, failed_at: datetime, dunning: Dunning, method: str) -> Collection:
    return _with(
        each,
        failed_at=failed_at,
        method=method,
        suspends_at=dunning.suspends_at(failed_at),
        gives_up_at=dunning.gives_up_at(failed_at),
    )


def _notice(each: Collection, type_: NoticeType, now: datetime, data: Mapping[str, Any]) -> Notice:
    told = {"invoice": each.invoice, "period": each.period, **data}
    return Notice(derived_id("note", each.key, len(each.attempts), type_), each.tenant, type_, told, now)


def _text(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"
