"""Invoices from the ledger: previews, closed months, and what becomes of them. Preview and close are one code path."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.billing.change_preview import ChangePreview, changed_account
from mm_metering.clock import Clock
from mm_metering.core import books, collecting
from mm_metering.core.audit import Act
from mm_metering.core.audited import audited
from mm_metering.core.books import Account, Entries, Rules
from mm_metering.core.cards import refuse_card
from mm_metering.core.events import aware, whole_quantity
from mm_metering.core.facts import Fact
from mm_metering.core.identity import tenant_id
from mm_metering.core.inputs import Inputs
from mm_metering.core.invoices import (
    Adjustment,
    BilledFact,
    CreditGrant,
    CreditKind,
    CreditNote,
    CreditScope,
    Discount,
    DiscountScope,
    Explanation,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
    Tax,
)
from mm_metering.core.lifecycles import INVOICE
from mm_metering.core.money import Amount, exact, minor_unit, non_negative, plain
from mm_metering.core.periods import (
    from_micros,
    later_period,
    local_day,
    micros,
    parse_period,
    period_of,
    zone,
)
from mm_metering.core.rating import Terms
from mm_metering.core.tenancy import TenantRow, plan_name, with_change
from mm_metering.core.timeline import Change
from mm_metering.errors import (
    InvalidInput,
    InvalidMoney,
    NotFound,
    PeriodNotOver,
    StoreUnavailable,
    UnknownTenant,
    WrongState,
)
from mm_metering.gate.acting import act_now
from mm_metering.gate.plans import PlanBook

if TYPE_CHECKING:
    from mm_metering.billing.documents import Party

T = TypeVar("T")
DocumentForm: TypeAlias = Literal["html", "pdf", "csv", "json"]
TaxService: TypeAlias = Callable[[Invoice], Sequence[Tax] | Awaitable[Sequence[Tax]]]
"""Given a draft without tax: the taxes on it."""
Progress: TypeAlias = Callable[[int], None]
"""Told how many tenants are done."""

Taxes: TypeAlias = Sequence[Tax] | None
IsDue: TypeAlias = Callable[[Account, Terms], bool]
Taxed: TypeAlias = tuple[Invoice, Sequence[Tax]]
"""A draft without tax, and the taxes on it."""

AT_ONCE: Final = 100
"""Tenants that are closed in one transaction."""
PAGE: Final = 1000
ALL: Final = 2**62
TRIES: Final = 5
"""How often a tenant's taxes are asked for again because its usage has changed meanwhile."""
MADE: Final = (
    *("id", "tenant", "period", "issue", "currency", "lines"),
    *("subtotal", "tax", "credits_applied", "total", "carried_over", "credits"),
)
"""What of an invoice follows from its inputs."""
MAX_REASON: Final = 500
SETTLING: Final[Mapping[str, str]] = {"paid": "pay", "uncollectible": "give up"}
"""What happens to an invoice that is said to be that now."""


class InvoiceProof(NamedTuple):
    """How many invoices were made anew, and the ids of those that came to something else than what is stored."""

    invoices: int
    differ: tuple[str, ...]


