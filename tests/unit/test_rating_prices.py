"""Graduated, volume, package and flat prices on an invoice, as statements."""

from __future__ import annotations

import random
from decimal import Decimal

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.invoices import Explanation, Invoice
from mm_metering.core.invoicing import draft
from tests.unit.billing_case import JANUARY, api_fact, billing_case, catalogue_of, charge, folded, terms_of

TIERS = [{"up_to": 1_000, "unit_price": "0.01"}, {"unit_price": "0.008", "flat": "5.00"}]
GRADUATED = {"graduated": TIERS}


def priced(price: object, limit: int = 1_000, per: str = "day") -> dict[str, object]:
    return {"limit": limit, "per": per, "then": "charge", "price": price}


def pro_with(price: object, limit: int = 1_000, per: str = "day") -> Catalogue:
    return catalogue_of(pro={"api_calls": priced(price, limit, per)})


@billing_case(catalogue=pro_with(GRADUATED))
def test_graduated_tiers_count_the_months_units_past_the_allowances(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10..2024-01-12  api_calls  1,600
    usage     2024-01-13              api_calls    900
    invoice   1,800 api_calls = 21.40 USD
    total     21.40 USD
    """
    (_, line) = invoice.lines
    assert line.description == "1,800 api_calls past the allowance, 1,000 at 0.01, then 800 at 0.008 + 5.00"
    assert line.unit_price == Decimal("0.011888888889")  # the mean
    why = explained(invoice)
    assert [window.overage for window in why.windows] == [600, 600, 600]
    assert [tier.model_dump() for tier in why.tiers] == [
        {
            "after": 0,
            "up_to": 1_000,
            "quantity": 1_000,
            "unit_price": Decimal("0.01"),
            "flat": Decimal(0),
            "amount": Decimal("10.00"),
            "package": None,
        },
        {
            "after": 1_000,
            "up_to": None,
            "quantity": 800,
            "unit_price": Decimal("0.008"),
            "flat": Decimal("5.00"),
            "amount": Decimal("11.40"),
            "package": None,
        },
    ]


@billing_case(catalogue=pro_with(GRADUATED))
def test_exactly_a_tier_does_not_reach_the_next(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10..2024-01-11  api_calls  1,500
    invoice   1,000 api_calls = 10.00 USD
    """


@billing_case(catalogue=pro_with(GRADUATED))
def test_the_next_unit_reaches_the_next_tier_with_its_flat_part(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10..2024-01-11  api_calls  1,500
    usage     2024-01-12              api_calls  1,001
    invoice   1,001 api_calls = 15.01 USD
    """


@billing_case(catalogue=pro_with(GRADUATED))
def test_tiers_begin_anew_with_the_month(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-31  api_calls  9,000
    usage     2024-02-01  api_calls  1,100
    period    2024-02
    invoice   100 api_calls = 1.00 USD
    """


@billing_case(catalogue=pro_with({"volume": TIERS}))
def test_a_volume_price_is_that_of_the_last_tier_reached(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10..2024-01-12  api_calls  1,600
    invoice   1,800 api_calls = 19.40 USD
    """
    assert invoice.lines[1].description == "1,800 api_calls past the allowance, all at 0.008 + 5.00"


@billing_case(catalogue=pro_with({"package": 1_000, "unit_price": "5.00"}))
def test_each_begun_package_is_billed(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10..2024-01-11  api_calls  1,500
    usage     2024-01-12              api_calls  1,001
    invoice   1,001 api_calls = 10.00 USD
    """
    assert invoice.lines[1].description == "1,001 api_calls past the allowance, 2 packages of 1,000 at 5.00"


@billing_case(catalogue=pro_with({"flat": "10.00"}))
def test_a_flat_price_is_billed_once(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10..2024-01-20  api_calls  1,001
    invoice   11 api_calls = 10.00 USD
    """
    assert invoice.lines[1].description == "11 api_calls past the allowance, 10.00 flat"


@billing_case(catalogue=pro_with({"flat": "10.00"}))
def test_within_the_allowance_a_flat_price_is_not_billed(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10..2024-01-20  api_calls  1,000
    total     0.00 USD
    """


@billing_case(catalogue=pro_with({"graduated": [{"unit_price": "0.000000000001234567"}]}, limit=0, per="month"))
def test_prices_of_more_than_twelve_decimals_count(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10..2024-01-12  api_calls  9,000,000,000
    invoice   27,000,000,000 api_calls = 0.03 USD
    """
    assert explained(invoice).tiers[0].amount == Decimal("0.033333309000")


@billing_case(
    catalogue=catalogue_of(
        small={"api_calls": priced(GRADUATED)},
        large={"api_calls": priced(GRADUATED, limit=2_000)},
        unit={"api_calls": charge(3_000, "day", "0.01")},
    )
)
def test_one_price_of_two_plans_is_one_line_and_another_price_its_own(invoice: Invoice) -> None:
    """
    plan      small from 2024-01-01
    plan      large from 2024-01-11
    plan      unit from 2024-01-21
    usage     2024-01-10  api_calls  1,700
    usage     2024-01-20  api_calls  2,700
    usage     2024-01-30  api_calls  3,100
    invoice   100 api_calls x 0.01 = 1.00 USD
    invoice   1,400 api_calls = 18.20 USD
    """
    assert len({line.id for line in invoice.lines}) == len(invoice.lines)


@billing_case(
    catalogue=catalogue_of(pro={"api_calls": [priced(GRADUATED, limit=100), {"limit": 1_300, "per": "month"}]})
)
def test_past_a_quota_that_blocks_units_reach_no_tier(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10  api_calls  900
    usage     2024-01-11  api_calls  900
    invoice   1,100 api_calls = 15.80 USD
    """


def test_a_line_through_tiers_survives_json() -> None:
    catalogue = pro_with(GRADUATED)
    terms = terms_of(catalogue, "pro")
    invoice = draft(
        terms, "2024-01", folded([api_fact(0, JANUARY, 2_345)], terms.tenant, random.Random(1)), currency="USD"
    )
    assert Invoice.model_validate_json(invoice.model_dump_json()) == invoice


def explained(invoice: Invoice) -> Explanation:
    (line,) = [line for line in invoice.lines if line.kind == "overage"]
    assert line.explanation is not None
    return line.explanation
