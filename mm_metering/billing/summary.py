"""A tenant's billing at a glance: its plan, what the month comes to, what it used of each quota."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import NamedTuple

from mm_metering.core.catalogue import Limit, Plan
from mm_metering.core.invoices import METERED, Invoice, Value
from mm_metering.core.money import EXACT, Money
from mm_metering.core.usage import UsageRange


class MeterUse(NamedTuple):
    """Of a meter in the month so far: units used, the plan's limit (None: unlimited), what is billed past it, and for
    how much. A limit per day stands beside the month's use."""

    used: int | Decimal
    limit: int | None
    overage: int | Decimal
    amount: Decimal


class BillingSummary(Value):
    """``monthly_spend`` is the total of ``upcoming_invoice``, the running month's preview."""

    current_plan: str
    monthly_spend: Money
    usage_breakdown: Mapping[str, MeterUse]
    upcoming_invoice: Invoice


def summary(plan_name: str, plan: Plan | None, usage: UsageRange, invoice: Invoice) -> BillingSummary:
    """Of the meters that the plan limits, and those that the invoice bills."""
    billed = {line.meter: line for line in invoice.lines if line.kind in METERED and line.meter}
    limits = plan.quotas if plan else {}
    meters = dict.fromkeys((*limits, *billed))
    return BillingSummary(
        current_plan=plan_name,
        monthly_spend=invoice.total,
        usage_breakdown={meter: _use(meter, limits.get(meter, ()), usage, invoice) for meter in meters},
        upcoming_invoice=invoice,
    )


def _use(meter: str, limits: tuple[Limit, ...], usage: UsageRange, invoice: Invoice) -> MeterUse:
    lines = [line for line in invoice.lines if line.meter == meter and line.kind in METERED]
    shown = [limit for limit in limits if not limit.is_rate]
    level = usage.levels.get(meter)
    with localcontext(EXACT):
        return MeterUse(
            used=level.last if level else usage.meters.get(meter, 0),
            limit=shown[0].maximum if shown else None,
            overage=sum((line.quantity for line in lines), start=0),
            amount=sum((line.amount for line in lines), Decimal(0)),
        )
