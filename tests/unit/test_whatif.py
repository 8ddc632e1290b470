"""What another catalogue would have brought, worked out by hand; and that the same one changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mm_metering import catalogues
from mm_metering.core.addons import with_addon
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import Cell, CellKey, CellSum, Segment
from mm_metering.core.invoices import Discount
from mm_metering.core.periods import Window, days_between, days_of, micros
from mm_metering.core.rating import Terms
from mm_metering.core.simulation import Simulation, Tally
from mm_metering.core.whatif import Compared, Question, compare, let_in, segments_in
from mm_metering.errors import InvalidInput
from tests.unit import oracle
from tests.unit.billing_case import JANUARY, block, catalogue_of, charge, seed_with, terms_of
from tests.unit.months import ALL, METERS, Case, cases, plans, without_addons
from tests.unit.test_oracle import before as standing
from tests.unit.test_oracle import cells_of

NOW: Final = datetime(2024, 4, 15, 12, tzinfo=UTC)
LATER: Final = datetime(2030, 1, 1, tzinfo=UTC)
SINCE: Final = micros(JANUARY)


def cell(
    day: str, meter: str = "api_calls", used: int = 0, *, refused: int = 0, resource: str = "", since: int = SINCE
) -> Cell:
    key = CellKey("t", date.fromisoformat(day), since, meter, resource, "")
    return Cell(key, CellSum(used, count=1 if used else 0), 1, refused)


def asked(
    new: Catalogue, current: Catalogue = catalogues.seed, start: str = "2024-01", end: str = "2024-03"
) -> Question:
    return Question.of(new, current, start=start, end=end, now=NOW)


def compared(
    terms: Terms, new: Catalogue, *cells: Cell, discounts: Sequence[Discount] = (), current: Catalogue = catalogues.seed
) -> Compared:
    after = asked(new, current).replaced(terms)
    return compare(terms, after, "2024-01", cells, currency="USD", discounts=discounts)


def amounts(found: Compared) -> tuple[str, str, str]:
    return str(found.before), str(found.after), str(found.with_refused)


def priced(plan: str, price: str, **quotas: object) -> Catalogue:
    """The seed with another base price and other quotas in one plan."""
    new = seed_with(plan, **quotas)
    return replace(new, plans={**new.plans, plan: replace(new.plans[plan], price=Decimal(price))})


def added(before: Catalogue, after: Catalogue, *cells: Cell) -> list[tuple[str, str, int]]:
    old = terms_of(before, "p")
    more = let_in(cells, old, asked(after, before).replaced(old))
    return [(str(each.key.day), each.key.resource, each.total.quantity) for each in more]


# -- amounts ----------------------------------------------------------------------------------------------------------


def test_a_month_under_other_prices() -> None:
    """99.00 + 2,345 x 0.01 before; 79.00 + 7,345 x 0.02 after."""
    new = priced("pro", "79.00", api_calls=charge(5_000, "day", "0.02"))
    found = compared(terms_of(catalogues.seed, "pro"), new, cell("2024-01-10", used=12_345))
    assert amounts(found) == ("122.45", "225.90", "225.90")
    assert found.refused == {}


def test_discounts_are_taken_of_both() -> None:
    """10 % of 99.00, and of 79.00."""
    tenth = Discount(
        id="di_1",
        tenant="t",
        name="d",
        percent=Decimal(10),
        amount=None,
        applies_to="all",
        starts_at=JANUARY,
        ends_at=None,
    )
    found = compared(terms_of(catalogues.seed, "pro"), priced("pro", "79.00"), discounts=[tenth])
    assert amounts(found) == ("89.10", "71.10", "71.10")


def test_each_segment_gets_the_new_plan_of_its_own_name() -> None:
    """Pro until 20 January, then Enterprise, which costs 599.00 now: 99.00 - 99.00 x 12/31 + 599.00 x 12/31."""
    change = micros(datetime(2024, 1, 20, tzinfo=UTC))
    terms = terms_of(catalogues.seed, "pro", then=[(change, "enterprise")])
    use = cell("2024-01-25", used=100_500, since=change)  # 500 x 0.01
    found = compared(terms, priced("enterprise", "599.00"), use)
    assert amounts(found) == ("258.84", "297.55", "297.55")


def test_two_versions_of_a_plan_become_one() -> None:
    """A rise from 79.00 to 99.00 on 20 January; at 50.00 for the whole month there is nothing to prorate."""
    old = priced("pro", "79.00").plans["pro"]
    change = micros(datetime(2024, 1, 20, tzinfo=UTC))
    row = replace(
        terms_of(catalogues.seed, "pro").tenant, segments=(Segment(SINCE, "pro", 1), Segment(change, "pro", 2))
    )
    terms = Terms(row, {("pro", 1): old, ("pro", 2): catalogues.seed.plans["pro"]})
    found = compared(terms, priced("pro", "50.00"))
    assert amounts(found) == ("86.74", "50.00", "50.00")  # 79.00 - 30.58 + 38.32


def test_own_versions_and_plans_that_are_gone_stay() -> None:
    gone = priced("free", "5.00")
    gone = replace(gone, plans={name: plan for name, plan in gone.plans.items() if name != "pro"}, default_plan="free")
    row = terms_of(catalogues.seed, "pro").tenant
    own = Terms(
        replace(row, segments=(Segment(SINCE, "free~t", 1),)), {("free~t", 1): priced("free", "3.00").plans["free"]}
    )
    assert amounts(compared(own, gone)) == ("3.00", "3.00", "3.00")
    assert amounts(compared(terms_of(catalogues.seed, "pro"), gone)) == ("99.00", "99.00", "99.00")
    assert amounts(compared(terms_of(catalogues.seed, "free"), gone)) == ("0.00", "5.00", "5.00")
    question = asked(gone)
    assert [question.is_missing(each) for each in ("pro", "pro~t", "free", "")] == [True, False, False, False]


def test_a_version_that_has_add_ons_alone_gets_the_new_plan_with_the_new_ones() -> None:
    """Two add-ons of 20.00, each 5,000 calls a day, beside 99.00: 12,345 calls lie within. Then 79.00 and two of 30.00
    with 1,000 calls each: 5,345 x 0.01 past 7,000."""
    sold = {"price": "20.00", "quotas": {"api_calls": 5_000}}
    old = Catalogue.from_dict(catalogues.seed.to_dict() | {"addons": {"calls": sold}})
    new = priced("pro", "79.00", api_calls=charge(5_000, "day", "0.01"))
    dearer = sold | {"price": "30.00", "quotas": {"api_calls": 1_000}}
    new = Catalogue.from_dict(new.to_dict() | {"addons": {"calls": dearer}})
    plain_terms = terms_of(old, "pro")
    mine = with_addon(old.plans["pro"], old.addons["calls"], 2)
    row = replace(plain_terms.tenant, segments=(Segment(SINCE, "pro~t", 1),))
    terms = Terms(row, {**plain_terms.plans, ("pro~t", 1): mine})
    use = cell("2024-01-10", used=12_345)
    assert amounts(compared(terms, new, use)) == ("139.00", "192.45", "192.45")
    changed = Terms(row, {**plain_terms.plans, ("pro~t", 1): replace(mine, price=Decimal(50))})
    assert amounts(compared(changed, new, use)) == ("90.00", "90.00", "90.00")
    question = asked(new)
    assert [question.keeps_own(row.segments[0], each) for each in (terms, changed)] == [False, True]


def test_the_segments_of_a_month() -> None:
    change, later = (micros(datetime(2024, month, 1, tzinfo=UTC)) for month in (2, 3))
    terms = terms_of(catalogues.seed, "free", then=[(change, "pro"), (later + 1, "enterprise")])
    names = [[each.plan for each in segments_in(terms.tenant, f"2024-0{month}", terms)] for month in (1, 2, 3)]
    assert names == [["free"], ["pro"], ["pro", "enterprise"]]


# -- refused demand ----------------------------------------------------------------------------------------------------


def test_refused_demand_takes_the_room_that_the_new_limits_leave() -> None:
    """On the 3rd, 50 of 50 refused calls fit under 400 a month. On the 4th 250 are counted, so that 150 of 400 fit.
    Past 100 a day, 50 + 150 calls x 0.10 are billed."""
    new = catalogue_of(p={"api_calls": [charge(100, "day", "0.10"), block(400, "month")]})
    old = catalogue_of(p={"api_calls": block(100, "day")})
    use = [cell("2024-01-04", used=100, refused=400), cell("2024-01-03", used=100, refused=50)]
    found = compared(terms_of(old, "p"), new, *use, current=old)
    assert amounts(found) == ("0.00", "0.00", "20.00")
    assert found.refused == {"api_calls": 450}
    assert added(old, new, *use) == [("2024-01-03", "", 50), ("2024-01-04", "", 150)]


def test_each_day_has_its_own_room() -> None:
    old, new = (catalogue_of(p={"api_calls": block(limit, "day")}) for limit in (100, 130))
    use = [
        cell("2024-01-03", used=100, refused=20),
        cell("2024-01-04", used=90, refused=70),
        cell("2024-01-05", refused=1),
    ]
    assert added(old, new, *use) == [("2024-01-03", "", 20), ("2024-01-04", "", 40), ("2024-01-05", "", 1)]


def test_use_of_later_days_does_not_take_the_room_of_earlier_ones() -> None:
    old, new = (catalogue_of(p={"api_calls": block(limit, "month")}) for limit in (10, 20))
    use = [cell("2024-01-03", used=5, refused=30), cell("2024-01-20", used=5, refused=30)]
    assert added(old, new, *use) == [("2024-01-03", "", 15)]


@pytest.mark.parametrize(
    ("old", "new", "units"),
    [
        (block(10, "day"), block("unlimited", "day"), 7),
        (block(10, "day"), charge(10, "day", "0.01"), 7),
        (block(10, "day"), block(0, "day"), 0),
        (block(10, "day"), block(10, "day"), 0),
        (block(10, "day"), block(9, "day"), 0),
        ([charge(10, "day", "0.01"), block(5, "second")], [charge(10, "day", "0.05"), block(5, "second")], 0),
        ([charge(10, "day", "0.01"), block(5, "second")], charge(10, "day", "0.01"), 7),
        ([charge(10, "day", "0.01"), block(5, "second")], [charge(10, "day", "0.01"), block(6, "second")], 7),
        (charge(10, "day", "0.01", cap="1.00"), charge(10, "day", "0.01", cap="1.00"), 0),
        (charge(10, "day", "0.01", cap="1.00"), charge(10, "day", "0.02", cap="1.00"), 7),
    ],
)
def test_what_the_new_limits_refuse_as_the_old_ones_did_stays_refused(old: Any, new: Any, units: int) -> None:
    before, after = catalogue_of(p={"api_calls": old}), catalogue_of(p={"api_calls": new})
    found = added(before, after, cell("2024-01-03", used=10, refused=7))
    assert sum(more for *_, more in found) == units


def test_a_cap_bounds_what_refused_demand_brings() -> None:
    """20 and 30 calls are past 10, of which 0.25 pays for 25."""
    old = catalogue_of(p={"api_calls": block(30, "day")})
    new = catalogue_of(p={"api_calls": charge(10, "day", "0.01", cap="0.25")})
    found = compared(terms_of(old, "p"), new, cell("2024-01-03", used=30, refused=10), current=old)
    assert amounts(found) == ("0.00", "0.20", "0.25")


def test_refused_units_have_the_resources_of_the_day_or_else_of_the_month() -> None:
    """3 of 4 on the 3rd are gpt-4: 8 of 10. On the 4th nothing was used, so 15 of 20 as the month has it: 3 of 4."""
    old = catalogue_of(p={"ai_tokens": block(4, "day")})
    new = catalogue_of(p={"ai_tokens": charge(0, "day", {"gpt-4": "1.00", "small": "0.10"})})
    use = [
        cell("2024-01-03", "ai_tokens", 3, resource="gpt-4"),
        cell("2024-01-03", "ai_tokens", 1, resource="small"),
        cell("2024-01-03", "ai_tokens", refused=10),
        cell("2024-01-04", "ai_tokens", refused=20),
    ]
    assert added(old, new, *use) == [
        ("2024-01-03", "gpt-4", 7),
        ("2024-01-03", "small", 3),
        ("2024-01-04", "gpt-4", 15),
        ("2024-01-04", "small", 5),
    ]
    found = compared(terms_of(old, "p"), new, *use, current=old)
    assert amounts(found) == ("0.00", "3.10", "25.90")  # 25 x 1.00 + 9 x 0.10


def test_where_nothing_was_used_refused_units_have_no_resource_and_no_price_by_resource() -> None:
    old = catalogue_of(p={"ai_tokens": block(0, "day")})
    new = catalogue_of(p={"ai_tokens": charge(0, "day", {"gpt-4": "1.00"})})
    use = cell("2024-01-03", "ai_tokens", refused=10)
    assert added(old, new, use) == [("2024-01-03", "", 10)]
    assert amounts(compared(terms_of(old, "p"), new, use, current=old)) == ("0.00", "0.00", "0.00")


def test_refused_seats_are_told_and_not_let_in() -> None:
    new = priced("free", "0.00", users={"limit": 1, "then": "charge", "unit_price": "10.00"})
    found = compared(terms_of(catalogues.seed, "free"), new, cell("2024-01-03", "users", refused=3))
    assert amounts(found) == ("0.00", "0.00", "0.00")
    assert found.refused == {"users": 3}


def test_a_segment_lets_in_what_its_own_new_plan_has_room_for() -> None:
    """Only Free is changed: what Pro refused with its burst rate stays refused."""
    new = seed_with("free", api_calls=charge(100, "day", "0.05"))
    change = micros(datetime(2024, 1, 20, tzinfo=UTC))
    terms = terms_of(catalogues.seed, "free", then=[(change, "pro")])
    use = [cell("2024-01-20", used=100, refused=40), cell("2024-01-20", used=10_000, refused=70, since=change)]
    found = compared(terms, new, *use)
    assert [each.quantize(Decimal("0.01")) for each in found[:3]] == [
        Decimal("39.32"),  # 99.00 x 12/31, and 100 x 0.01 past 10,000 a day
        Decimal("39.32"),
        Decimal("41.72"),  # 40 x 0.05 more, and 40 more of the day's calls past 10,000: 0.40
    ]


# -- questions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("2024-1", "2024-03", "'2024-1' is not a calendar month"),
        ("2024-01", "2024-13", "'2024-13' is not a calendar month"),
        ("2024-02", "2024-01", "2024-01 is before 2024-02"),
        ("2021-03", "2024-03", "2021-03 to 2024-03 are 37 months, and at most 36"),
        ("2024-01", "2024-05", "2024-05 has not begun anywhere; the last month that has is 2024-04"),
    ],
)
def test_months_that_are_none_are_refused(start: str, end: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        asked(catalogues.seed, start=start, end=end)


def test_at_most_36_months_up_to_the_running_one() -> None:
    found = asked(catalogues.seed, start="2021-05", end="2024-04")
    assert (found.periods[0], found.periods[8], found.periods[-1], len(found.periods)) == (
        "2021-05",
        "2022-01",
        "2024-04",
        36,
    )
    early = Question.of(
        catalogues.seed, catalogues.seed, start="2024-05", end="2024-05", now=datetime(2024, 4, 30, 10, tzinfo=UTC)
    )
    assert early.periods == ("2024-05",)  # it has begun at UTC+14


def test_catalogues_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InvalidInput, match="is in EUR, and the usage was sold in USD"):
        asked(replace(catalogues.seed, currency="EUR"))
    tree = catalogues.seed.to_dict()
    tree["meters"]["users"] = {"event": "login"}
    tree["plans"] = {"free": {"price": "0"}}
    with pytest.raises(
        InvalidInput, match="users is a sum of count there, and its usage was counted as a level of count"
    ):
        asked(Catalogue.from_dict(tree))


def test_a_meter_that_a_compared_plan_limits_may_not_be_dropped() -> None:
    tree = catalogues.seed.to_dict()
    del tree["meters"]["exports"], tree["meters"]["reports"]
    for plan in tree["plans"].values():
        del plan["quotas"]["reports"]
    question, terms = asked(Catalogue.from_dict(tree)), terms_of(catalogues.seed, "pro")
    with pytest.raises(InvalidInput, match="has no meter 'reports', which pro@1 limits; keep it under"):
        question.check_meters(terms, terms.tenant.segments)
    own = Terms(terms.tenant, {("pro~t", 1): catalogues.seed.plans["pro"]})
    question.check_meters(own, [Segment(SINCE, "pro~t", 1), Segment(SINCE, "", 0)])


# -- sums --------------------------------------------------------------------------------------------------------------


def month(before: str, after: str, refused: str = "", **units: int) -> Compared:
    return Compared(Decimal(before), Decimal(after), Decimal(refused or after), units)


def test_months_and_tenants_are_added_up() -> None:
    tally = Tally(asked(catalogues.seed, start="2024-01", end="2024-02"), catalogues.seed)
    tally.add("a", ["free", "pro", "pro"], {"2024-01": month("1.00", "3.00"), "2024-02": month("10", "9", api_calls=2)})
    tally.add("b", ["pro"], {"2024-02": month("5.00", "2.00", "6.00", api_calls=7, ai_cost=1_500_000_000)})
    tally.add("c", ["pro"], {"2024-01": month("4.00", "4.00")})
    found = tally.simulation()
    total = found.total
    assert [str(each) for each in (total.before, total.after, total.with_refused)] == ["20.00", "18.00", "22.00"]
    assert [str(each) for each in (total.difference, total.difference_with_refused)] == ["-2.00", "2.00"]
    by_month = [(each.period, str(each.before), str(each.after), str(each.with_refused)) for each in found.months]
    assert by_month == [("2024-01", "5.00", "7.00", "7.00"), ("2024-02", "15.00", "11.00", "15.00")]
    assert [(each.tenant, str(each.difference), each.plans) for each in found.tenants] == [
        ("a", "1.00", ("free", "pro")),
        ("b", "-3.00", ("pro",)),
        ("c", "0.00", ("pro",)),
    ]
    assert (found.more, found.less, found.same) == (1, 1, 1)
    assert [each.tenant for each in found.rises] == ["a"]
    assert [each.tenant for each in found.falls] == ["b"]
    assert found.refused == {"ai_cost": Decimal("1.50"), "api_calls": 9}
    assert Simulation.model_validate_json(found.model_dump_json()) == found
    assert '"difference_with_refused":"2.00"' in found.model_dump_json()


def test_the_ten_largest_are_told_and_of_equal_ones_the_first() -> None:
    tally = Tally(asked(catalogues.seed, start="2024-01", end="2024-01"), catalogues.seed)
    for number in range(24):
        change = f"{number // 2 + 1}.00"
        tally.add(
            f"t{number:02}", ["pro"], {"2024-01": month("50.00", change) if number % 2 else month("0.00", change)}
        )
    found = tally.simulation()
    assert [each.tenant for each in found.rises] == [f"t{number:02}" for number in range(22, 3, -2)]
    assert [each.tenant for each in found.falls] == [f"t{number:02}" for number in range(1, 20, 2)]
    same = Tally(tally.question, catalogues.seed)
    for number in range(12):
        same.add(f"t{number:02}", ["pro"], {"2024-01": month("0.00", "1.00")})
    assert [each.tenant for each in same.simulation().rises] == [f"t{number:02}" for number in range(10)]


def test_nobody_is_a_sum_too() -> None:
    found = Tally(asked(catalogues.seed), catalogues.seed).simulation()
    assert (str(found.total.before), found.same, len(found.months), found.new_meters) == ("0.00", 0, 3, ())


def test_meters_that_count_what_was_not_counted_are_named() -> None:
    tree = catalogues.seed.to_dict()
    tree["meters"] |= {"pages": {"event": "export", "resource": "page_*"}, "api_calls": {"event": "call"}}
    found = Tally(asked(Catalogue.from_dict(tree)), catalogues.seed).simulation()
    assert sorted(found.new_meters) == ["api_calls", "pages"]


# -- any month ---------------------------------------------------------------------------------------------------------

many = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
REFUSALS: Final = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(("calls", "tokens", "disk")), st.integers(1, 40)), max_size=6
)


def refusals(case: Case, drawn: Sequence[tuple[int, str, int]]) -> list[Cell]:
    """Cells of what was refused, on days of the month, under the plan in force at one of its segments."""
    days, row = [*days_between(*days_of(case.period))], case.terms.tenant
    units: Counter[CellKey] = Counter()
    for number, meter, refused in drawn:
        since_us = row.segments[number % len(row.segments)].starts_us
        units[CellKey("t", days[number % len(days)], since_us, meter, "", "")] += refused
    return [Cell(key, CellSum(), 0, refused) for key, refused in units.items()]


CASES: Final = cases().map(Case.without_addons)


def catalogue_with(named: Mapping[str, Any]) -> Catalogue:
    return Catalogue.from_dict({"currency": "USD", "meters": METERS, "plans": named})


def whatif(case: Case, drawn: Sequence[tuple[int, str, int]], named: Mapping[str, Any]) -> tuple[Compared, list[Cell]]:
    terms, current = case.terms, catalogue_with(case.month.plans)
    question = Question.of(catalogue_with(named), current, start=case.period, end=case.period, now=LATER)
    cells, after = [*cells_of(case, terms), *refusals(case, drawn)], question.replaced(terms)
    inside = [each for each in cells if each.key.day.replace(day=1) == case.first_day]
    stood = standing(cells, case.first_day)
    found = compare(terms, after, case.period, inside, currency="USD", levels_before=stood)
    return found, let_in(inside, terms, after)


@many
@given(CASES, REFUSALS)
def test_the_same_catalogue_changes_nothing(case: Case, drawn: list[tuple[int, str, int]]) -> None:
    found, more = whatif(case, drawn, case.month.plans)
    assert found.before == found.after == found.with_refused
    assert more == []


@many
@given(CASES, plans(ALL))
def test_another_catalogue_comes_to_what_is_billed_by_hand(case: Case, offered: list[dict[str, Any]]) -> None:
    """Plans that are not offered any more stay."""
    named = case.month.plans | without_addons({f"p{number}": plan for number, plan in enumerate(offered)})
    found, _ = whatif(case, [], {name: named[name] for name in list(named)[: len(offered)]})
    by_hand = case.month._replace(plans=named)
    for month, amount in ((case.month, found.before), (by_hand, found.after)):
        assert Fraction(amount) == sum(line[-1] for line in oracle.invoice(month, case.events, case.levels))


@many
@given(CASES, REFUSALS, plans(ALL))
def test_no_more_is_let_in_than_was_refused_and_fits(
    case: Case, drawn: list[tuple[int, str, int]], offered: list[dict[str, Any]]
) -> None:
    named = case.month.plans | without_addons({f"p{number}": plan for number, plan in enumerate(offered)})
    found, more = whatif(case, drawn, named)
    asked_for: Counter[tuple[date, int, str]] = Counter()
    for each in refusals(case, drawn):
        asked_for[each.key.day, each.key.since_us, each.key.meter] += each.refused
    given_to: Counter[tuple[date, int, str]] = Counter()
    for each in more:
        given_to[each.key.day, each.key.since_us, each.key.meter] += each.total.quantity
    assert all(0 < units <= asked_for[key] for key, units in given_to.items())
    assert not any(meter == "disk" for _, _, meter in given_to)
    assert found.refused == Counter(dict(_by_meter(asked_for)))
    if not more:
        assert found.with_refused == found.after
    after = Question.of(
        catalogue_with(named), catalogue_with(case.month.plans), start=case.period, end=case.period, now=LATER
    ).replaced(case.terms)
    for (day, since_us, meter), units in given_to.items():
        for limit in after.limits(meter, since_us):
            if limit.blocks and limit.maximum is not None and limit.window is Window.DAY:
                assert units <= limit.maximum, day


def _by_meter(units: Counter[tuple[date, int, str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (_, _, meter), number in units.items():
        found[meter] += number
    return found
