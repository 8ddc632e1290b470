"""The law of those who bill usage by prices of their own, as tests: subclass it and give ``adapter``.

    class TestMine(UsageReporterContract):
        @pytest.fixture
        def adapter(self): return MyAdapter(..., billing_mode="report")

The adapter is a ``BillingAdapter``, a ``UsageReporter`` that takes deltas, and a ``PlanPusher``. Override ``now`` where
its provider's clock is another, and ``finish_month`` where its provider can be made to finish a month.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

import pytest

from mm_metering.billing.adapter import BillingCustomer, BillingInvoice
from mm_metering.billing.reporter import UsageReport, UsageReporter
from mm_metering.core.catalogue import Catalogue
from mm_metering.errors import InvalidRequest

MINUTE: Final = timedelta(minutes=1)
CATALOGUE: Final = Catalogue.from_dict(
    {
        "meters": {"api_calls": {"event": "api_call"}, "ai_tokens": {"event": "ai_token"}},
        "plans": {
            "pro": {
                "price": "99.00",
                "quotas": {
                    "api_calls": {"limit": 10_000, "per": "day", "then": "charge", "unit_price": "0.01"},
                    "ai_tokens": {"limit": 0, "per": "month", "then": "charge", "unit_price": {"gpt-4": "0.00003"}},
                },
            },
            "team": {"price": "199.00"},
        },
    }
)


class UsageReporterContract:
    """Each test quotes one law."""

    @pytest.fixture
    def adapter(self) -> Any:
        raise NotImplementedError("give the adapter that is to be checked")

    @pytest.fixture
    async def customer(self, adapter: Any) -> BillingCustomer:
        await adapter.push_plans(CATALOGUE)
        made = await adapter.create_customer(organization_id="org_123", email="a@acme.example", name="Acme LLC")
        return BillingCustomer.model_validate(made)

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def finish_month(self, adapter: Any, subscription_id: str) -> BillingInvoice | None:
        """The provider's own invoice of the running month, once that is over; None where it cannot be made to be."""
        return None

    def report(self, customer: BillingCustomer, quantity: int, **changes: Any) -> UsageReport:
        given: dict[str, Any] = {
            "tenant": "org_123",
            "customer": customer.id,
            "meter": "api_calls",
            "quantity": quantity,
            "identifier": f"mm_{uuid4().hex}",
            "instant": self.now().replace(microsecond=0),
            "period": f"{self.now():%Y-%m}",
        }
        return UsageReport(**given | changes)

    async def counted(self, adapter: Any, report: UsageReport) -> int:
        start = report.instant.replace(second=0)
        return int(
            await adapter.reported_usage(
                customer=report.customer, meter=report.meter, start=start - MINUTE, end=start + 2 * MINUTE
            )
        )

    async def test_it_is_a_usage_reporter(self, adapter: Any) -> None:
        assert (adapter.takes, adapter.billing_mode) == ("deltas", "report")
        assert isinstance(adapter, UsageReporter)

    async def test_prices_are_made_once_and_never_changed(self, adapter: Any) -> None:
        for dry_run, state in ((True, "missing"), (False, "made"), (False, "there"), (True, "there")):
            rows = await adapter.push_plans(CATALOGUE, dry_run=dry_run)
            assert [(each.plan, each.meter, each.amount, each.state) for each in rows] == [
                ("pro", "", Decimal("99.00"), state),
                ("pro", "api_calls", Decimal("0.01"), state),
                ("pro", "ai_tokens.gpt-4", Decimal("0.00003"), state),
                ("team", "", Decimal("199.00"), state),
            ]
        tree = CATALOGUE.to_dict()
        tree["plans"]["team"]["price"] = "149.00"
        for _ in range(2):
            rows = await adapter.push_plans(Catalogue.from_dict(tree))
            assert [(each.state, each.theirs) for each in rows] == [("there", "")] * 3 + [("other", "199.00")]

    async def test_deltas_add_up_also_negative_ones(self, adapter: Any, customer: BillingCustomer) -> None:
        reports = [self.report(customer, quantity) for quantity in (250, 7, -30)]
        for each in reports:
            await adapter.report_usage(each)
        assert await self.counted(adapter, reports[0]) == 227

    async def test_an_identifier_is_counted_once_and_again_is_success(
        self, adapter: Any, customer: BillingCustomer
    ) -> None:
        report = self.report(customer, 250)
        for _ in range(3):
            await adapter.report_usage(report)
        assert await self.counted(adapter, report) == 250

    async def test_meters_and_customers_are_apart(self, adapter: Any, customer: BillingCustomer) -> None:
        other = await adapter.create_customer(organization_id="org_124", email="b@acme.example", name="Acme Two")
        reports = [
            self.report(customer, 1),
            self.report(customer, 2, meter="ai_tokens.gpt-4"),
            self.report(BillingCustomer.model_validate(other), 4),
        ]
        for each in reports:
            await adapter.report_usage(each)
        assert [await self.counted(adapter, each) for each in reports] == [1, 2, 4]

    async def test_what_will_never_pass_is_an_invalid_request(self, adapter: Any, customer: BillingCustomer) -> None:
        for wrong in (
            self.report(customer, 1, meter="no_such_meter"),
            self.report(customer, 1, instant=self.now() - timedelta(days=40)),
            self.report(customer, 1, instant=self.now() + timedelta(days=1)),
        ):
            with pytest.raises(InvalidRequest):
                await adapter.report_usage(wrong)

    async def test_a_month_is_billed_by_the_plans_prices(self, adapter: Any, customer: BillingCustomer) -> None:
        method = await adapter.create_payment_method(customer.id, payment_method="pm_card_visa")
        made = await adapter.create_subscription(customer_id=customer.id, plan_id="pro", payment_method_id=method.id)
        assert made.plan_id == "pro"
        await adapter.report_usage(self.report(customer, 250))
        await adapter.report_usage(self.report(customer, 500_000, meter="ai_tokens.gpt-4"))
        invoice = await self.finish_month(adapter, made.id)
        if invoice is not None:
            assert sorted(each.amount(invoice.currency) for each in invoice.items if each.quantity > 1) == [
                Decimal("2.50"),
                Decimal("15.00"),
            ]
        assert (await adapter.update_subscription(made.id, plan_id="team")).plan_id == "team"
