"""What a level that charges comes to: its mean over the month past the limit, each plan for its time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import Calendar, Cell, CellKey, CellSum, LevelEnd, fold_level
from mm_metering.core.facts import Count, Fact
from mm_metering.core.invoices import InvoiceLine
from mm_metering.core.invoicing import _Bill
from mm_metering.core.periods import micros
from mm_metering.core.rating import Overage, Terms, rate
from tests.unit.billing_case import catalogue_of, terms_of

TIERS = [{"up_to": 1_000, "unit_price": "0.01"}, {"unit_price": "0.008", "flat": "5.00"}]
APRIL = datetime(2024, 4, 1, tzinfo=UTC)
GIGABYTES = {"limit": 1_000, "then": "charge", "unit_price": "0.02"}


def disk(quota: object, **others: object) -> Catalogue:
    return catalogue_of(pro={"storage_mb": quota}, **{name: {"storage_mb": each} for name, each in others.items()})


def level_lines(
    terms: Terms, *sets: tuple[datetime, str, int], stood: int = 0, period: str = "2024-04"
) -> list[Overage]:
    """What is billed for a level that ``stood`` at the month's start and was set then."""
    cells: dict[CellKey, CellSum] = {}
    calendar = Calendar(terms.tenant.timezone, terms.tenant.segments)
    for resource in {"a", *(name for _, name, _ in sets)}:
        facts = [
            Fact(f"{n}", micros(at), "set", "t", "", name, value, None, (Count("storage_mb", "", value),))
            for n, (at, name, value) in enumerate(sets)
            if name == resource
        ]
        fold_level(cells, "storage_mb", facts, calendar, LevelEnd(stood if resource == "a" else 0, -1))
    found = [Cell(key, total, 1) for key, total in cells.items()]
    before = {("storage_mb", "a"): stood, ("users", "a"): 5_000, ("*storage", "a"): stood}
    return rate(found, terms, period=period, levels_before=before)


def lines_of(lines: Sequence[Overage]) -> list[tuple[str, Decimal]]:
    return [(str(line.quantity), line.amount) for line in lines]


def test_a_level_that_stands_all_month_bills_what_is_past_the_limit() -> None:
    terms = terms_of(disk(GIGABYTES), "pro")
    (line,) = level_lines(terms, stood=1_500)
    assert (line.meter, line.resource, line.quantity, line.amount) == ("storage_mb", "", 500, Decimal("10.00"))
    (window,) = line.windows
    assert (window.start, window.end) == (APRIL, datetime(2024, 5, 1, tzinfo=UTC))
    assert (window.used, window.allowance, window.overage, window.plan) == (1_500, 1_000, 500, "pro@1")
    assert (window.before, window.unbilled, window.events) == (0, 0, 0)


def test_a_level_up_to_the_limit_bills_nothing() -> None:
    assert level_lines(terms_of(disk(GIGABYTES), "pro"), stood=1_000) == []


def test_a_level_bills_its_mean_over_the_month() -> None:
    terms = terms_of(disk(GIGABYTES), "pro")
    halfway = (APRIL + timedelta(days=15), "a", 2_000)
    assert lines_of(level_lines(terms, halfway, stood=1_000)) == [("500.000000", Decimal("10.00000000"))]
    assert lines_of(level_lines(terms, halfway, stood=400)) == [("200.000000", Decimal("4.00000000"))]  # 1,200 - 1,000
    assert level_lines(terms, halfway) == []  # a mean of 1,000
    (line,) = level_lines(terms, halfway, (APRIL + timedelta(days=20), "a", 5_000), stood=1_000)
    assert line.windows[0].events == 2


def test_a_mean_is_rounded_half_up_to_a_millionth_and_then_priced_exactly() -> None:
    terms = terms_of(disk(GIGABYTES | {"limit": 0}), "pro")
    second = APRIL + timedelta(days=30) - timedelta(seconds=1)
    assert lines_of(level_lines(terms, (second, "a", 1))) == []  # 0.000000386
    assert lines_of(level_lines(terms, (second, "a", 2))) == [("0.000001", Decimal("0.00000002"))]
    assert lines_of(level_lines(terms, (APRIL + timedelta(days=20), "a", 1_000))) == [
        ("333.333333", Decimal("6.66666666"))
    ]


def test_all_resources_of_a_level_share_the_limit() -> None:
    terms = terms_of(disk(GIGABYTES), "pro")
    (line,) = level_lines(terms, (APRIL, "b", 400), (APRIL + timedelta(days=15), "c", 200), stood=900)
    assert (line.quantity, line.resource) == (400, "")


