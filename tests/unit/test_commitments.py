"""Minimum commitments: what tops a month up, by the second, and what late usage makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import Cell, CellKey, CellSum
from mm_metering.core.invoices import Discount, Invoice, InvoiceLine, Share
from mm_metering.core.invoicing import billed_already, draft, late_lines
from mm_metering.core.periods import parse_day
from mm_metering.core.rating import Terms
from tests.unit.billing_case import JANUARY, billing_case, charge, check_explained, statement_terms
from tests.unit.billing_case import parse as statement

CALLS: dict[str, Any] = {"api_calls": charge(10_000, "day", "0.01")}
CATALOGUE = Catalogue.from_dict(
    {
        "currency": "USD",
        "meters": {"api_calls": {"event": "api_call"}},
        "plans": {
            "free": {"price": "0.00", "quotas": CALLS},
            "pro": {"price": "99.00", "minimum": "500.00", "quotas": CALLS},
            "team": {"price": "0.00", "minimum": "310.00", "quotas": CALLS},
        },
    }
)


# -- statements --------------------------------------------------------------------------------------------------------


@billing_case(catalogue=CATALOGUE)
def test_what_fees_and_usage_leave_short_is_topped_up(invoice: Invoice) -> None:
    """
    plan      pro
    usage     2024-01-10  api_calls  32,150
    invoice   22,150 api_calls x 0.01 = 221.50 USD
    invoice   base = 99.00 USD
    invoice   commitment = 179.50 USD
    total     500.00 USD
    """
    line = invoice.lines[-1]
    assert (line.description, line.quantity, line.meter) == ("minimum 500.00, less 320.50 used", 1, None)
    assert line.explanation is not None
    assert line.explanation.share == Share(seconds=2_678_400, of_seconds=2_678_400)
    assert (line.explanation.unit_price, line.explanation.plan_version) == (Decimal("500.00"), "pro@1")
    assert line.explanation.rounding == "500.00, less 320.50: 179.5 rounded half up to 0.01: 179.50"


@pytest.mark.parametrize(("calls", "commitment"), [(50_099, "0.01"), (50_100, None), (50_101, None)])
def test_what_reaches_the_minimum_is_not_topped_up(calls: int, commitment: str | None) -> None:
    assert topped_up(month([used(calls)])) == commitment


@billing_case(catalogue=CATALOGUE)
def test_a_sign_up_owes_its_share_to_the_second(invoice: Invoice) -> None:
    """
    plan      pro from 2024-01-20T12:00:01Z
    invoice   base = 36.73 USD
    invoice   commitment = 148.75 USD
    total     185.48 USD
    """
    # 500 x 993,599 / 2,678,400 = 185.48369...
    why = invoice.lines[-1].explanation
    assert why is not None
    assert why.share == Share(seconds=993_599, of_seconds=2_678_400)
    assert invoice.lines[-1].description == "minimum 185.48, less 36.73 used"


@billing_case(catalogue=CATALOGUE)
def test_a_change_of_plan_moves_from_one_minimum_to_the_other(invoice: Invoice) -> None:
    """
    plan      pro
    plan      team from 2024-01-16
    invoice   base = 99.00 USD
    invoice   proration = -51.10 USD
    invoice   commitment = 354.04 USD
    total     401.94 USD
    """
    # 500 x 15/31 + 310 x 16/31 = 241.93548 + 160 = 401.93548; of that 99.00 - 51.10 = 47.90 are there
    line = invoice.lines[-1]
    assert line.description == "minimum 401.94, less 47.90 used"
    assert line.explanation is not None
    assert (line.explanation.share, line.explanation.unit_price) == (None, Decimal("401.94"))
    assert line.explanation.rounding.startswith(
        "310.00 x 1,382,400/2,678,400 + 500.00 x 1,296,000/2,678,400, less 47.90: 354.0354838"
    )


@billing_case(catalogue=CATALOGUE)
def test_a_plan_without_a_minimum_owes_none_for_its_time(invoice: Invoice) -> None:
    """
    plan      free
    plan      team from 2024-01-21
    usage     2024-01-02  api_calls  10,500
    invoice   500 api_calls x 0.01 = 5.00 USD
    invoice   base = 0.00 USD
    invoice   commitment = 105.00 USD
    total     110.00 USD
    """
    assert invoice.lines[-1].description == "minimum 110.00, less 5.00 used"


def test_changes_within_one_second_and_after_the_month_do_not_move_it() -> None:
    said = statement(
        "plan pro\nplan free from 2024-01-16T00:00Z\nplan pro from 2024-01-16T00:00:00.9Z\n"
        "plan free from 2024-02-01T00:00Z\nperiod 2024-01"
    )
    terms = statement_terms(said, CATALOGUE)
    assert topped_up(draft(terms, "2024-01", [], currency="USD")) == "401.00"
    assert topped_up(draft(terms, "2024-02", [], currency="USD")) is None
    assert topped_up(draft(terms, "2023-12", [], currency="USD")) is None


# -- discounts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scope", "off"), [("base", "-9.90"), ("metered", "-1.00"), ("all", "-50.00")])
def test_a_discount_of_fees_or_of_usage_does_not_see_it(scope: Any, off: str) -> None:
    invoice = month([used(11_000)], discounts=[ten_percent(scope)])
    assert amounts(invoice, "discount") == [off]
    assert topped_up(invoice) == "391.00", "nor does the minimum see the discount"


@pytest.mark.parametrize("following", [0, 70_000])
@pytest.mark.parametrize("scope", ["base", "metered", "all"])
def test_late_usage_under_the_minimum_is_discounted_as_if_it_had_come_in_time(scope: Any, following: int) -> None:
    """Also where the month that has it owes nothing to its own minimum."""
    discounts, cells = [ten_percent(scope)], [used(following, day="2024-02-10")]
    billed, in_time = (month([used(calls)], discounts=discounts) for calls in (11_000, 11_500))
    late = late_of(billed.lines, used(11_500))
    alone, with_late = (
        draft(TERMS, "2024-02", cells, currency="USD", late=more, discounts=discounts) for more in ([], late)
    )
    assert billed.total + with_late.total == in_time.total + alone.total


# -- late usage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "usage", "commitment"),
    [
        (11_500, "5.00", "-5.00"),  # the minimum had paid for it
        (50_000, "390.00", "-390.00"),
        (50_200, "392.00", "-391.00"),  # the last 1.00 lies past it
        (90_000, "790.00", "-391.00"),
        (10_600, "-4.00", "4.00"),  # taken back, and still owed
    ],
)
def test_usage_that_comes_late_under_a_minimum_is_not_billed_twice(calls: int, usage: str, commitment: str) -> None:
    billed = month([used(11_000)]).lines
    late = late_of(billed, used(calls))
    assert [(line.kind, str(line.amount), line.period) for line in late] == [
        ("commitment", commitment, "2024-01"),
        ("late_usage", usage, "2024-01"),
    ]
    assert late[0].description == "minimum of 2024-01, after its invoice"
    assert late_of([*billed, *late], used(calls)) == [], "once"
    again = billed_already(TERMS, "2024-01", late, currency="USD", issue=2)
    assert [(line.kind, line.amount) for line in again] == [(line.kind, -line.amount) for line in late]
    anew = draft(TERMS, "2024-01", [used(calls)], currency="USD", late=again, issue=2)
    assert anew.total == month([used(11_000)]).total


def test_a_plan_changed_late_moves_the_minimum_with_its_fees() -> None:
    billed = month([]).lines
    said = statement("plan pro\nplan free from 2024-01-16\nperiod 2024-01")
    late = late_lines(statement_terms(said, CATALOGUE), "2024-01", [], billed, into="2024-02", currency="USD")
    assert [(line.kind, str(line.amount)) for line in late] == [("proration", "-51.10"), ("commitment", "-206.96")]
    assert sum(line.amount for line in (*billed, *late)) == Decimal("241.94")


def test_late_usage_does_not_count_towards_the_minimum_of_the_month_that_bills_it() -> None:
    late = late_of(month([used(50_100)]).lines, used(60_100))
    following = draft(TERMS, "2024-02", [], currency="USD", late=late)
    assert (amounts(following, "late_usage"), topped_up(following)) == (["100.00"], "401.00")


# -- helpers -----------------------------------------------------------------------------------------------------------

TERMS: Terms = statement_terms(statement("plan pro\nperiod 2024-01"), CATALOGUE)


def used(calls: int, *, day: str = "2024-01-10") -> Cell:
    """On one day."""
    return Cell(
        CellKey("t", parse_day(day, "day"), TERMS.tenant.segments[0].starts_us, "api_calls", "", ""),
        CellSum(calls, count=1),
        1,
    )


def month(cells: Sequence[Cell], discounts: Sequence[Discount] = ()) -> Invoice:
    return draft(TERMS, "2024-01", cells, currency="USD", discounts=discounts)


def late_of(billed: Sequence[InvoiceLine], cell: Cell) -> list[InvoiceLine]:
    return late_lines(TERMS, "2024-01", [cell], billed, into="2024-02", currency="USD")


def ten_percent(scope: Any) -> Discount:
    return Discount(
        id="d", tenant="t", name="launch", percent=Decimal(10), amount=None, applies_to=scope, starts_at=JANUARY
    )


def amounts(invoice: Invoice, kind: str) -> list[str]:
    return [str(line.amount) for line in invoice.lines if line.kind == kind]


def topped_up(invoice: Invoice) -> str | None:
    if not any(line.kind in ("discount", "late_usage", "carried_over") for line in invoice.lines):
        check_explained(invoice)
    return next(iter(amounts(invoice, "commitment")), None)
