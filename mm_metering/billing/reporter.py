"""The law of those who bill usage by prices of their own: what they are told, and what they answer.

The mode ``billing_mode="report"``: the provider's subscription carries the plan's prices, and usage goes to its meters.
It multiplies; it decides no quota and counts nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from mm_metering.billing.adapter import BillingAdapter
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.reporting import UsageReport, metered_prices
from mm_metering.errors import InvalidInput

__all__ = ["BillingMode", "UsageReport", "UsageReporter", "reporter_of"]

BillingMode: TypeAlias = Literal["invoice", "report"]
"""Who rates: we do, and the provider collects; or the provider multiplies what we report."""


@runtime_checkable
class UsageReporter(Protocol):
    """``takes``: "deltas", which it adds up, each identifier once; or "totals" of a month, of which the last holds."""

    takes: Literal["deltas", "totals"]

    async def report_usage(self, report: UsageReport) -> None:
        """Returns when it is counted, now or by an earlier call with this identifier. InvalidRequest for what will
        never pass: no such meter or customer. ProviderRefused, ProviderRateLimited and ProviderUnavailable: try again,
        with the same identifier."""
        ...

    async def reported_usage(self, *, customer: str, meter: str, start: datetime, end: datetime) -> int:
        """The sum of what was counted for instants of [start, end), which are whole minutes. What was told within the
        last hours may be missing."""
        ...


def reporter_of(billing: BillingAdapter | None, mode: BillingMode, catalogue: Catalogue) -> UsageReporter | None:
    """None where we rate. InvalidInput unless the adapter is of that mode, CatalogueError for what it cannot
    multiply."""
    if mode not in ("invoice", "report"):
        raise InvalidInput("billing_mode", f'is {str(mode)[:40]!r}, not "invoice" or "report"')
    if billing is None and mode == "report":
        raise InvalidInput("billing_mode", 'is "report", and there is nobody to report to: Metering(billing=...)')
    theirs = getattr(billing, "billing_mode", "invoice")
    if billing is not None and theirs != mode:
        raise InvalidInput(
            "billing_mode",
            f'is "{mode}", and that of {type(billing).__name__} is "{theirs}"; give both the same, or a customer is '
            "billed twice or not at all",
        )
    if mode == "invoice":
        return None
    reporter: object = billing
    if not isinstance(reporter, UsageReporter):
        raise InvalidInput("billing_mode", f'is "report", and {type(billing).__name__} takes no usage')
    metered_prices(catalogue)
    return reporter
