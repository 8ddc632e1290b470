"""What an invoice is, and what stands beside it: credit notes, credit grants, discounts, adjustments.

Frozen values. ``invoicing`` makes them from usage and prices, ``books`` says what may become of them.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from mm_metering.core.money import Money
from mm_metering.core.pricing import TierUse
from mm_metering.core.rating import WindowUse

LineKind: TypeAlias = Literal[
    "base",
    "proration",
    "addon",
    "overage",
    "commitment",
    "late_usage",
    "adjustment",
    "discount",
    "tax",
    "credit",
    "carried_over",
]
InvoiceStatus: TypeAlias = Literal["draft", "finalized", "paid", "void", "uncollectible"]
CreditKind: TypeAlias = Literal["promo", "paid"]
CreditScope: TypeAlias = Literal["metered", "all"]
DiscountScope: TypeAlias = Literal["base", "metered", "all"]

METERED: frozenset[LineKind] = frozenset({"overage", "late_usage"})
"""What a credit or discount of scope "metered" applies to."""
FEES: frozenset[LineKind] = frozenset({"base", "proration", "addon"})
_ZERO = Decimal(0)


class Value(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True)


class Share(Value):
    """The part of a month that a fee is for: ``seconds`` of the month's ``of_seconds``."""

    seconds: int
    of_seconds: int


class Explanation(Value):
    """How a line came about. Overage: the overage of ``windows`` times ``unit_price``, or through ``tiers``. Fees:
    ``share`` of it. Commitment: ``share`` of the month's minimum, or where plans with other ones were in force that
    month's minimum itself, less what ``rounding`` says was used.

    ``rounding`` says what was rounded to what; ``events`` counts the facts in the windows. ``billed_before`` is what
    earlier invoices had of the same usage, which a late line takes off.
    """

    windows: tuple[WindowUse, ...]
    unit_price: Money
    plan_version: str
    rounding: str
    events: int
    share: Share | None = None
    tiers: tuple[TierUse, ...] = ()
    billed_before: Money | None = None


class InvoiceLine(Value):
    """``amount`` is quantity x unit_price, rounded once; with tiers it is their sum, and ``unit_price`` the mean.

    ``meter`` is None for what is not usage, ``resource`` "" where one price holds for all. ``period`` is the month that
    a late line belongs to, if it is not the invoice's.
    """

    id: str
    kind: LineKind
    meter: str | None
    description: str
    quantity: int | Decimal
    unit_price: Money
    amount: Money
    resource: str = ""
    period: str | None = None
    explanation: Explanation | None = None


class Tax(Value):
    """A tax on an invoice, as a tax service gives it: its name for the line, and the exact amount."""

    name: str
    amount: Money


class CreditUse(Value):
    """What an invoice took from one grant."""

    grant: str
    amount: Money


class Invoice(Value):
    """One tenant's month. ``total`` = subtotal + tax - credits_applied + carried_over, and the sum of all lines.

    subtotal      fees, usage and adjustments less discounts, before tax
    number        gapless, in order of finalization; None for a draft
    issue         counts up where one was voided and the month is invoiced again
    carried_over  what a negative subtotal leaves for the tenant's credit: an invoice is never negative
    credited      the total of its credit notes
    held          why a draft waits for somebody's review instead of being finalized
    usage_until, stored_until   its two bounds: usage before the first (exclusive) that was stored before the second
    """

    id: str
    number: str | None
    tenant: str
    period: str
    issue: int = 1
    status: InvoiceStatus
    currency: str
    lines: tuple[InvoiceLine, ...]
    subtotal: Money
    tax: Money
    credits_applied: Money
    total: Money
    carried_over: Money = _ZERO
    credits: tuple[CreditUse, ...] = ()
    credited: Money = _ZERO
    held: str | None = None
    usage_until: datetime | None = None
    stored_until: datetime | None = None
    finalized_at: datetime | None = None
    settled_at: datetime | None = None
    """When it was paid, voided or given up."""

    @property
    def amount_due(self) -> Decimal:
        """What is still to be paid: nothing for a draft, and for what is paid, void or given up."""
        return self.total - self.credited if self.status == "finalized" else _ZERO


class BilledFact(Value):
    """One fact behind a line; ``quantity`` is what it counted in the line's meter."""

    id: str
    occurred_at: datetime
    event_type: str
    resource: str
    quantity: int


class CreditNote(Value):
    """Takes back a part of a finalized invoice. ``total`` = amount + tax. ``to_credit`` of it becomes the tenant's
    credit, because it was paid; the rest lowers what is due."""

    id: str
    number: str
    invoice: str
    tenant: str
    currency: str
    line: str | None
    quantity: int | Decimal | None
    amount: Money
    tax: Money
    total: Money
    to_credit: Money
    reason: str
    created_at: datetime


class CreditGrant(Value):
    """Credit that invoices take: by priority (the lowest first), then the earliest expiry, then the earliest grant.

    ``remaining`` is never negative. ``expires_at`` is exclusive: an invoice takes from it if its month's last instant
    lies before. ``source`` names the invoice or credit note that it comes from, if one.
    """

    id: str
    tenant: str
    currency: str
    kind: CreditKind
    amount: Money
    remaining: Money
    priority: int
    applies_to: CreditScope
    granted_at: datetime
    expires_at: datetime | None = None
    reason: str = ""
    source: str | None = None


class Discount(Value):
    """Off the invoice of each month of which [starts_at, ends_at) has a part: ``percent`` of what it applies to, or an
    ``amount`` of at most that. Percentages come first, then amounts, each in order of creation."""

    id: str
    tenant: str
    name: str
    percent: Money | None
    amount: Money | None
    applies_to: DiscountScope
    starts_at: datetime
    ends_at: datetime | None = None


class Adjustment(Value):
    """An amount with a reason, by hand: it joins the tenant's next invoice, ``invoice``. Negative: in its favour."""

    id: str
    tenant: str
    currency: str
    amount: Money
    reason: str
    created_at: datetime
    invoice: str | None = None