class Invoices:
    """What a tenant owes for calendar months in its zone."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        rules: Rules,
        plans: PlanBook,
        clock: Clock,
        new_id: Callable[[], str],
        tax: TaxService | None = None,
    ) -> None:
        self._ledger = ledger
        self._rules = rules
        self._plans = plans
        self._clock = clock
        self._new_id = new_id
        self._tax = tax

    # -- months -------------------------------------------------------------------------------------------------------

    async def preview(self, tenant: str, period: str | None) -> Invoice:
        """The month's invoice as it stands: usage so far, the whole month's fees. ``period`` is "2024-01"; None, the
        month that is now. A month that was invoiced: what was invoiced."""
        row = await self._row(tenant)
        terms = await self._plans.of(row)
        period = period or period_of(local_day(self._clock.now(), terms.zone), row.anchor_day)
        account = await self._account(row.id, period)
        newest = account.newest(period)
        if newest is not None and newest.status not in ("draft", "void"):
            return newest
        return await self._drafted(account, period)

    async def _drafted(self, account: Account, period: str) -> Invoice:
        terms = await self._plans.of(account.tenant)
        taxes = await self._taxes(account, terms, period)
        return books.inputs(account, terms, period, self._rules, taxes=taxes).draft(terms.plans)

    async def preview_change(self, tenant: str, change: Change) -> ChangePreview:
        """InvalidInput and WrongState as the change itself."""
        row, now_us = await self._row(tenant), micros(self._clock.now())
        day = local_day(from_micros(max(change.at_us, now_us)), zone(row.timezone))
        period = period_of(day, row.anchor_day)
        account = await self._account(row.id, period)
        after = with_change(account.tenant, change)
        segment = after.segment_at(change.at_us)
        return ChangePreview(
            at=from_micros(change.at_us),
            plan=plan_name(segment.plan),
            status=segment.status,
            before=await self._drafted(account, period),
            after=await self._drafted(await changed_account(self._ledger, account, after, change.at_us), period),
        )

    async def close(
        self,
        period: str,
        tenant: str | None,
        progress: Progress,
        *,
        not_over: Callable[[str], None] = lambda _: None,
        by_itself: bool = False,
        anchored: bool = False,
    ) -> list[Invoice]:
        """Every tenant's invoice of the month, or one's: drafts until the grace is over, then finalized.

        PeriodNotOver if that month is not over for the tenant, or for any of them. Where zones differ, those are left
        out for whom it is not over yet, and told to ``not_over``: close the month again. ``by_itself`` leaves those out
        that nothing says we bill: they signed up before the month, used nothing in it, and have no invoice of the month
        before. ``anchored``: only those whose months begin on another day than the first.
        """
        parse_period(period)
        closed: dict[str, Invoice] = {}
        if tenant is None:
            closed = {each.tenant: each for each in await self.every(None, period, None, ALL) if books.is_billed(each)}
        waiting: list[str] = []
        seen = 0
        async for names in self._pages(tenant, anchored=anchored):
            rest = [name for name in names if name not in closed]
            closed |= await self._close(period, rest, waiting, by_itself=by_itself)
            seen += len(names)
            progress(seen)
        if waiting and not closed:
            raise books.still_runs(await self._row(waiting[0]), period)
        for name in waiting:
            not_over(name)
        return [closed[name] for name in sorted(closed)]

    async def close_last_month(self, today: datetime) -> None:
        """What the worker does daily. Those for whom the month is not over yet come tomorrow; months that begin later
        than the calendar's may end in this one."""
        for back in (2, 1):
            with suppress(PeriodNotOver):
                period = later_period(f"{today:%Y-%m}", -back)
                await self.close(period, None, lambda _: None, by_itself=True, anchored=back == 2)

    async def _pages(self, tenant: str | None, *, anchored: bool) -> AsyncIterator[list[str]]:
        if tenant is not None:
            yield [(await self._row(tenant)).id]
            return
        async for rows in tenant_pages(self._ledger, AT_ONCE):
            yield [row.id for row in rows if row.anchor_day > 1 or not anchored]

    async def _close(
        self, period: str, names: Sequence[str], waiting: list[str], *, by_itself: bool
    ) -> dict[str, Invoice]:
        now = self._clock.now()
        found: dict[str, Invoice] = {}
        early: set[str] = set()

        def decide(account: Account, terms: Terms, taxes: Taxes) -> Entries:
            name = account.tenant.id
            if terms.month(period).end > now:
                early.add(name)
                return Entries()
            currency = self._rules.currency
            if not books.is_billable(account, terms, period, currency=currency, by_itself=by_itself):
                return Entries()
            found[name], entries = books.close(account, terms, period, self._rules, now=now, taxes=taxes)
            return entries

        if names:
            await self._book(names, period, decide, now, by_itself=by_itself)
        waiting += sorted(early)
        return found

    async def finalize(self, invoice_id: str) -> Invoice:
        """By hand, also within the grace and where it waits for a review. WrongState unless it is a draft."""
        stored = await self.get(invoice_id)
        now, found = self._clock.now(), list[Invoice]()

        def decide(account: Account, terms: Terms, taxes: Taxes) -> Entries:
            invoice, entries = books.finalize(account, terms, invoice_id, self._rules, now=now, taxes=taxes)
            found.append(invoice)
            return entries

        await self._book([stored.tenant], stored.period, decide, now)
        return found[-1]

    async def _book(
        self,
        names: Sequence[str],
        period: str,
        decide: Callable[[Account, Terms, Taxes], Entries],
        now: datetime,
        *,
        by_itself: bool = False,
    ) -> None:
        """Books what is decided about the month, with the taxes on what the draft is then."""
        moved = ""
        for _ in range(TRIES):
            is_due = partial(books.is_due, period=period, now=now, currency=self._rules.currency, by_itself=by_itself)
            taxed = {name: await self._taxed(name, period, is_due) for name in names} if self._tax else {}

            def decided(account: Account, taxed: Mapping[str, Taxed | None] = taxed, is_due: IsDue = is_due) -> Entries:
                terms = self._plans.terms(account.tenant)
                if not all(map(terms.plan, (each for each in account.tenant.segments if each.plan))):
                    raise _Moved(f"a plan of {account.tenant.id!r} is not among the ledger's versions")
                return decide(
                    account, terms, self._taxes_of(taxed, account, terms, period) if is_due(account, terms) else None
                )

            try:
                await self._ledger.book(names, self._wanted(period), audited(decided, self._act()))
                return
            except _Moved as error:
                moved = str(error)
                await self._plans.refresh()
        raise StoreUnavailable(f"{period} is not closed: {moved}, {TRIES} times; try again. Nothing changed")

    # -- what is there ------------------------------------------------------------------------------------------------

    async def get(self, invoice_id: str, tenant: str | None = None) -> Invoice:
        """By its id or its number. NotFound also for one that is another tenant's, where ``tenant`` is who asks."""
        name = _an_id(invoice_id, "invoice_id")
        found = await self._ledger.invoice(name) or await self._ledger.invoice_numbered(name)
        if found is None or tenant not in (None, found.tenant):
            raise NotFound(f"there is no invoice {invoice_id!r}; list_invoices shows those that were closed")
        return found

    async def rerun(self, invoice_id: str) -> Invoice:
        """Made anew from what it was made of: equal to the stored one but for what has happened to it since."""
        stored = await self.get(invoice_id)
        packed = await self._ledger.invoice_inputs(stored.id)
        if packed is None:
            raise WrongState(f"invoice {invoice_id} is a draft: each close makes it anew", state=stored.status)
        basis = Inputs.unpack(packed)
        again = basis.draft((await self._plans.of(basis.tenant)).plans)
        return stored.model_copy(update={name: getattr(again, name) for name in MADE})

    async def every(
        self, tenant: str | None, period: str | None, status: InvoiceStatus | None, limit: int
    ) -> list[Invoice]:
        name = None if tenant is None else tenant_id(tenant)
        if period is not None:
            parse_period(period)
        if status is not None:
            _one_of(status, [*INVOICE.moves], "status")
        found: list[Invoice] = []
        if limit > 0:
            async for invoice in self._each(min(PAGE, limit), tenant=name, period=period, status=status):
                found.append(invoice)
                if len(found) >= limit:
                    break
        return found

    async def _each(self, page_size: int = PAGE, **which: Any) -> AsyncIterator[Invoice]:
        """In order of (period, tenant, issue)."""
        after = ("", "", 0)
        while page := await self._ledger.invoices(**which, after=after, limit=page_size):
            for invoice in page:
                yield invoice
            after = (page[-1].period, page[-1].tenant, page[-1].issue)

    async def prove(self, progress: Progress) -> InvoiceProof:
        """Makes each invoice anew that was finalized; ``progress`` hears how many are done."""
        seen, differ = 0, list[str]()
        async for invoice in self._each():
            if invoice.status != "draft":
                seen += 1
                if await self.rerun(invoice.id) != invoice:
                    differ.append(invoice.id)
                progress(seen)
        return InvoiceProof(seen, tuple(differ))

    async def document(
        self, invoice_id: str, form: DocumentForm, *, seller: Party | None, buyer: Party | None
    ) -> bytes:
        from mm_metering.billing import documents

        _one_of(form, get_args(DocumentForm), "form")
        invoice = await self.get(invoice_id)
        parties: dict[str, Any] = {"seller": seller, "buyer": buyer}
        timezone = (await self._row(invoice.tenant)).timezone
        match form:
            case "html":
                return documents.html(invoice, timezone=timezone, **parties).encode()
            case "pdf":
                return await asyncio.to_thread(documents.pdf, invoice, timezone=timezone, **parties)
            case "csv":
                return documents.csv([invoice]).encode()
            case "json":
                return invoice.model_dump_json(indent=2).encode()

    async def explain(self, line_id: str, tenant: str | None = None) -> Explanation:
        _, line = await self._line(line_id, tenant)
        if line.explanation is not None:
            return line.explanation
        return Explanation(windows=(), unit_price=line.unit_price, plan_version="", rounding=line.description, events=0)

    async def facts_of(
        self, line_id: str, after: tuple[datetime, str] | None, limit: int, tenant: str | None = None
    ) -> list[BilledFact]:
        """The facts in the windows of a line, in order of (occurred_at, id), past ``after``. Those that came after the
        invoice was finalized are in there too; a later invoice bills them."""
        invoice, line = await self._line(line_id, tenant)
        if line.explanation is None or line.meter is None:
            return []
        found: list[BilledFact] = []
        for start, end in sorted({(micros(each.start), micros(each.end)) for each in line.explanation.windows}):
            cursor = (start, "") if after is None else max((start, ""), (micros(after[0]), after[1]))
            while len(found) < limit:
                page = await self._ledger.facts(invoice.tenant, after=cursor, limit=PAGE)
                inside = [fact for fact in page if fact.occurred_us < end]
                found += _billed(inside, line)
                if len(inside) < PAGE:
                    break
                cursor = (inside[-1].occurred_us, inside[-1].id)
        return found[:limit]

    async def _line(self, line_id: str, tenant: str | None) -> tuple[Invoice, InvoiceLine]:
        invoice = await self._ledger.invoice_of_line(_an_id(line_id, "line_id"))
        if invoice is None or tenant not in (None, invoice.tenant):
            raise NotFound(f"no invoice that was closed has a line {line_id!r}")
        return invoice, next(line for line in invoice.lines if line.id == line_id)

    # -- afterwards ---------------------------------------------------------------------------------------------------

    async def void(self, invoice_id: str) -> Invoice:
        """Takes an unpaid invoice back; the month may be closed anew, under a new number. WrongState otherwise."""
        return await self._changed(invoice_id, lambda account, name, now: books.void(account, name, now=now))

    async def settle(self, invoice_id: str, status: Literal["paid", "uncollectible"]) -> Invoice:
        _one_of(status, [*SETTLING], "status")
        event = SETTLING[status]
        return await self._changed(invoice_id, lambda account, name, now: books.settle(account, name, event, now=now))

    async def credit(
        self, invoice_id: str, *, line_id: str | None, quantity: int | None, amount: Amount | None, reason: str
    ) -> CreditNote:
        wanted = None if amount is None else self._coins(amount, "amount")
        units = None if quantity is None else whole_quantity(quantity, least=1, field="quantity")
        why = _reason(reason)
        return await self._changed(
            invoice_id,
            lambda account, name, now: books.credit(
                account, name, line_id=line_id, quantity=units, amount=wanted, reason=why, now=now
            ),
        )

    async def _changed(self, invoice_id: str, change: Callable[[Account, str, datetime], tuple[T, Entries]]) -> T:
        stored = await self.get(invoice_id)
        now, found = self._clock.now(), list[T]()

        def decide(account: Account) -> Entries:
            value, entries = change(account, stored.id, now)
            found.append(value)
            return _with_collections(account, entries, now)

        wanted = Wanted(periods=(stored.period,), collections=True)
        await self._ledger.book([stored.tenant], wanted, audited(decide, self._act()))
        return found[-1]

    # -- what invoices take along -------------------------------------------------------------------------------------

    async def grant(
        self,
        tenant: str,
        amount: Amount,
        *,
        kind: CreditKind,
        priority: int,
        expires_at: datetime | str | None,
        applies_to: CreditScope,
        reason: str,
    ) -> CreditGrant:
        now, value = self._clock.now(), self._positive(amount, "amount")
        _one_of(kind, ("promo", "paid"), "kind")
        _one_of(applies_to, ("metered", "all"), "applies_to")
        order = whole_quantity(priority, least=0, field="priority")
        expires = None if expires_at is None else aware(expires_at, "expires_at")
        if expires is not None and expires <= now:
            raise InvalidInput("expires_at", f"{expires.isoformat()} is over already")
        grant = CreditGrant(
            id=f"cg_{self._new_id()}",
            tenant=tenant_id(tenant),
            currency=self._rules.currency,
            kind=kind,
            amount=value,
            remaining=value,
            priority=order,
            applies_to=applies_to,
            granted_at=now,
            expires_at=expires,
            reason=_reason(reason) if reason else "",
        )
        await self._put(grant.tenant, Entries(grants=(grant,)))
        return grant

    async def credits(self, tenant: str) -> list[CreditGrant]:
        return await self._ledger.grants(tenant_id(tenant))

    async def discount(
        self,
        tenant: str,
        *,
        percent: Amount | None,
        amount: Amount | None,
        applies_to: DiscountScope,
        starts_at: datetime | str | None,
        ends_at: datetime | str | None,
        name: str,
    ) -> Discount:
        _one_of(applies_to, ("base", "metered", "all"), "applies_to")
        if (percent is None) == (amount is None):
            raise InvalidInput("percent", 'give one of percent="10" and amount="20.00"')
        share = None if percent is None else non_negative(percent, "percent")
        if share is not None and not 0 < share <= 100:
            raise InvalidMoney("percent", f"{plain(share)} is not above 0 and up to 100")
        starts = self._clock.now() if starts_at is None else aware(starts_at, "starts_at")
        ends = None if ends_at is None else aware(ends_at, "ends_at")
        if ends is not None and ends <= starts:
            raise InvalidInput("ends_at", f"{ends.isoformat()} is not after {starts.isoformat()}, where it starts")
        cut = Discount(
            id=f"di_{self._new_id()}",
            tenant=tenant_id(tenant),
            name=_reason(name, "name"),
            percent=share,
            amount=None if amount is None else self._positive(amount, "amount"),
            applies_to=applies_to,
            starts_at=starts,
            ends_at=ends,
        )
        await self._put(cut.tenant, Entries(discounts=(cut,)))
        return cut

    async def end_discount(self, tenant: str, discount_id: str, at: datetime | str | None) -> Discount:
        """From the month on that begins at that instant or later it is not given any more."""
        ends, found = self._clock.now() if at is None else aware(at, "at"), list[Discount]()

        def decide(account: Account) -> Entries:
            theirs = [each for each in account.discounts if each.id == discount_id]
            if not theirs:
                raise NotFound(f"tenant {account.tenant.id!r} has no discount {discount_id!r}")
            found.append(theirs[0].model_copy(update={"ends_at": ends}))
            return Entries(discounts=(found[-1],))

        await self._book_one(tenant_id(tenant), decide)
        return found[-1]

    async def adjust(self, tenant: str, amount: Amount, reason: str) -> Adjustment:
        value = self._coins(amount, "amount")
        if not value:
            raise InvalidMoney("amount", "is 0; an adjustment changes an invoice")
        one = Adjustment(
            id=f"ad_{self._new_id()}",
            tenant=tenant_id(tenant),
            currency=self._rules.currency,
            amount=value,
            reason=_reason(reason),
            created_at=self._clock.now(),
        )
        await self._put(one.tenant, Entries(adjustments=(one,)))
        return one

    def _act(self) -> Act:
        return act_now(self._clock, self._new_id)

    async def _put(self, tenant: str, entries: Entries) -> None:
        await self._book_one(tenant, lambda _: entries)

    async def _book_one(self, tenant: str, decide: Callable[[Account], Entries]) -> None:
        known: list[str] = []

        def noted(account: Account) -> Entries:
            known.append(account.tenant.id)
            return decide(account)

        await self._ledger.book([tenant], Wanted(), audited(noted, self._act()))
        if not known:
            raise _unknown(tenant)

    def _positive(self, value: Amount, field: str) -> Decimal:
        amount = self._coins(value, field)
        if amount <= 0:
            raise InvalidMoney(field, f"{plain(amount)} is not more than 0")
        return amount

    def _coins(self, value: Amount, field: str) -> Decimal:
        """A whole number of the currency's minor units."""
        amount, unit = exact(value, field), minor_unit(self._rules.currency)
        if amount % unit:
            raise InvalidMoney(field, f"{plain(amount)} is not a whole number of {plain(unit)} {self._rules.currency}")
        return amount.quantize(unit)

    # -- tax ----------------------------------------------------------------------------------------------------------

    async def _taxes(self, account: Account, terms: Terms, period: str) -> Taxes:
        if self._tax is None:
            return None
        return await self._asked(self._untaxed(account, terms, period))

    def _untaxed(self, account: Account, terms: Terms, period: str) -> Invoice:
        return books.inputs(account, terms, period, self._rules, taxes=()).draft(terms.plans)

    async def _asked(self, untaxed: Invoice) -> Sequence[Tax]:
        assert self._tax is not None
        answer = self._tax(untaxed)
        return await answer if inspect.isawaitable(answer) else answer

    async def _taxed(self, tenant: str, period: str, is_due: IsDue) -> Taxed | None:
        """The taxes on the draft as it is now; None where there is none to be made."""
        account = await self._account(tenant, period)
        terms = await self._plans.of(account.tenant)
        if not is_due(account, terms):
            return None
        untaxed = self._untaxed(account, terms, period)
        return untaxed, await self._asked(untaxed)

    def _taxes_of(self, taxed: Mapping[str, Taxed | None], account: Account, terms: Terms, period: str) -> Taxes:
        """What was asked for, if the draft is still what it was asked for."""
        if self._tax is None:
            return None
        answer = taxed[account.tenant.id]
        if answer is None or self._untaxed(account, terms, period) != answer[0]:
            raise _Moved(f"the usage of {account.tenant.id!r} changed while its taxes were asked for")
        return answer[1]

    # -- reading ------------------------------------------------------------------------------------------------------

    async def _account(self, tenant: str, period: str) -> Account:
        account = await self._ledger.account(tenant, self._wanted(period))
        if account is None:
            raise _unknown(tenant)
        return account

    def _wanted(self, period: str) -> Wanted:
        months = books.usage_months(period)
        bills_levels = any(plan.charged_levels for plan in self._plans.known.values())
        return Wanted(periods=books.months_of(period), usage=months, levels=bills_levels)

    async def _row(self, tenant: str) -> TenantRow:
        row = await self._ledger.tenant(tenant_id(tenant))
        if row is None:
            raise _unknown(tenant)
        return row


