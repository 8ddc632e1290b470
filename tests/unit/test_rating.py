"""What a month's bill comes to, as statements, and the rules one by one. ``test_oracle`` has them all together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mm_metering import catalogues
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import Segment
from mm_metering.core.facts import Count, Fact
from mm_metering.core.invoices import Explanation, Invoice, InvoiceLine
from mm_metering.core.invoicing import draft
from mm_metering.core.periods import micros
from mm_metering.core.rating import Overage, Terms, Use, cap_used, rate
from mm_metering.core.tenancy import TenantRow
from tests.unit.billing_case import (
    JANUARY,
    api_fact,
    billing_case,
    block,
    catalogue_of,
    charge,
    folded,
    seed_with,
    terms_of,
)

# -- the scenarios ------------------------------------------------------------------------------------------------


@billing_case
def test_s01_pro_with_a_thousand_calls_past_the_quota(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-15  api_calls  11,000
    invoice   1,000 api_calls x 0.01 = 10.00 USD
    total     109.00 USD
    """


@billing_case
def test_s02_a_daily_quota_is_exceeded_by_the_day(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-01..2024-01-09  api_calls   8,000
    usage     2024-01-10              api_calls  12,345
    usage     2024-01-11..2024-01-31  api_calls   8,000
    invoice   2,345 api_calls x 0.01 = 23.45 USD
    total     122.45 USD
    """
    (window,) = explained(invoice, "api_calls").windows
    assert window.model_dump() == {
        "start": datetime(2024, 1, 10, tzinfo=UTC),
        "end": datetime(2024, 1, 11, tzinfo=UTC),
        "used": 12_345,
        "allowance": 10_000,
        "overage": 2_345,
        "plan": "pro@1",
        "before": 0,
        "unbilled": 0,
        "events": 1,
    }


@billing_case
def test_s03_exactly_the_quota_is_free(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-15  api_calls  10,000
    total     99.00 USD
    """


@billing_case
def test_s03_the_next_unit_is_billed(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-15  api_calls  10,000
    usage     2024-01-15  api_calls       1
    invoice   1 api_calls x 0.01 = 0.01 USD
    total     99.01 USD
    """


@billing_case
def test_s03_an_idle_day_does_not_offset_a_busy_one(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-15  api_calls  15,000
    usage     2024-01-16  api_calls   5,000
    invoice   5,000 api_calls x 0.01 = 50.00 USD
    total     149.00 USD
    """


@billing_case
def test_s05_requests_without_tokens(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-01  ai_requests  1,250
    usage     2024-01-02  ai_requests    900
    invoice   250 ai_requests x 0.10 = 25.00 USD
    total     124.00 USD
    """


@billing_case
def test_s05_tokens_of_the_overage_requests_only(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-01  ai_requests  1,250
    usage     2024-01-01  ai_tokens  250,000
    usage     2024-01-02  ai_requests    900
    invoice   250 ai_requests x 0.10 = 25.00 USD
    invoice   250,000 ai_tokens(gpt-4) x 0.00003 = 7.50 USD
    total     131.50 USD
    """


@billing_case
def test_s05_all_tokens_as_the_shipped_catalogue_bills_them(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-01  ai_requests      1,250
    usage     2024-01-01  ai_tokens    1,250,000
    usage     2024-01-02  ai_requests        900
    usage     2024-01-02  ai_tokens      900,000
    usage     2024-01-02  ai_tokens(gpt-3.5-turbo)  77,777
    invoice   250 ai_requests x 0.10 = 25.00 USD
    invoice   2,150,000 ai_tokens(gpt-4) x 0.00003 = 64.50 USD
    total     188.50 USD
    """


@pytest.mark.parametrize(
    ("tokens", "amount"),
    [("1", "0.00"), ("166", "0.00"), ("167", "0.01"), ("500", "0.02"), ("1,500", "0.05"), ("1  x 1,000", "0.03")],
)
def test_s06_a_line_is_rounded_once_and_half_up(tokens: str, amount: str) -> None:
    units = "1,000" if "x" in tokens else tokens

    def case(invoice: Invoice) -> None:
        assert len(invoice.lines) == 2

    case.__doc__ = f"""
    plan      pro
    usage     2024-01-15  ai_tokens  {tokens}
    invoice   {units} ai_tokens(gpt-4) x 0.00003 = {amount} USD
    """
    billing_case(case)()


@billing_case(catalogue=seed_with("pro", ai_tokens=charge(0, "month", "0.0000003")))
def test_s06_prices_below_a_millionth_count(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-15  ai_tokens  1,000,000
    invoice   1,000,000 ai_tokens x 0.0000003 = 0.30 USD
    """
    assert '"unit_price":"0.0000003"' in invoice.model_dump_json()


@billing_case
def test_s09_each_line_is_rounded_and_the_lines_add_up(invoice: Invoice) -> None:
    """
    plan      enterprise
    usage     2024-02-01..2024-02-05  api_calls  100,000
    usage     2024-02-06              api_calls  100,001
    usage     2024-02-07              api_calls  130,000
    usage     2024-02-08              ai_requests  10,500
    usage     2024-02-09              webhook_deliveries  12,344
    usage     2024-02-10              reports  5,000
    usage     2024-02-11              ai_tokens  5,000,133
    invoice   500 ai_requests x 0.10 = 50.00 USD
    invoice   5,000,133 ai_tokens(gpt-4) x 0.00003 = 150.00 USD
    invoice   30,001 api_calls x 0.01 = 300.01 USD
    invoice   2,344 webhook_deliveries x 0.001 = 2.34 USD
    total     1001.35 USD
    """


@billing_case
def test_s09_without_tokens(invoice: Invoice) -> None:
    """
    plan      enterprise
    usage     2024-02-06  api_calls  100,001
    usage     2024-02-07  api_calls  130,000
    usage     2024-02-08  ai_requests  10,500
    usage     2024-02-09  webhook_deliveries  12,344
    invoice   500 ai_requests x 0.10 = 50.00 USD
    invoice   30,001 api_calls x 0.01 = 300.01 USD
    invoice   2,344 webhook_deliveries x 0.001 = 2.34 USD
    total     851.35 USD
    """


@billing_case
def test_s10_an_upgrade_at_midnight(invoice: Invoice) -> None:
    """
    period    2024-01
    plan      pro
    plan      enterprise from 2024-01-16
    invoice   base = 99.00 USD
    invoice   proration = -51.10 USD
    invoice   proration = 257.55 USD
    total     305.45 USD
    """


@billing_case
def test_s10_an_upgrade_at_noon(invoice: Invoice) -> None:
    """
    period    2024-01
    plan      pro
    plan      enterprise from 2024-01-16T12:00Z
    invoice   base = 99.00 USD
    invoice   proration = -49.50 USD
    invoice   proration = 249.50 USD
    total     299.00 USD
    """
    assert [line.description for line in invoice.lines] == [
        "pro, 2024-01",
        "pro, unused, 2024-01 from 2024-01-16 12:00:00",
        "enterprise, 2024-01 from 2024-01-16 12:00:00",
    ]


@billing_case
def test_s12_overage_accrues_under_the_plan_in_force_upgrade(invoice: Invoice) -> None:
    """
    plan      pro from 2024-01-01
    plan      enterprise from 2024-01-16T12:00Z
    usage     2024-01-16T11:59Z  api_calls  12,000
    usage     2024-01-16T12:00Z  api_calls  30,000
    invoice   2,000 api_calls x 0.01 = 20.00 USD
    """


@billing_case
def test_s12_overage_accrues_under_the_plan_in_force_downgrade(invoice: Invoice) -> None:
    """
    plan      enterprise from 2024-01-01
    plan      pro from 2024-01-16T12:00Z
    usage     2024-01-16T11:59:59.999999Z  api_calls  50,000
    usage     2024-01-16T12:00Z  api_calls  1,000
    invoice   1,000 api_calls x 0.01 = 10.00 USD
    """
    (window,) = explained(invoice, "api_calls").windows
    assert (window.before, window.used, window.allowance) == (50_000, 51_000, 10_000)


@billing_case
def test_s13_one_utc_day(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-16T03:00Z  api_calls  6,000
    usage     2024-01-16T15:00Z  api_calls  6,000
    invoice   2,000 api_calls x 0.01 = 20.00 USD
    total     119.00 USD
    """


@billing_case
def test_s13_two_days_in_new_york(invoice: Invoice) -> None:
    """
    zone      America/New_York
    plan      pro
    usage     2024-01-16T03:00Z  api_calls  6,000
    usage     2024-01-16T15:00Z  api_calls  6,000
    total     99.00 USD
    """


@billing_case
def test_s13_a_day_of_23_hours_carries_the_whole_quota(invoice: Invoice) -> None:
    """
    zone      America/New_York
    plan      pro
    usage     2024-03-10T04:59:59Z  api_calls      7
    usage     2024-03-10T05:00Z     api_calls  5,000
    usage     2024-03-11T03:59:59Z  api_calls  5,001
    usage     2024-03-11T04:00Z     api_calls      7
    invoice   1 api_calls x 0.01 = 0.01 USD
    """
    (window,) = explained(invoice, "api_calls").windows
    assert window.end - window.start == timedelta(hours=23)


@billing_case
def test_s13_a_day_of_25_hours_carries_one_quota(invoice: Invoice) -> None:
    """
    zone      America/New_York
    plan      pro
    usage     2024-11-03T04:00Z     api_calls  5,000
    usage     2024-11-04T04:59:59Z  api_calls  5,001
    invoice   1 api_calls x 0.01 = 0.01 USD
    """


CAPPED = seed_with("pro", api_calls=charge(10_000, "day", "0.01", cap="20.00"))


@billing_case(catalogue=CAPPED)
def test_s24_what_was_admitted_under_the_cap_is_billed(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-15  api_calls  12,000
    invoice   2,000 api_calls x 0.01 = 20.00 USD
    total     119.00 USD
    """


@billing_case(catalogue=CAPPED)
def test_s24_what_was_recorded_past_the_cap_is_not(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-15  api_calls  12,345
    usage     2024-01-16  api_calls  12,345
    invoice   2,000 api_calls x 0.01 = 20.00 USD
    total     119.00 USD
    """
    (window,) = explained(invoice, "api_calls").windows
    assert (window.overage, window.unbilled) == (2_000, 345)


@billing_case
def test_s27_a_full_month(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10  api_calls  12,345
    usage     2024-01-11  api_calls   9,999
    usage     2024-01-12  api_calls  15,000
    usage     2024-01-12  ai_requests  1,250
    usage     2024-01-03..2024-01-04  webhook_deliveries  617
    usage     2024-01-01..2024-01-26  reports  2
    invoice   250 ai_requests x 0.10 = 25.00 USD
    invoice   7,345 api_calls x 0.01 = 73.45 USD
    invoice   2 reports x 5.00 = 10.00 USD
    invoice   234 webhook_deliveries x 0.001 = 0.23 USD
    total     207.68 USD
    """


@billing_case
def test_s27_a_full_month_with_tokens(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10  api_calls  12,345
    usage     2024-01-12  api_calls  15,000
    usage     2024-01-12  ai_requests  1,250
    usage     2024-01-03..2024-01-04  webhook_deliveries  617
    usage     2024-01-01..2024-01-26  reports  2
    usage     2024-01-30  ai_tokens  1,234,000
    usage     2024-01-31  ai_tokens  567
    invoice   250 ai_requests x 0.10 = 25.00 USD
    invoice   1,234,567 ai_tokens(gpt-4) x 0.00003 = 37.04 USD
    invoice   7,345 api_calls x 0.01 = 73.45 USD
    invoice   2 reports x 5.00 = 10.00 USD
    invoice   234 webhook_deliveries x 0.001 = 0.23 USD
    total     244.72 USD
    """


@billing_case
def test_the_example_of_the_style_page(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-15  api_calls  10,250
    usage     2024-01-16  api_calls   9,000
    invoice   250 api_calls x 0.01 = 2.50 USD
    """


def test_a_statement_that_is_wrong_fails() -> None:
    @billing_case
    def wrong(invoice: Invoice) -> None:
        """
        plan      pro
        usage     2024-01-15  api_calls  10,250
        invoice   251 api_calls x 0.01 = 2.51 USD
        """

    with pytest.raises(AssertionError):
        wrong()


# -- fees ---------------------------------------------------------------------------------------------------------


@billing_case
def test_a_sign_up_pays_from_its_second_on(invoice: Invoice) -> None:
    """
    plan      pro from 2024-01-20
    period    2024-01
    invoice   base = 38.32 USD
    total     38.32 USD
    """


@billing_case
def test_the_month_after_a_sign_up_is_whole(invoice: Invoice) -> None:
    """
    plan      pro from 2024-01-20
    period    2024-02
    invoice   base = 99.00 USD
    """


@billing_case
def test_before_the_sign_up_nothing_is_billed(invoice: Invoice) -> None:
    """
    plan      pro from 2024-01-20
    period    2023-12
    total     0.00 USD
    """
    assert invoice.lines == ()


@billing_case
def test_a_change_at_the_months_first_instant_has_no_proration(invoice: Invoice) -> None:
    """
    plan      pro from 2024-01-05
    plan      enterprise from 2024-02-01
    period    2024-02
    invoice   base = 499.00 USD
    total     499.00 USD
    """


@billing_case
def test_a_change_at_the_next_months_first_instant_is_not_this_months(invoice: Invoice) -> None:
    """
    period    2024-01
    plan      pro from 2024-01-01
    plan      enterprise from 2024-02-01
    invoice   base = 99.00 USD
    total     99.00 USD
    """
    assert [line.kind for line in invoice.lines] == ["base"]


@billing_case
def test_a_downgrade_gives_back_no_more_than_was_paid(invoice: Invoice) -> None:
    """
    period    2024-01
    plan      enterprise from 2024-01-10
    plan      pro from 2024-01-16
    plan      free from 2024-01-20
    invoice   base = 354.13 USD
    invoice   proration = -257.55 USD
    invoice   proration = 51.10 USD
    invoice   proration = -38.32 USD
    total     109.36 USD
    """


@billing_case
def test_a_flip_within_one_second_costs_nothing(invoice: Invoice) -> None:
    """
    period    2024-01
    plan      pro
    plan      enterprise from 2024-01-16T12:00:00.100Z
    plan      pro from 2024-01-16T12:00:00.900Z
    total     99.00 USD
    """


@billing_case
def test_the_free_plan_has_a_base_line_of_zero(invoice: Invoice) -> None:
    """
    plan      free
    period    2024-01
    invoice   base = 0.00 USD
    total     0.00 USD
    """


@billing_case
def test_a_month_is_a_month_of_the_tenants_zone(invoice: Invoice) -> None:
    """
    zone      America/New_York
    period    2024-03
    plan      pro
    plan      enterprise from 2024-03-10
    invoice   base = 99.00 USD
    invoice   proration = -70.22 USD
    invoice   proration = 353.93 USD
    """
    share = invoice.lines[1].explanation
    assert share is not None
    assert share.share is not None
    assert (share.share.seconds, share.share.of_seconds) == ((22 * 24 - 1) * 3600, (31 * 24 - 1) * 3600)


def test_a_tenant_without_a_plan_has_no_fee() -> None:
    row = TenantRow("t", "UTC", 0, 1, None, (Segment(0, "", 0),))
    assert draft(Terms(row, {}), "2024-01", [], currency="USD").lines == ()


# -- overage rules past the scenarios -----------------------------------------------------------------------------


@billing_case
def test_a_blocked_meter_bills_nothing_however_much_was_recorded(invoice: Invoice) -> None:
    """
    plan      free
    usage     2024-01-15  api_calls  5,000
    usage     2024-01-15  reports  9
    usage     2024-01-15  webhook_deliveries  9
    usage     2024-01-15  ai_tokens  9,999
    total     0.00 USD
    """


@billing_case
def test_a_blocked_segment_still_moves_the_count(invoice: Invoice) -> None:
    """
    plan      free from 2024-01-01
    plan      pro from 2024-01-16T12:00Z
    usage     2024-01-16T11:00Z  api_calls  12,000
    usage     2024-01-16T13:00Z  api_calls     500
    invoice   500 api_calls x 0.01 = 5.00 USD
    """


@billing_case
def test_a_monthly_quota_is_not_reset_by_a_change_of_plan(invoice: Invoice) -> None:
    """
    plan      pro from 2024-01-01
    plan      enterprise from 2024-01-10
    plan      pro from 2024-01-20
    usage     2024-01-05  webhook_deliveries   1,500
    usage     2024-01-15  webhook_deliveries   9,000
    usage     2024-01-25  webhook_deliveries   1,000
    invoice   2,000 webhook_deliveries x 0.001 = 2.00 USD
    """
    windows = explained(invoice, "webhook_deliveries").windows
    assert [(w.plan, w.before, w.used, w.overage) for w in windows] == [
        ("pro@1", 0, 1_500, 500),
        ("enterprise@1", 1_500, 10_500, 500),
        ("pro@1", 10_500, 11_500, 1_000),
    ]


@billing_case(catalogue=seed_with("enterprise", api_calls=charge(100_000, "month", "0.008")))
def test_plans_may_differ_in_window_and_price(invoice: Invoice) -> None:
    """
    plan      pro from 2024-01-01
    plan      enterprise from 2024-01-02T12:00Z
    usage     2024-01-01         api_calls   60,000
    usage     2024-01-02T11:00Z  api_calls   11,000
    usage     2024-01-02T13:00Z  api_calls   30,000
    invoice   1,000 api_calls x 0.008 = 8.00 USD
    invoice   51,000 api_calls x 0.01 = 510.00 USD
    """


@billing_case(
    catalogue=seed_with(
        "pro",
        api_calls=[
            charge(10, "day", "0.01"),
            block(40, "month"),
            block(2, "second"),
        ],
    )
)
def test_past_a_second_quota_that_blocks_nothing_is_billed(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-01..2024-01-02  api_calls  15
    usage     2024-01-03              api_calls  25
    usage     2024-01-04              api_calls  25
    invoice   10 api_calls x 0.01 = 0.10 USD
    """


TWO_MODELS = catalogue_of(
    pro={
        "ai_tokens": charge(100, "day", {"gpt-4": "0.03", "mini": "0.01"}),
    }
)


@billing_case(catalogue=TWO_MODELS)
def test_the_dearest_resource_gets_the_allowance(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-15  ai_tokens(mini)    80
    usage     2024-01-15  ai_tokens(gpt-4)   90
    usage     2024-01-15  ai_tokens(other)  500
    usage     2024-01-16  ai_tokens(gpt-4)  120
    usage     2024-01-16  ai_tokens(mini)    10
    invoice   20 ai_tokens(gpt-4) x 0.03 = 0.60 USD
    invoice   80 ai_tokens(mini) x 0.01 = 0.80 USD
    """
    assert [(w.used, w.allowance, w.overage) for w in explained(invoice, "ai_tokens", "mini").windows] == [
        (80, 10, 70),
        (10, 0, 10),
    ]


@billing_case(
    catalogue=catalogue_of(
        low={"api_calls": charge(10, "day", "0.03", cap="0.10")},
        high={"api_calls": charge(10, "month", "0.03", cap="0.50")},
    )
)
def test_a_cap_is_of_the_month_and_spent_in_whole_units(invoice: Invoice) -> None:
    """
    plan      low from 2024-01-01
    plan      high from 2024-01-20
    usage     2024-01-01..2024-01-02  api_calls  12
    usage     2024-01-20              api_calls  20
    invoice   15 api_calls x 0.03 = 0.45 USD
    """


def test_a_cap_holds_whatever_the_unit_price() -> None:
    catalogue = catalogue_of(pro={"api_calls": charge(0, "day", "0.03", cap="20.00")})
    rated = rate_simple(catalogue, [(JANUARY, 5_000)])
    assert [(line.quantity, line.amount) for line in rated] == [(666, Decimal("19.98"))]


def test_a_scoped_cell_is_not_counted_again() -> None:
    counts = (Count("api_calls", "", 12_000), Count("api_calls", "user:7", 12_000))
    fact = Fact("f", micros(JANUARY), "use", "t", "api_call", "/v1", 12_000, None, counts)
    terms = terms_of(catalogues.seed, "pro")
    assert [line.quantity for line in rate(folded([fact], terms.tenant, random.Random(1)), terms)] == [2_000]


def test_usage_before_the_sign_up_is_rated_by_the_first_plan() -> None:
    terms = terms_of(catalogues.seed, "pro", start=JANUARY + timedelta(days=9))
    facts = [api_fact(0, JANUARY, 10_007)]
    assert [line.quantity for line in rate(folded(facts, terms.tenant, random.Random(1)), terms)] == [7]


def test_the_hosts_decimal_context_does_not_reach_a_bill() -> None:
    expected = rated_bill()
    with localcontext(prec=3, rounding="ROUND_DOWN"):
        assert rated_bill() == expected


def rated_bill() -> Invoice:
    terms = terms_of(catalogues.seed, "pro")
    terms = Terms(replace(terms.tenant, tax_rate="0.19"), terms.plans)
    cells = folded([api_fact(0, JANUARY, 1_234_567)], terms.tenant, random.Random(1))
    return draft(terms, "2024-01", cells, currency="USD")


# -- what the counters' loader asks -------------------------------------------------------------------------------


def test_cap_used_counts_past_the_cap_in_nano_units() -> None:
    terms = terms_of(CAPPED, "pro")
    uses = [
        Use(date(2024, 1, 15), 0, "", 12_345),
        Use(date(2024, 1, 16), 0, "", 10_001),
        Use(date(2024, 2, 1), 0, "", 10_002),
    ]
    assert cap_used("api_calls", uses, terms, month=date(2024, 1, 31)) == 23_460_000_000
    assert cap_used("api_calls", uses, terms, month=date(2024, 2, 1)) == 20_000_000
    assert cap_used("api_calls", [], terms, month=date(2024, 2, 1)) == 0


def test_cap_used_counts_only_under_plans_with_a_cap() -> None:
    tree = CAPPED.to_dict()
    tree["plans"]["plain"] = catalogues.seed.to_dict()["plans"]["pro"]
    catalogue = Catalogue.from_dict(tree)
    middle = micros(JANUARY + timedelta(days=10))
    terms = terms_of(catalogue, "plain", then=[(middle, "pro")])
    uses = [Use(date(2024, 1, 2), 0, "", 10_500), Use(date(2024, 1, 12), middle, "", 10_007)]
    assert cap_used("api_calls", uses, terms, month=date(2024, 1, 1)) == 70_000_000


# -- the invoice as a value ---------------------------------------------------------------------------------------


def test_an_invoice_survives_json_and_carries_money_as_text() -> None:
    invoice = rated_bill()
    text = invoice.model_dump_json()
    assert Invoice.model_validate_json(text) == invoice
    assert '"total":"14690.16"' in text
    with pytest.raises(ValidationError):
        invoice.total = Decimal(0)  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Invoice.model_validate(invoice.model_dump() | {"total": 0.1})


def test_ids_are_stable_and_differ_by_line_tenant_period_and_issue() -> None:
    assert rated_bill() == rated_bill()
    terms = terms_of(catalogues.seed, "pro", then=[(micros(JANUARY + timedelta(days=3)), "enterprise")])
    other = Terms(replace(terms.tenant, id="u"), terms.plans)
    drafts = [
        draft(terms, "2024-01", [], currency="USD"),
        draft(terms, "2024-02", [], currency="USD"),
        draft(other, "2024-01", [], currency="USD"),
        draft(terms, "2024-01", [], currency="USD", issue=2),
    ]
    ids = [invoice.id for invoice in drafts] + [line.id for invoice in drafts for line in invoice.lines]
    assert len(set(ids)) == len(ids)


def test_tax_is_a_line_of_its_own_on_the_subtotal() -> None:
    invoice = rated_bill()
    assert [line.kind for line in invoice.lines] == ["base", "overage", "tax"]
    assert (invoice.subtotal, invoice.tax, invoice.total) == (
        Decimal("12344.67"),
        Decimal("2345.49"),
        Decimal("14690.16"),
    )
    assert invoice.lines[-1].description == "tax, 19 % of 12344.67"


def test_cells_of_other_months_are_not_billed() -> None:
    terms = terms_of(catalogues.seed, "pro", start=JANUARY - timedelta(days=90))
    days = (JANUARY - timedelta(days=1), JANUARY, JANUARY + timedelta(days=31), JANUARY + timedelta(days=366))
    facts = [api_fact(n, day, 10_000 + 10**n) for n, day in enumerate(days)]
    invoice = draft(terms, "2024-01", folded(facts, terms.tenant, random.Random(1)), currency="USD")
    assert [line.quantity for line in invoice.lines if line.kind == "overage"] == [10]


def test_an_invoice_is_never_negative_and_carries_the_rest_over() -> None:
    terms = terms_of(catalogues.seed, "pro")
    terms = Terms(replace(terms.tenant, tax_rate="0.19"), terms.plans)  # there is no tax on what is not due
    late = InvoiceLine(
        id="l",
        kind="late_usage",
        meter="api_calls",
        description="correction",
        quantity=1,
        unit_price=Decimal("-120.50"),
        amount=Decimal("-120.50"),
    )
    invoice = draft(terms, "2024-01", [], currency="USD", late=[late])
    assert (invoice.subtotal, invoice.carried_over, invoice.total) == (
        Decimal("-21.50"),
        Decimal("21.50"),
        Decimal("0.00"),
    )
    assert [line.kind for line in invoice.lines] == ["base", "late_usage", "carried_over"]


def test_a_yen_invoice_has_no_minor_digits() -> None:
    terms = terms_of(catalogues.seed, "pro", start=datetime(2024, 1, 20, tzinfo=UTC))
    invoice = draft(terms, "2024-01", [], currency="JPY")
    assert invoice.model_dump(mode="json")["total"] == "38"


Events = Sequence[tuple[datetime, int]]


def rate_simple(catalogue: Catalogue, events: Events) -> list[Overage]:
    terms = terms_of(catalogue, "pro")
    facts = [api_fact(number, *event) for number, event in enumerate(events)]
    return rate(folded(facts, terms.tenant, random.Random(1)), terms)


MINUTES = st.integers(0, 3 * 24 * 60).map(
    lambda minutes: datetime(2024, 1, 30, tzinfo=UTC) + timedelta(minutes=minutes)
)
EVENTS = st.lists(st.tuples(MINUTES, st.integers(1, 9)), max_size=12)
SEEDS = st.integers(0, 2**32).map(random.Random)


def timelines(plans: Sequence[str]) -> st.SearchStrategy[list[tuple[datetime, str]]]:
    later = st.lists(st.tuples(MINUTES, st.sampled_from(plans)), max_size=4, unique_by=lambda change: change[0])
    first = st.sampled_from(plans).map(lambda plan: (datetime(2024, 1, 1, tzinfo=UTC), plan))
    return st.tuples(first, later).map(lambda both: [both[0], *sorted(both[1])])


CAPS = catalogue_of(
    day={"api_calls": charge(5, "day", "0.03")},
    capped={"api_calls": charge(2, "day", "0.03", cap="0.20")},
    blocks={"api_calls": block(4, "day")},
)


@settings(max_examples=100, deadline=None)
@given(EVENTS, timelines(["day", "capped", "blocks"]), SEEDS)
def test_a_capped_month_is_billed_up_to_the_cap(
    events: Events, timeline: list[tuple[datetime, str]], rng: random.Random
) -> None:
    terms = terms_of(CAPS, timeline[0][1], then=[(micros(at), name) for at, name in timeline[1:]])
    cells = folded([api_fact(n, *event) for n, event in enumerate(events)], terms.tenant, rng)
    for month in (date(2024, 1, 1), date(2024, 2, 1)):
        inside = [cell for cell in cells if cell[0].day.month == month.month]
        uses = [Use(key.day, key.since_us, "", cell.quantity) for key, cell, *_ in inside if key.meter == "api_calls"]
        capped = Decimal(sum(w.overage for line in rate(inside, terms) for w in line.windows if w.plan == "capped@1"))
        counted = Decimal(cap_used("api_calls", uses, terms, month=month)) / 30_000_000
        assert capped == min(counted, Decimal("0.20") // Decimal("0.03"))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["gpt-4", "mini", "other"]), st.integers(0, 3), st.integers(1, 90)), max_size=9),
    SEEDS,
)
def test_a_shared_allowance_is_used_up_exactly(uses: list[tuple[str, int, int]], rng: random.Random) -> None:
    terms = terms_of(TWO_MODELS, "pro")
    facts = [
        Fact(
            f"f{number}",
            micros(JANUARY + timedelta(days=day)),
            "use",
            "t",
            "ai_token",
            model,
            quantity,
            None,
            (Count("ai_tokens", "", quantity),),
        )
        for number, (model, day, quantity) in enumerate(uses)
    ]
    lines = rate(folded(facts, terms.tenant, rng), terms)
    by_day = {day: sum(q for _, d, q in uses if d == day) for day in range(4)}
    unpriced = {day: sum(q for model, d, q in uses if d == day and model == "other") for day in range(4)}
    priced = sum(max(0, by_day[day] - unpriced[day] - 100) for day in range(4))
    assert sum(line.quantity for line in lines) == priced


def explained(invoice: Invoice, meter: str, resource: str = "") -> Explanation:
    (line,) = [line for line in invoice.lines if line.meter == meter and resource in line.description]
    assert line.explanation is not None
    return line.explanation
