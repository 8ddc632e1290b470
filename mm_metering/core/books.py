"""What may become of a tenant's invoices: pure decisions over what the ledger has of it as of one instant.

Each takes an ``Account`` and returns the ``Entries`` that must be written together with it, in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any, Final

from mm_metering.core.audit import AuditEntry
from mm_metering.core.cells import Cell
from mm_metering.core.collecting import Collection, Notice, changed_notice
from mm_metering.core.identity import derived_id
from mm_metering.core.inputs import Inputs
from mm_metering.core.invoices import Adjustment, CreditGrant, CreditNote, Discount, Invoice, InvoiceLine, Tax
from mm_metering.core.invoicing import billed_already, late_lines
from mm_metering.core.lifecycles import INVOICE, REFUSED_AS
from mm_metering.core.money import EXACT, plain, round_minor
from mm_metering.core.periods import FIRST_PERIOD, from_micros, later_period, micros, period_span, zone
from mm_metering.core.rating import NO_LEVELS, Levels, Terms
from mm_metering.core.tenancy import TenantRow
from mm_metering.core.timeline import Change
from mm_metering.errors import InvalidEvent, InvalidInput, NotFound, PeriodNotOver, WrongState

LATE_MONTHS: Final = 2
"""How many finalized months before an invoice's own it looks into for late usage: more than LATE_DAYS."""
LATE_DAYS: Final = 35
"""Usage older than that is refused where its month is finalized."""
TYPICAL_MONTHS: Final = 3
"""How many earlier invoices tell what is usual for a tenant."""
INVOICE_NUMBERS: Final = "invoice"
NOTE_NUMBERS: Final = "credit_note"
SERIES: Final = (INVOICE_NUMBERS, NOTE_NUMBERS)
BILLED: Final = frozenset({"finalized", "paid", "uncollectible"})
_ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Account:
    """All that the ledger has of a tenant for the months in question, as of one instant.

    ``levels_before`` has each level (meter, resource) at the start of a month, for months in which levels are billed.
    ``notes`` and ``adjustments`` are those of these invoices, and adjustments that no invoice has yet. ``collections``
    are all, where they were wanted. ``next_numbers`` by series.
    """

    tenant: TenantRow
    cells: Sequence[Cell] = ()
    levels_before: Mapping[date, Levels] = field(default_factory=dict)
    invoices: Sequence[Invoice] = ()
    grants: Sequence[CreditGrant] = ()
    notes: Sequence[CreditNote] = ()
    discounts: Sequence[Discount] = ()
    adjustments: Sequence[Adjustment] = ()
    collections: Sequence[Collection] = ()
    next_numbers: Mapping[str, int] = field(default_factory=dict)

    def newest(self, period: str) -> Invoice | None:
        """The last issue of a month's invoice."""
        theirs = [each for each in self.invoices if each.period == period]
        return max(theirs, key=lambda each: each.issue, default=None)

    @property
    def pending(self) -> list[Adjustment]:
        """The adjustments that no invoice has yet."""
        return [each for each in self.adjustments if each.invoice is None]

    def due(self, currency: str) -> list[Adjustment]:
        """Those that the next invoice in that currency takes along."""
        return [each for each in self.pending if each.currency == currency]

    def by_id(self, invoice_id: str) -> Invoice:
        for each in self.invoices:
            if each.id == invoice_id:
                return each
        raise NotFound(f"there is no invoice {invoice_id}")