class _Moved(Exception):
    """The draft is not what its taxes were asked for any more, or there is a plan that was not known."""


def _billed(facts: Sequence[Fact], line: InvoiceLine) -> list[BilledFact]:
    return [
        BilledFact(
            id=fact.id,
            occurred_at=from_micros(fact.occurred_us),
            event_type=fact.event_type,
            resource=fact.resource,
            quantity=count.amount,
        )
        for fact in facts
        for count in fact.counts
        if (count.meter, count.scope) == (line.meter, "") and line.resource in ("", fact.resource)
    ]


def _unknown(tenant: str) -> UnknownTenant:
    return UnknownTenant(f"tenant {tenant!r} is not known; put_tenant makes it")


def _an_id(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 256:
        raise InvalidInput(field, "is not an id such as preview_invoice shows them")
    return value


def _with_collections(account: Account, entries: Entries, now: datetime) -> Entries:
    """An invoice that changed on its way to a payment provider is to be looked at there."""
    changed = {each.id for each in entries.invoices}
    moved = tuple(collecting.touched(each, now).collection for each in account.collections if each.invoice in changed)
    return replace(entries, collections=moved)


def _one_of(value: object, words: Sequence[str], field: str) -> None:
    if value not in words:
        raise InvalidInput(field, f"{str(value)[:40]!r} is not one of {', '.join(words)}")


def _reason(text: object, field: str = "reason") -> str:
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(text) > MAX_REASON:
        raise InvalidInput(field, f"is not 1 to {MAX_REASON} printable characters; it stands on the invoice")
    return refuse_card(text.strip(), field)
