"""Where a fact belongs, and what levels come to: by hand, since every ledger folds with the same code."""

from __future__ import annotations

import itertools
from datetime import date, datetime

from mm_metering.core.cells import Calendar, CellKey, CellSum, LevelEnd, Segment, add, add_all, fold_level
from mm_metering.core.facts import Count, Fact
from mm_metering.core.periods import micros

DAY_S = 86_400


def at(text: str) -> int:
    return micros(datetime.fromisoformat(f"{text}+00:00"))


def fact(when: str, quantity: int, kind: str = "use", fact_id: str = "f") -> Fact:
    counts = (Count("users", "", quantity),)
    return Fact(fact_id, at(when), kind, "acme", "", "seat", quantity, 7, counts)


CHANGE = at("2024-01-15 12:00")
CALENDAR = Calendar("UTC", (Segment(at("2024-01-01 00:00"), "free", 1), Segment(CHANGE, "pro", 1)))


def test_the_instant_of_a_change_of_plan_belongs_to_the_new_plan() -> None:
    assert [CALENDAR.since(moment) for moment in (CHANGE - 1, CHANGE, CHANGE + 1)] == [
        at("2024-01-01 00:00"),
        CHANGE,
        CHANGE,
    ]


def test_what_lies_before_the_first_plan_belongs_to_it() -> None:
    assert CALENDAR.since(at("2023-06-01 00:00")) == at("2024-01-01 00:00")


def test_a_day_is_the_tenants_own() -> None:
    kathmandu = Calendar("Asia/Kathmandu", ())  # 18:15 in UTC is its midnight
    assert kathmandu.day(at("2024-01-15 18:14:59")) == date(2024, 1, 15)
    assert kathmandu.day(at("2024-01-15 18:15:00")) == date(2024, 1, 16)
    assert kathmandu.seconds_left(at("2024-01-15 18:14:58")) == 2


def test_a_fact_moves_the_cell_of_its_type_and_of_each_meter_and_is_held_by_one() -> None:
    cells: dict[CellKey, CellSum] = {}
    add(cells, fact("2024-01-15 09:00", 3)._replace(event_type="seat"), CALENDAR)
    by_meter = {key.meter: total for key, total in cells.items()}
    assert {meter: (cell.quantity, cell.cost_nanos, cell.count) for meter, cell in by_meter.items()} == {
        "*seat": (3, 7, 1),
        "users": (3, 7, 1),
    }
    assert [cell.facts for cell in by_meter.values()] == [1, 0]
    assert by_meter["*seat"].digest != by_meter["users"].digest == 0


def test_many_facts_at_once_come_to_what_each_alone_does() -> None:
    """Alike ones, and such as differ in one thing alone."""
    one = fact("2024-01-15 09:00", 3)._replace(event_type="seat")
    others = [
        *(one, one, one._replace(success=False), one._replace(tenant="beta"), one._replace(resource="desk")),
        *(
            one._replace(quantity=4),
            one._replace(counts=()),
            one._replace(cost_nanos=None),
            one._replace(event_type=""),
        ),
        *(one._replace(occurred_us=CHANGE), one._replace(occurred_us=at("2024-01-16 00:00"))),
    ]
    facts = [each._replace(id=f"f{number}") for number, each in enumerate(others)]
    for sign in (1, -1):
        together, alone = dict[CellKey, CellSum](), dict[CellKey, CellSum]()
        add_all(together, facts, {"acme": CALENDAR, "beta": Calendar("UTC", ())}.__getitem__, sign)
        for each in facts:
            add(alone, each, CALENDAR if each.tenant == "acme" else Calendar("UTC", ()), sign)
        assert together == alone
        assert sum(cell.facts for cell in together.values()) == sign * (len(facts))


def test_a_fact_taken_back_leaves_nothing() -> None:
    cells: dict[CellKey, CellSum] = {}
    add(cells, fact("2024-01-15 09:00", 3), CALENDAR)
    add(cells, fact("2024-01-15 09:00", 3), CALENDAR, -1)
    assert [*cells.values()] == [CellSum()]


def test_a_failed_call_is_a_fact_without_units() -> None:
    cells: dict[CellKey, CellSum] = {}
    add(cells, fact("2024-01-15 09:00", 3)._replace(event_type="seat", success=False, counts=()), CALENDAR)
    assert [(cell.quantity, cell.count, cell.facts) for cell in cells.values()] == [(0, 1, 1)]


def level(*facts: Fact) -> tuple[dict[date, CellSum], LevelEnd]:
    cells: dict[CellKey, CellSum] = {}
    end = fold_level(cells, "users", facts, Calendar("UTC", ()))
    return {key.day: total for key, total in cells.items()}, end


def test_a_level_never_falls_below_zero() -> None:
    """2 users, 5 leave, 1 comes: 1, not -2."""
    days, end = level(
        fact("2024-01-15 00:00", 2, "set", "a"),
        fact("2024-01-15 06:00", -5, "add", "b"),
        fact("2024-01-15 12:00", 1, "add", "c"),
    )
    assert end.value == 1
    (cell,) = days.values()
    assert (cell.quantity, cell.count) == (1, 3)
    assert cell.weighted == 2 * DAY_S - 2 * DAY_S * 3 // 4 + DAY_S // 2


def test_a_levels_facts_are_taken_in_order_of_their_instants() -> None:
    facts = (
        fact("2024-01-15 00:00", 4, "add", "a"),
        fact("2024-01-15 06:00", 10, "set", "b"),
        fact("2024-01-16 00:00", -3, "add", "c"),
    )
    assert len({repr(level(*order)) for order in itertools.permutations(facts)}) == 1
    days, end = level(*facts)
    assert end == LevelEnd(10 - 3, 2 * at("2024-01-16 00:00"))
    assert [day.quantity for day in days.values()] == [10, -3]


def test_a_set_comes_after_an_add_of_the_same_instant_by_its_stamp() -> None:
    _, end = level(fact("2024-01-15 00:00", 4, "set"))
    assert end == LevelEnd(4, 2 * at("2024-01-15 00:00") + 1)