def test_each_plan_bills_its_share_of_the_month() -> None:
    catalogue = disk(GIGABYTES, max=GIGABYTES | {"limit": 2_000, "unit_price": "0.01"})
    terms = terms_of(catalogue, "pro", then=[(micros(APRIL + timedelta(days=10, hours=12)), "max")])
    cheap, dear = level_lines(terms, stood=3_000)
    assert lines_of([cheap, dear]) == [("650.000000", Decimal("6.50000000")), ("700.000000", Decimal("14.00000000"))]
    (window,) = dear.windows
    assert (window.used, window.allowance) == (1_050, 350)  # 3,000 and 1,000 for 10.5 of 30 days
    assert window.end == cheap.windows[0].start == APRIL + timedelta(days=10, hours=12)


def test_one_plan_again_is_the_same_line_and_room_left_under_one_is_none_under_the_next() -> None:
    catalogue = disk(GIGABYTES, none={"limit": "unlimited"})
    third, two_thirds = APRIL + timedelta(days=10), APRIL + timedelta(days=20)
    terms = terms_of(catalogue, "pro", then=[(micros(third), "none"), (micros(two_thirds), "pro")])
    (line,) = level_lines(terms, (third, "a", 1_600), stood=100)
    assert [(window.start, window.overage) for window in line.windows] == [(two_thirds, 200)]
    (line,) = level_lines(terms, (third, "a", 1_600), stood=1_900)
    assert [(window.start, window.overage) for window in line.windows] == [(APRIL, 300), (two_thirds, 200)]
    assert line.amount == 10


def test_a_change_at_a_plans_instant_is_the_new_plans() -> None:
    catalogue = disk(GIGABYTES, max=GIGABYTES | {"limit": 2_000})
    noon = APRIL + timedelta(days=15, hours=12)
    terms = terms_of(catalogue, "pro", then=[(micros(noon), "max")])
    assert level_lines(terms, (noon, "a", 2_000), stood=1_000) == []


def test_a_level_counts_from_the_local_day_of_the_sign_up() -> None:
    sign_up = APRIL + timedelta(days=20, hours=9)
    terms = terms_of(disk(GIGABYTES), "pro", start=sign_up)
    (line,) = level_lines(terms, (APRIL + timedelta(days=3), "a", 9_000), (APRIL + timedelta(days=20), "a", 1_600))
    assert (line.quantity, line.windows[0].start) == (200, APRIL + timedelta(days=20))
    assert level_lines(terms, stood=9_000, period="2024-03") == []


def test_a_month_with_a_clock_change_is_weighed_by_its_seconds() -> None:
    terms = terms_of(disk(GIGABYTES | {"limit": 0}), "pro", timezone="America/New_York")
    after = datetime(2024, 3, 11, 4, tzinfo=UTC)  # the day after the one of 23 hours
    (line,) = level_lines(terms, (after, "a", 743), period="2024-03")
    assert line.quantity == 21 * 24


def test_a_fraction_of_a_level_falls_into_no_gap_between_tiers() -> None:
    terms = terms_of(disk({"limit": 0, "then": "charge", "price": {"graduated": TIERS}}), "pro")
    (line,) = level_lines(terms, (APRIL + timedelta(days=15), "a", 1_001), stood=1_000)
    assert (line.quantity, line.amount) == (Decimal("1000.5"), Decimal("15.004"))
    assert [tier.quantity for tier in line.tiers] == [1_000, Decimal("0.5")]


@pytest.mark.parametrize("quota", [{"limit": 1_000}, {"limit": "unlimited"}])
def test_a_level_that_does_not_charge_is_not_billed(quota: object) -> None:
    assert level_lines(terms_of(disk(quota), "pro"), (APRIL, "b", 5_000), stood=9_000) == []


def test_a_level_is_a_line_like_any_other() -> None:
    terms = terms_of(disk({"limit": 0, "then": "charge", "price": {"graduated": TIERS}}), "pro")
    (over,) = level_lines(terms, (APRIL + timedelta(days=15), "a", 1_001), stood=1_000)
    line = _Bill(terms, "2024-04", "USD", 1).overage(over)
    assert line.description == (
        "1,000.5 storage_mb past the allowance in the month's mean, 1,000 at 0.01, then 0.5 at 0.008 + 5.00"
    )
    assert (line.quantity, line.amount, line.unit_price) == (
        Decimal("1000.5"),
        Decimal("15.00"),
        Decimal("0.014996501749"),
    )
    assert InvoiceLine.model_validate_json(line.model_dump_json()) == line


def test_without_a_period_levels_are_not_billed() -> None:
    terms = terms_of(disk(GIGABYTES), "pro")
    assert rate([], terms, levels_before={("storage_mb", "a"): 9_000}) == []