@dataclass(frozen=True, slots=True)
class Entries:
    """What is written: each value in place of the one with its id. Numbers that were handed out move their series."""

    invoices: tuple[Invoice, ...] = ()
    grants: tuple[CreditGrant, ...] = ()
    notes: tuple[CreditNote, ...] = ()
    discounts: tuple[Discount, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()
    numbered: tuple[str, ...] = ()
    """The series of which a number was taken, once per number."""
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    """By invoice: its ``Inputs``, packed."""
    collections: tuple[Collection, ...] = ()
    notices: tuple[Notice, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
    change: Change | None = None
    """Of the tenant's subscription."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a house bills. ``grace``: how long late usage still joins its month. A draft whose total is more than
    ``hold_factor`` times the mean of the tenant's last invoices, and ``hold_above`` at least, or that has more than
    ``hold_lines`` lines, waits for a review."""

    currency: str
    grace: timedelta = timedelta(hours=24)
    hold_factor: int = 20
    hold_above: Decimal = Decimal(1000)
    hold_lines: int = 1000


def is_billed(invoice: Invoice) -> bool:
    """Whether it was sent and still stands."""
    return invoice.status in BILLED


def late_us(now_us: int) -> int:
    """Usage of before then is refused where its month is finalized: no later invoice looks so far back."""
    return now_us - LATE_DAYS * 86_400 * 1_000_000


def too_late(occurred_us: int, period: str) -> InvalidEvent:
    """For usage of before ``late_us``, in a month whose invoice stands."""
    return InvalidEvent(
        "occurred_at",
        f"{from_micros(occurred_us):%Y-%m-%d} is more than {LATE_DAYS} days ago, and the invoice of {period} is final; "
        "record it for today, or bill it with adjust_invoice",
    )


def retired(occurred_us: int) -> InvalidEvent:
    """For usage of before ``Ledger.kept_us``."""
    when = f"{from_micros(occurred_us):%Y-%m-%d}"
    return InvalidEvent("occurred_at", f"the facts of {when} were retired: nobody can tell what was counted by then")


# -- months ------------------------------------------------------------------------------------------------------------


def months_of(period: str) -> tuple[str, ...]:
    """The months whose invoices decide about that of ``period``, the oldest first. Later ones may have had late usage
    of the same months, if this one is issued again after a void."""
    return tuple(later_period(period, by) for by in range(-max(LATE_MONTHS, TYPICAL_MONTHS), LATE_MONTHS + 1))


def usage_months(period: str) -> tuple[str, ...]:
    """The months whose usage decides about that month's invoice: the oldest first, itself last."""
    months = (later_period(period, -back) for back in range(LATE_MONTHS, -1, -1))
    return tuple(month for month in months if month >= FIRST_PERIOD)


def inputs(account: Account, terms: Terms, period: str, rules: Rules, *, taxes: Sequence[Tax] | None = None) -> Inputs:
    """All that the month's invoice follows from. A month that was invoiced and voided is invoiced again, as its next
    issue."""
    newest, (first, last) = account.newest(period), terms.days(period)
    issue = 1 if newest is None else newest.issue + (newest.status == "void")
    had = _had_later(account, period)
    return Inputs(
        tenant=account.tenant,
        proration=terms.proration,
        period=period,
        currency=rules.currency,
        issue=issue,
        cells=[cell for cell in account.cells if first <= cell.key.day <= last],
        late=[
            *_late(account, terms, period, rules.currency, issue),
            *billed_already(terms, period, had, currency=rules.currency, issue=issue),
        ],
        adjustments=account.due(rules.currency),
        discounts=account.discounts,
        grants=[grant for grant in account.grants if grant.remaining],
        taxes=taxes,
        levels_before=account.levels_before.get(first, NO_LEVELS),
    )


def _late(account: Account, terms: Terms, period: str, currency: str, issue: int) -> list[InvoiceLine]:
    """Of each month that was invoiced, if no month between that one and this may still take it."""
    lines: list[InvoiceLine] = []
    for back in range(1, LATE_MONTHS + 1):
        month = later_period(period, -back)
        newest = account.newest(month)
        if newest is None and month >= FIRST_PERIOD and _is_idle(account.tenant, terms, month):
            continue
        if newest is None or not is_billed(newest):
            break
        billed = [line for line in newest.lines if line.period in (None, month)]
        billed += _had_later(account, month)
        options: dict[str, Any] = {"into": period, "currency": currency, "issue": issue}
        stood = account.levels_before.get(terms.days(month)[0], NO_LEVELS)
        late = late_lines(terms, month, account.cells, billed, levels_before=stood, **options)
        lines = [*late, *lines]
    return lines


def _had_later(account: Account, period: str) -> list[InvoiceLine]:
    """What the invoices of later months had of this one."""
    later = (each for each in account.invoices if is_billed(each) and each.period > period)
    return [line for each in later for line in each.lines if line.period == period]


def _is_idle(tenant: TenantRow, terms: Terms, period: str) -> bool:
    """Whether all of the month's requests are refused."""
    span = terms.month(period)
    return all(segment.status in REFUSED_AS for segment in tenant.segments_in(micros(span.start), micros(span.end)))


def is_billable(account: Account, terms: Terms, period: str, *, currency: str, by_itself: bool = False) -> bool:
    """Whether the tenant had signed up by the month's end, or used something in it. ``by_itself``: nobody has asked for
    its invoice, so that something must say that we bill it: usage, a sign-up or a change in the month, or the invoice
    before. A month in which all requests are refused is billed where something is left over from others."""
    span, (first, last) = terms.month(period), terms.days(period)
    start_us, end_us = micros(span.start), micros(span.end)
    if any(first <= cell.key.day <= last and cell.total.count for cell in account.cells):
        return True
    if _is_idle(account.tenant, terms, period):
        return bool(_late(account, terms, period, currency, 1) or account.due(currency))
    changes = account.tenant.segments_in(start_us, end_us)
    is_known = any(segment.starts_us >= start_us for segment in changes) or account.newest(later_period(period, -1))
    return account.tenant.subscribed_us < end_us and bool(is_known or not by_itself)


def is_due(
    account: Account, terms: Terms, period: str, now: datetime, *, currency: str, by_itself: bool = False
) -> bool:
    """Whether the month is over, to be billed, and not invoiced yet."""
    newest = account.newest(period)
    is_over = now >= terms.month(period).end
    is_open = newest is None or not is_billed(newest)
    return is_over and is_open and is_billable(account, terms, period, currency=currency, by_itself=by_itself)


def close(
    account: Account,
    terms: Terms,
    period: str,
    rules: Rules,
    *,
    now: datetime,
    taxes: Sequence[Tax] | None = None,
) -> tuple[Invoice, Entries]:
    """The month's invoice: a draft until the grace is over, then finalized, and from then on the same for ever.

    PeriodNotOver before the month's end.
    """
    newest = account.newest(period)
    if newest is not None and is_billed(newest):
        return newest, Entries()
    basis, found = _drafted(account, terms, period, rules, now=now, taxes=taxes)
    if now < terms.month(period).end + rules.grace:
        return found, Entries(invoices=(found,), notices=_news(account, found, now))
    reason = _suspicion(account, found, rules)
    if reason:
        found = found.model_copy(update={"held": reason})
        return found, Entries(invoices=(found,), notices=_news(account, found, now))
    return _finalized(account, found, basis, now)


def finalize(
    account: Account,
    terms: Terms,
    invoice_id: str,
    rules: Rules,
    *,
    now: datetime,
    taxes: Sequence[Tax] | None = None,
) -> tuple[Invoice, Entries]:
    """By hand: without waiting for the grace, and whatever is suspicious about it. The draft is made anew first."""
    stored = account.by_id(invoice_id)
    INVOICE.after(stored.status, "finalize", name=invoice_id)
    basis, found = _drafted(account, terms, stored.period, rules, now=now, taxes=taxes)
    return _finalized(account, found, basis, now)


def _drafted(
    account: Account, terms: Terms, period: str, rules: Rules, *, now: datetime, taxes: Sequence[Tax] | None
) -> tuple[Inputs, Invoice]:
    """With its two bounds; PeriodNotOver before the month's end."""
    end = terms.month(period).end
    if now < end:
        raise still_runs(account.tenant, period)
    basis = inputs(account, terms, period, rules, taxes=taxes)
    return basis, basis.draft(terms.plans).model_copy(update={"usage_until": end, "stored_until": now})


def still_runs(tenant: TenantRow, period: str) -> PeriodNotOver:
    end = period_span(period, zone(tenant.timezone), tenant.anchor_day).end
    return PeriodNotOver(
        f"{period} ends at {end:%Y-%m-%dT%H:%M:%SZ} for {tenant.id!r}; preview_invoice shows it until then"
    )


def _suspicion(account: Account, found: Invoice, rules: Rules) -> str | None:
    """Why somebody should look at the draft first."""
    if other := _in_another_currency(account, found):
        return f"{other}, and it is in {found.currency}; finalize_invoice sends it on without that"
    if len(found.lines) > rules.hold_lines:
        return f"it has {len(found.lines):,} lines, more than {rules.hold_lines:,}; finalize_invoice sends it on"
    before = [each.total for each in account.invoices if is_billed(each) and each.period < found.period]
    if not before or found.total <= rules.hold_above:
        return None
    with localcontext(EXACT):
        usual = round_minor(sum(before, _ZERO) / len(before), found.currency)
        if found.total <= rules.hold_factor * usual:
            return None
    return (
        f"its total of {plain(found.total)} is more than {rules.hold_factor} times the usual {plain(usual)}; "
        "finalize_invoice sends it on"
    )


def _in_another_currency(account: Account, found: Invoice) -> str | None:
    """What of the tenant's the invoice would silently leave out: nothing is converted."""
    for grant in account.grants:
        if grant.remaining and grant.currency != found.currency:
            return f"the tenant has {plain(grant.remaining)} {grant.currency} of credit"
    for each in account.pending:
        if each.currency != found.currency:
            return f"the tenant has an adjustment of {plain(each.amount)} {each.currency}"
    return None


def _finalized(account: Account, found: Invoice, basis: Inputs, now: datetime) -> tuple[Invoice, Entries]:
    """With a number, and everything that it takes along."""
    number = account.next_numbers[INVOICE_NUMBERS]
    state = INVOICE.after(found.status, "finalize", name=found.id)
    update = {"status": state, "number": f"INV-{number:06}", "finalized_at": now, "held": None}
    invoice = found.model_copy(update=update)
    taken = {use.grant: use.amount for use in invoice.credits}
    grants = [
        grant.model_copy(update={"remaining": _less(grant.remaining, taken[grant.id])})
        for grant in account.grants
        if grant.id in taken
    ]
    if invoice.carried_over:
        grants.append(_credit_of(invoice.id, invoice, invoice.carried_over, f"carried over from {invoice.number}", now))
    joined = tuple(each.model_copy(update={"invoice": invoice.id}) for each in account.due(found.currency))
    return invoice, Entries(
        invoices=(invoice,),
        grants=tuple(grants),
        adjustments=joined,
        numbered=(INVOICE_NUMBERS,),
        inputs={invoice.id: basis.pack()},
        notices=_news(account, invoice, now),
    )


def _news(account: Account, invoice: Invoice, now: datetime) -> tuple[Notice, ...]:
    """What others hear of it: that it is there, and that it is final."""
    types = [] if any(each.id == invoice.id for each in account.invoices) else ["billing.invoice_created"]
    if invoice.status == "finalized":
        types.append("invoice.finalized")
    data = {"invoice": invoice.id, "period": invoice.period, "status": invoice.status, "number": invoice.number}
    data |= {"amount": plain(invoice.total), "currency": invoice.currency}
    return tuple(Notice(derived_id("note", invoice.id, each), account.tenant.id, each, data, now) for each in types)


def timeline_news(before: TenantRow | None, after: TenantRow, at_us: int, now_us: int) -> Entries:
    """That a known tenant's timeline was changed, if it was: what holds from ``at_us`` on."""
    if before is None or before.segments == after.segments:
        return Entries()
    return Entries(notices=(changed_notice(after, at_us, now_us),))


# -- afterwards --------------------------------------------------------------------------------------------------------


def void(account: Account, invoice_id: str, *, now: datetime) -> tuple[Invoice, Entries]:
    """Takes an unpaid invoice back, with the credit that it took and the credit that it gave; its adjustments wait
    again, and the month may be closed anew."""
    stored = account.by_id(invoice_id)
    state = INVOICE.after(stored.status, "void", name=invoice_id)
    if stored.credited:
        raise WrongState(
            f"invoice {invoice_id} has credit notes of {plain(stored.credited)}; it stays", state=stored.status
        )
    grants = []
    for grant in account.grants:
        back = sum((use.amount for use in stored.credits if use.grant == grant.id), _ZERO)
        if grant.source == stored.id:
            if grant.remaining != grant.amount:
                raise WrongState(
                    f"invoice {invoice_id} carried {plain(grant.amount)} over, and later ones have taken of that; "
                    "it stays",
                    state=stored.status,
                )
            nothing = _less(grant.amount, grant.amount)
            grants.append(grant.model_copy(update={"amount": nothing, "remaining": nothing}))
        elif back:
            grants.append(grant.model_copy(update={"remaining": _less(grant.remaining, -back)}))
    invoice = stored.model_copy(update={"status": state, "settled_at": now})
    freed = tuple(
        each.model_copy(update={"invoice": None}) for each in account.adjustments if each.invoice == stored.id
    )
    return invoice, Entries(invoices=(invoice,), grants=tuple(grants), adjustments=freed)


def settle(account: Account, invoice_id: str, event: str, *, now: datetime) -> tuple[Invoice, Entries]:
    """ "pay" or "give up". What a provider collects is told by its collection, but not that it was paid elsewhere."""
    stored = account.by_id(invoice_id)
    state = INVOICE.after(stored.status, event, name=invoice_id)
    invoice = stored.model_copy(update={"status": state, "settled_at": now})
    if state != "paid" and any(each.invoice == invoice_id for each in account.collections):
        return invoice, Entries(invoices=(invoice,))
    type_ = "payment.succeeded" if state == "paid" else "invoice.uncollectible"
    told = {"invoice": invoice.id, "period": invoice.period}
    told |= {"amount": plain(invoice.total), "currency": invoice.currency}
    notice = Notice(derived_id("note", invoice.id, state), account.tenant.id, type_, told, now)
    return invoice, Entries(invoices=(invoice,), notices=(notice,))


def credit(
    account: Account,
    invoice_id: str,
    *,
    line_id: str | None,
    quantity: int | None,
    amount: Decimal | None,
    reason: str,
    now: datetime,
) -> tuple[CreditNote, Entries]:
    """Takes back an amount before tax, units of a line at its price, a whole line, or all that is left of the invoice;
    its tax in proportion. All notes together never exceed what the invoice charged."""
    stored = account.by_id(invoice_id)
    before = [note for note in account.notes if note.invoice == invoice_id]
    if stored.status not in ("finalized", "paid"):
        raise WrongState(
            f"invoice {invoice_id} is {stored.status}; only what was sent is credited", state=stored.status
        )
    line = _line(stored, line_id)
    if quantity is not None and (line is None or amount is not None):
        raise InvalidInput("quantity", "goes with line_id, and without amount")
    left = _left(stored, line, before)
    wanted = left if amount is None else amount
    if quantity is not None and line is not None:
        wanted = _price_of(line, quantity, stored.currency)
    if not 0 < wanted <= left:
        raise InvalidInput("amount", f"{plain(wanted)} is not above 0 and up to {plain(left)}, which is left to credit")
    tax = _tax_share(stored, wanted, before)
    with localcontext(EXACT):
        total = min(wanted + tax, stored.total - stored.credited)
    if total <= 0:
        raise InvalidInput("amount", f"nothing is left of what {invoice_id} charged; credit paid the rest")
    number, paid = account.next_numbers[NOTE_NUMBERS], stored.status == "paid"
    note = CreditNote(
        id=derived_id("cn", stored.id, number),
        number=f"CN-{number:06}",
        invoice=stored.id,
        tenant=stored.tenant,
        currency=stored.currency,
        line=line_id,
        quantity=quantity,
        amount=wanted,
        tax=tax,
        total=total,
        to_credit=total if paid else _ZERO,
        reason=reason,
        created_at=now,
    )
    invoice = stored.model_copy(update={"credited": _less(stored.credited, -total)})
    grants = (_credit_of(note.id, stored, total, f"{note.number}: {reason}", now),) if paid else ()
    return note, Entries(invoices=(invoice,), notes=(note,), grants=grants, numbered=(NOTE_NUMBERS,))


def _line(invoice: Invoice, line_id: str | None) -> InvoiceLine | None:
    if line_id is None:
        return None
    for line in invoice.lines:
        if line.id == line_id:
            return line
    raise NotFound(f"invoice {invoice.id} has no line {line_id}")


def _price_of(line: InvoiceLine, quantity: int, currency: str) -> Decimal:
    if not 0 < quantity <= line.quantity:
        raise InvalidInput("quantity", f"{quantity} is not from 1 to the line's {line.quantity}")
    with localcontext(EXACT):
        return line.amount if quantity == line.quantity else round_minor(line.unit_price * quantity, currency)


def _left(invoice: Invoice, line: InvoiceLine | None, before: Sequence[CreditNote]) -> Decimal:
    """How much before tax may still be credited, of the line or of the whole invoice."""
    with localcontext(EXACT):
        left = invoice.subtotal - sum((note.amount for note in before), _ZERO)
        if line is not None:
            of_line = line.amount - sum((note.amount for note in before if note.line == line.id), _ZERO)
            left = min(left, of_line)
    return left


def _tax_share(invoice: Invoice, amount: Decimal, before: Sequence[CreditNote]) -> Decimal:
    """The tax on that part; with the last part, all that is left of it."""
    if not invoice.tax:
        return invoice.tax
    with localcontext(EXACT):
        credited = sum((note.amount for note in before), _ZERO) + amount
        so_far = round_minor(invoice.tax * credited / invoice.subtotal, invoice.currency)
        return so_far - sum((note.tax for note in before), _ZERO)


def _credit_of(source: str, invoice: Invoice, amount: Decimal, reason: str, now: datetime) -> CreditGrant:
    return CreditGrant(
        id=derived_id("cg", source),
        tenant=invoice.tenant,
        currency=invoice.currency,
        kind="paid",
        amount=amount,
        remaining=amount,
        priority=0,
        applies_to="all",
        granted_at=now,
        reason=reason,
        source=source,
    )


def _less(amount: Decimal, by: Decimal) -> Decimal:
    with localcontext(EXACT):
        return amount - by
