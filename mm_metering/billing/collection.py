"""The billing run: finalized invoices to the payment provider, paid there, and what follows where that fails.

Owns: the order of steps, each of which may be done again after a crash: what is to be done is written first, with the
key under which the provider does it once; then it is asked; then its answer is written, in one transaction with the
invoice, the tenant's subscription, the notices and the audit entry.
Does not own: what an invoice says (``invoices``), how often is tried (``core.dunning``), the provider (``adapter``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, get_args

from opentelemetry.trace import SpanKind

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.collecting import PARKED, PROVIDER_REFUSED
from mm_metering.backends.ledger import Ledger
from mm_metering.billing.adapter import BillingAdapter, BillingInvoice, Seen, WebhookAdapter
from mm_metering.billing.items import items_of_invoice
from mm_metering.clock import Clock
from mm_metering.core import books, collecting
from mm_metering.core.audit import Act
from mm_metering.core.audited import audited
from mm_metering.core.books import Account, Entries
from mm_metering.core.collecting import Collection, Moved, Standing
from mm_metering.core.dunning import Dunning
from mm_metering.core.invoices import Invoice
from mm_metering.core.lifecycles import ACTIVE, INVOICE, PAST_DUE, PAYMENT_EVENTS, UNPAID
from mm_metering.core.periods import micros
from mm_metering.core.timeline import StateChange
from mm_metering.errors import (
    ActionRequired,
    CardDeclined,
    InvalidRequest,
    NoPaymentMethod,
    NotFound,
    ProviderRateLimited,
    ProviderRefused,
    ProviderUnavailable,
    WrongState,
)
from mm_metering.gate.acting import act_now
from mm_metering.gate.gate import Gate
from mm_metering.telemetry.instruments import PAYMENTS
from mm_metering.telemetry.measures import Measures

log: Final = logging.getLogger("mm_metering.worker")

AT_ONCE: Final = 8
"""Invoices on their way at the same time."""
PAGE: Final = 200
MOST_STEPS: Final = 8
"""Of one collection in one run: it needs four."""

Step = Callable[[Collection], Moved]
Progress = Callable[[int], None]


@dataclass(slots=True)
class BillingRun:
    """What a run did: collections by what became of them ("paid", "failing", …), and how many the provider did not
    answer for. ``stopped``: why it ended early."""

    done: int = 0
    became: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    stopped: str = ""


class Collector:
    """What is decided for a collection is decided on how it stands in the ledger then, so two may run at once."""

    def __init__(
        self,
        adapter: BillingAdapter,
        ledger: Ledger,
        gate: Gate,
        *,
        clock: Clock,
        dunning: Dunning,
        new_id: Callable[[], str],
        sends: bool = True,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        measures: Measures | None = None,
    ) -> None:
        measures = measures or Measures()
        self._spans = measures.spans
        self._became = measures.tally(PAYMENTS)
        self._became.begin(*get_args(collecting.CollectionState))
        self._adapter = adapter
        self._ledger = ledger
        self._gate = gate
        self._clock = clock
        self._dunning = dunning
        self._new_id = new_id
        self._sends = sends
        self._sleep = sleep

    async def run(self, progress: Progress = lambda _: None) -> BillingRun:
        """Everything that is due now. It ends early where the provider takes no call, and says why. Nothing is, unless
        our invoices are ``sends``: else the provider makes its own."""
        if not self._sends:
            return BillingRun()
        run, limit, seen = BillingRun(), asyncio.Semaphore(AT_ONCE), set[str]()

        async def one(each: Collection) -> None:
            async with limit:
                if not run.stopped:
                    await self._carry_on(each, run)
                    run.done += 1
                    progress(run.done)

        await self._begin()
        while not run.stopped:
            due = await self._ledger.collections_due(micros(self._clock.now()), limit=PAGE)
            fresh = [each for each in due if each.invoice not in seen]
            if not fresh:
                break
            seen |= {each.invoice for each in fresh}
            for outcome in await asyncio.gather(*map(one, fresh), return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
        if not run.stopped and seen:
            await self._ledger.close_alert(PROVIDER_REFUSED, "", now_us=micros(self._clock.now()))
        return run

    async def _begin(self) -> None:
        """A collection for each finalized invoice that has none."""
        while invoices := await self._ledger.uncollected(limit=PAGE):
            for invoice in invoices:
                begun = collecting.begin(invoice, self._clock.now())

                def decide(account: Account, begun: Collection = begun) -> Entries:
                    known = any(each.invoice == begun.invoice for each in account.collections)
                    return Entries() if known else Entries(collections=(begun,))

                await self._ledger.book([invoice.tenant], Wanted(collections=True), audited(decide, self._act(None)))

    async def _carry_on(self, each: Collection, run: BillingRun) -> None:
        """Step after step, as long as something is due."""
        for _ in range(MOST_STEPS):
            if each.next_at is None or each.next_at > self._clock.now():
                break
            try:
                each = await self._step(each)
            except ProviderRefused as error:
                run.stopped = str(error)
                await self._alert(PROVIDER_REFUSED, "", str(error))
                return
            except ProviderRateLimited as error:
                run.unanswered += 1
                await self._sleep(error.retry_after_s)
                await self._move(each, lambda now_is: collecting.rested(now_is, self._clock.now()))
                return
            except ProviderUnavailable as error:
                run.unanswered += 1
                log.warning("invoice %s waits: %s", each.invoice, error)
                await self._move(each, lambda now_is: collecting.rested(now_is, self._clock.now()))
                return
            except InvalidRequest as error:
                each = await self._park(each, str(error))
                break
        run.became[each.state] += 1

    async def _step(self, each: Collection) -> Collection:
        """The one thing that is to be done next."""
        invoice = await self._ledger.invoice(each.invoice)
        if invoice is None:
            raise NotFound(f"there is no invoice {each.invoice}")
        if invoice.status in ("paid", "void"):
            return await self._withdraw(each)
        if invoice.status == "uncollectible":
            return await (self._rest(each) if each.state == "uncollectible" else self._give_up(each))
        if invoice.amount_due != each.amount:
            return await self._reissue(each, invoice)
        if each.amount <= 0:
            return await self._paid(each)
        return await self._timed(each) or await self._asked(each, invoice)

    async def _timed(self, each: Collection) -> Collection | None:
        """What time alone makes of it, if anything."""
        now = self._clock.now()
        if each.gives_up_at is not None and each.gives_up_at <= now and each.suspended:
            return await self._give_up(each)
        if each.suspends_at is not None and each.suspends_at <= now and not each.suspended:
            return await self._move(each, collecting.suspended)
        return None

    async def _asked(self, each: Collection, invoice: Invoice) -> Collection:
        """What is to be asked of the provider."""
        if each.state == "parked":
            return await self._rest(each)
        if each.provider_invoice is None:
            return await self._issue(each, invoice)
        return await self._pay(each)

    # -- steps at the provider ----------------------------------------------------------------------------------------

    async def _issue(self, each: Collection, invoice: Invoice) -> Collection:
        customer = await self._ledger.payer(each.tenant)
        if customer is None:
            raise InvalidRequest(f"tenant {each.tenant!r} has no customer at the provider any more; create_customer")
        with self._spans.around("invoice create", {}, kind=SpanKind.CLIENT):
            made = await self._adapter.create_invoice(
                customer, items=items_of_invoice(invoice, each.amount), idempotency_key=each.key
            )
        now = self._clock.now()
        moved = await self._move(each, lambda now_is: collecting.issued(now_is, made.id, now))
        return await self._paid(moved) if made.status == "paid" else moved

    async def _pay(self, each: Collection) -> Collection:
        assert each.provider_invoice is not None
        if each.is_pending:
            return await self.follow(each, await self._adapter.get_invoice(each.provider_invoice), "")
        asked = await self._move(each, lambda now_is: collecting.attempting(now_is, self._clock.now()))
        attempt = asked.unanswered
        if attempt is None:
            return asked
        found: BillingInvoice | None
        try:
            with self._spans.around("invoice pay", {}, kind=SpanKind.CLIENT):
                found = await self._adapter.pay_invoice(each.provider_invoice, idempotency_key=attempt.key)
        except CardDeclined as error:
            return await self._declined(asked, error.decline_code, is_final=error.is_final)
        except NoPaymentMethod:
            return await self._declined(asked, "no_payment_method")
        except ActionRequired:
            method = await self._method_of(asked.tenant)
            return await self._answer(asked, lambda e, now: collecting.to_confirm(e, now, self._dunning, method=method))
        except InvalidRequest:
            found = await self._adapter.get_invoice(each.provider_invoice)
            if found is None or found.status == "open":
                raise
        if found.status == "open":
            return await self._answer(asked, collecting.pending)
        return await self.follow(asked, found, "")

    async def _declined(self, each: Collection, code: str, *, is_final: bool = False) -> Collection:
        method = await self._method_of(each.tenant)
        return await self._answer(
            each, lambda e, now: collecting.declined(e, code, now, self._dunning, method=method, is_final=is_final)
        )

    async def _method_of(self, tenant: str) -> str:
        """The way to pay that is asked, where the provider tells."""
        customer = await self._ledger.payer(tenant)
        if customer is None or not isinstance(self._adapter, WebhookAdapter):
            return ""
        return (await self._adapter.look("customer", customer)).default_method

    async def _answer(self, each: Collection, change: Callable[[Collection, datetime], Moved]) -> Collection:
        """Writes what the provider said to the attempt, unless somebody else has."""
        number, now = len(each.attempts), self._clock.now()

        def answered(now_is: Collection) -> Moved:
            is_open = len(now_is.attempts) == number and now_is.unanswered is not None
            return change(now_is, now) if is_open else Moved(now_is)

        return await self._move(each, answered)

    async def _paid(self, each: Collection) -> Collection:
        return await self._move(each, lambda now_is: collecting.paid(now_is, self._clock.now()))

    async def _rest(self, each: Collection) -> Collection:
        return await self._move(each, collecting.at_rest)

    async def _withdraw(self, each: Collection) -> Collection:
        """Paid or void here: it is not to be asked for there."""
        if each.provider_invoice is not None:
            found = await self._adapter.get_invoice(each.provider_invoice)
            if found is not None and found.status in ("draft", "open"):
                await self._adapter.void_invoice(each.provider_invoice)
        return await self._move(each, collecting.withdrawn)

    async def _give_up(self, each: Collection) -> Collection:
        return await self._move(each, lambda now_is: collecting.given_up(now_is, self._clock.now()))

    async def _reissue(self, each: Collection, invoice: Invoice) -> Collection:
        """Another amount is due: what was asked for is voided first, unless it was paid meanwhile."""
        if each.provider_invoice is not None:
            found = await self._adapter.get_invoice(each.provider_invoice)
            if found is not None and found.status == "paid":
                return await self._paid(each)
            if found is not None and found.status != "void":
                await self._adapter.void_invoice(each.provider_invoice)
        now = self._clock.now()
        return await self._move(each, lambda now_is: collecting.reissued(now_is, invoice.amount_due, now))

    async def _park(self, each: Collection, why: str) -> Collection:
        await self._alert(PARKED, each.invoice, why)
        log.error("invoice %s is parked: %s", each.invoice, why)
        return await self._move(each, lambda now_is: collecting.parked(now_is, why))

    # -- what the provider says ---------------------------------------------------------------------------------------

    async def heard(self, seen: Seen, *, actor: str | None = None) -> None:
        """Follows what the provider says an object is now, in whatever order it is asked. ``actor``: the provider's
        event that says so, if one does."""
        if seen.invoice is not None:
            known = await self._ledger.collection_at(seen.invoice.id)
            if known is not None:
                await self.follow(known, seen.invoice, seen.decline, actor=actor)
        customer = seen.customer_id
        tenant = customer and await self._ledger.paid_for(customer)
        if not tenant:
            return
        if seen.is_gone:
            await self._ledger.unlink_payer(tenant, act=self._act(actor))
            await self._alert(PARKED, tenant, f"the customer {customer} was deleted at the provider; nobody pays now")
            return
        if seen.default_method:
            await self.hurry(tenant, seen.default_method, actor=actor)

    async def hurry(self, tenant: str, method: str, *, actor: str | None) -> None:
        """What failed with another way to pay is tried now. A customer changes for many reasons, a failed payment among
        them: the same card is not asked before its day."""
        for each in await self._ledger.collections(tenant=tenant, limit=PAGE):
            if each.state in ("failing", "confirming") and each.method != method:
                await self._move(each, lambda now_is: collecting.hurried(now_is, self._clock.now()), actor=actor)

    async def retry(self, invoice_id: str) -> Collection:
        """By hand, also what is parked. NotFound for an invoice that is not collected."""
        known = await self._ledger.collection(invoice_id)
        if known is None:
            raise NotFound(f"invoice {invoice_id} is not on its way to a payment provider")
        now = self._clock.now()
        await self._ledger.close_alert(PARKED, invoice_id, now_us=micros(now))
        return await self._move(known, lambda now_is: collecting.hurried(now_is, now), asked="payment asked for again")

    async def follow(
        self, each: Collection, found: BillingInvoice | None, decline: str, *, actor: str | None = None
    ) -> Collection:
        """Makes of it what its invoice at the provider is."""
        now = self._clock.now()
        method = await self._method_of(each.tenant) if decline else ""

        def change(now_is: Collection) -> Moved:
            if found is None or now_is.provider_invoice != found.id or now_is.state in collecting.FINAL:
                return Moved(now_is)
            match found.status:
                case "paid":
                    return collecting.paid(now_is, now)
                case "void":
                    return collecting.withdrawn(now_is)
                case "uncollectible" if now_is.state != "uncollectible":
                    return collecting.given_up(now_is, now)
                case "open" if decline and now_is.state == "open" and now_is.unanswered is None:
                    return collecting.declined(now_is, decline, now, self._dunning, method=method)
                case "open" if now_is.is_pending:
                    return collecting.pending(now_is, now)
            return Moved(now_is)

        return await self._move(each, change, actor=actor)

    async def stand(self, tenant: str, standing: Standing, *, because: str, actor: str) -> None:
        """A tenant whose payment the provider alone decides stands like that."""
        now, changed = self._clock.now(), [False]

        def decide(account: Account) -> Entries:
            entries = _standing_entries(account, standing, because, now)
            changed[0] = entries.change is not None
            return entries

        await self._ledger.book([tenant], Wanted(), audited(decide, self._act(actor, because)))
        if changed[0]:
            await self._announce(tenant)

    # -- writing ------------------------------------------------------------------------------------------------------

    async def _move(self, each: Collection, change: Step, *, actor: str | None = None, asked: str = "") -> Collection:
        """Decides on the collection as it stands, and writes all that follows together. ``asked``: what somebody wants,
        for the audit log."""
        now, after, changed, act = self._clock.now(), [each], [False], self._act(actor)
        moved_to = [""]

        def decide(account: Account) -> Entries:
            known = next((one for one in account.collections if one.invoice == each.invoice), None)
            if known is None:
                return Entries()
            try:
                moved, notices = change(known)
            except WrongState:  # another process was first
                moved, notices = known, ()
            after[0] = moved
            moved_to[0] = moved.state if moved.state != known.state else ""
            if moved == known:
                return Entries()
            others = [one for one in account.collections if one.invoice != each.invoice]
            standing, entries = collecting.standing([*others, moved]), Entries()
            if standing != collecting.standing(account.collections):
                entries = _standing_entries(account, standing, moved.invoice, now)
            changed[0] = entries.change is not None
            return replace(
                entries,
                collections=(moved,),
                notices=(*notices, *entries.notices),
                audit=(act.did(asked, moved.tenant, moved.invoice),) if asked else (),
                invoices=_settled(account, moved, now),
            )

        wanted = Wanted(periods=(each.period,), collections=True)
        await self._ledger.book([each.tenant], wanted, audited(decide, act))
        if moved_to[0]:
            self._became.add(moved_to[0])
        if changed[0]:
            await self._announce(each.tenant)
        return after[0]

    async def _announce(self, tenant: str) -> None:
        if (row := await self._ledger.tenant(tenant)) is not None:
            await self._gate.changed(row, keep=True)

    def _act(self, actor: str | None, reason: str = "") -> Act:
        return act_now(self._clock, self._new_id, actor=actor, reason=reason)

    async def _alert(self, kind: str, subject: str, detail: str) -> None:
        await self._ledger.raise_alert(kind, subject, detail=detail[:500], now_us=micros(self._clock.now()))


def _settled(account: Account, moved: Collection, now: datetime) -> tuple[Invoice, ...]:
    """Our own invoice, where it is paid or given up with the collection."""
    event = {"paid": "pay", "uncollectible": "give up"}.get(moved.state)
    stored = next((each for each in account.invoices if each.id == moved.invoice), None)
    if event is None or stored is None or event not in INVOICE.moves[stored.status]:
        return ()
    return books.settle(account, moved.invoice, event, now=now)[1].invoices


def _standing_entries(account: Account, after: Standing, because: str, now: datetime) -> Entries:
    """The tenant's subscription follows, where its state is one that payment decides."""
    now_us = micros(now)
    status = account.tenant.segment_at(now_us).status
    target = {"paid": ACTIVE, "past_due": PAST_DUE, "unpaid": UNPAID}[after]
    if status == target or status not in (ACTIVE, PAST_DUE, UNPAID):
        return Entries()
    if now_us < account.tenant.segments[0].starts_us:
        return Entries()
    return Entries(
        change=StateChange(now_us, PAYMENT_EVENTS[after]),
        notices=(collecting.standing_notice(account.tenant.id, after, because, now),),
    )
