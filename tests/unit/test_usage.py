"""What a host reads about a tenant's days."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm_metering import catalogues
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import (
    NO_LEVEL,
    Calendar,
    Cell,
    CellKey,
    CellSum,
    LevelEnd,
    Segment,
    fold_level,
    level_meters,
)
from mm_metering.core.facts import Count, Fact
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import TenantRow
from mm_metering.core.usage import MAX_DAYS, UsageRange, UsageSnapshot, usage
from mm_metering.errors import InvalidInput
from tests.unit.billing_case import folded, use_fact

NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)
NOW = datetime(2024, 2, 1, tzinfo=UTC)
ROW = TenantRow("t", "UTC", 0, 1, None, (Segment(0, "pro", 1), Segment(micros(NOON), "enterprise", 1)))
TODAY, DAY = NOON.date(), timedelta(days=1)


def with_storage_cost(cost: str) -> Catalogue:
    tree = catalogues.seed.to_dict()
    tree["meters"]["storage_mb"] |= {"cost": cost}
    return Catalogue.from_dict(tree)


def event(moment: datetime, event_type: str, resource: str, quantity: int = 1, cost_nanos: int = 0) -> Fact:
    return use_fact(
        catalogues.seed,
        f"{moment}{event_type}{resource}",
        moment,
        event_type,
        resource=resource,
        quantity=quantity,
        cost_nanos=cost_nanos,
    )


def level(moment: datetime, meter: str, value: int, *, event_type: str = "", resource: str = "") -> Fact:
    counts = (Count(meter, "", value),)
    return Fact(f"{moment}{meter}", micros(moment), "set", "t", event_type, resource, value, None, counts)


def level_cells(facts: Sequence[Fact], timezone: str = "UTC") -> list[Cell]:
    """As the ledger folds levels: per meter and resource, in order."""
    cells: dict[CellKey, CellSum] = {}
    ends: dict[tuple[str, str], LevelEnd] = {}
    for resource in sorted({fact.resource for fact in facts}):
        own = [fact for fact in facts if fact.resource == resource]
        for meter in level_meters(own[0]):
            ends[meter, resource] = fold_level(cells, meter, own, Calendar(timezone, ROW.segments), NO_LEVEL)
    return [Cell(key, cell, 1) for key, cell in cells.items()]


def read(
    cells: Sequence[Cell],
    first: date = TODAY,
    last: date = TODAY,
    *,
    carried: Mapping[tuple[str, str], int] | None = None,
    catalogue: Catalogue = catalogues.seed,
    timezone: str = "UTC",
) -> UsageRange:
    return usage("t", first, last, cells, carried=carried or {}, catalogue=catalogue, timezone=timezone, now=NOW)


def used(*facts: Fact) -> UsageRange:
    return read(folded(facts, ROW, random.Random(1)))


def test_named_counts_come_from_the_event_types() -> None:
    day = used(
        event(NOON, "api_call", "/v1/a", 3),
        event(NOON - DAY / 4, "api_call", "/v1/b", 4),
        event(NOON, "ai_call", "gpt-4", 2),
        event(NOON, "ai_token", "gpt-4", 2_000),
        event(NOON, "webhook_delivery", "wh_1", 5),
        event(NOON, "export", "report_pdf", 6),
        event(NOON, "export", "data_csv", 7),
    )
    assert (day.api_calls, day.ai_requests, day.ai_tokens, day.webhook_deliveries, day.exports) == (7, 2, 2_000, 5, 13)
    assert (day.meters["reports"], day.meters["exports"]) == (6, 13)


def test_a_fact_in_two_meters_costs_once() -> None:
    day = used(event(NOON, "export", "report_pdf", 1, cost_nanos=2_500_000_001))
    assert day.total_cost == Decimal("2.500000001")
    assert '"total_cost":"2.500000001"' in day.model_dump_json()


def test_tiny_costs_have_no_exponent_in_json() -> None:
    assert '"total_cost":"0.000000001"' in used(event(NOON, "api_call", "/v1", cost_nanos=1)).model_dump_json()


def test_a_money_meter_is_money() -> None:
    day = used(event(NOON, "ai_call", "gpt-4", 1, cost_nanos=30_000_000))
    assert day.meters["ai_cost"] == Decimal("0.03")
    assert '"ai_cost":"0.03"' in day.model_dump_json()


def test_what_failed_costs_and_does_not_count() -> None:
    failed = event(NOON, "api_call", "/v1", 5, cost_nanos=7_000_000)._replace(success=False, counts=())
    day = used(failed)
    assert (day.api_calls, day.meters["api_calls"], day.total_cost) == (0, 0, Decimal("0.007"))


def test_scoped_counts_are_not_added_again() -> None:
    fact = event(NOON, "ai_call", "gpt-4", 1, cost_nanos=30_000_000)
    day = used(fact._replace(counts=(*fact.counts, Count("ai_cost", "model:gpt-4", 30_000_000))))
    assert day.meters["ai_cost"] == day.total_cost == Decimal("0.03")


def test_a_day_without_usage_is_all_zeros_over_every_meter() -> None:
    (day,) = read([]).days
    assert (day.id, day.tenant, day.date, day.created_at, day.revision) == ("t/2024-01-15", "t", TODAY, NOW, 0)
    assert day.total_cost == 0
    assert day.meters == dict.fromkeys(catalogues.seed.meters, 0)


def test_a_range_has_every_day_and_their_sum() -> None:
    facts = [event(NOON + day * DAY, "api_call", "/v1", day + 1, cost_nanos=10_000_000) for day in range(4)]
    cells = folded(facts, ROW, random.Random(1))
    found = read(cells, date(2024, 1, 14), date(2024, 1, 17))
    assert (found.start, found.end, found.date) == (date(2024, 1, 14), date(2024, 1, 17), date(2024, 1, 14))
    assert [day.api_calls for day in found.days] == [0, 1, 2, 3]
    assert (found.api_calls, found.meters["api_calls"], found.total_cost) == (6, 6, Decimal("0.03"))
    assert found.revision == sum(day.revision for day in found.days) > 0


def test_local_days_are_the_tenants() -> None:
    row = TenantRow("t", "America/New_York", 0, 1, None, (Segment(0, "pro", 1),))
    cells = folded([event(datetime(2024, 1, 16, 3, tzinfo=UTC), "api_call", "/v1", 6)], row, random.Random(1))
    assert read(cells, timezone="America/New_York").api_calls == 6
    assert read(cells, date(2024, 1, 16), date(2024, 1, 16), timezone="America/New_York").api_calls == 0


# -- levels -------------------------------------------------------------------------------------------------------


def test_a_level_is_its_last_value_summed_over_resources() -> None:
    facts = [
        level(NOON, "storage_mb", 100, event_type="storage", resource="a"),
        level(NOON + timedelta(hours=2), "storage_mb", 40, event_type="storage", resource="a"),
        level(NOON + timedelta(hours=1), "storage_mb", 7, event_type="storage", resource="b"),
    ]
    found = read(level_cells(facts), date(2024, 1, 14), date(2024, 1, 17))
    assert [day.storage_mb for day in found.days] == [0, 47, 47, 47]
    assert (found.storage_mb, found.meters["storage_mb"]) == (47, 47)


def test_a_level_carries_in_from_before_the_range() -> None:
    cells = level_cells([level(NOON, "users", 3)])
    (key, total, revision, _) = cells[0]
    fell = [Cell(key, CellSum(quantity=-2, weighted=-2 * 43_200, count=1), revision)]
    found = read(fell, carried={("users", ""): 5, ("*storage", "a"): 9, ("storage_mb", "a"): 9})
    assert total.quantity == 3
    assert (found.meters["users"], found.storage_mb, found.meters["storage_mb"]) == (3, 9, 9)


def test_the_cost_of_a_level_is_its_time_weighted_mean() -> None:
    cells = level_cells([level(NOON, "storage_mb", 100, event_type="storage", resource="a")])
    found = read(cells, TODAY, TODAY + DAY, catalogue=with_storage_cost("0.02"))
    assert [day.total_cost for day in found.days] == [Decimal("1.00"), Decimal("2.00")]
    assert found.total_cost == Decimal("3.00")


def test_the_mean_of_a_short_day_is_over_its_own_seconds() -> None:
    change = datetime(2024, 3, 10, 16, tzinfo=UTC)  # noon in New York, 11 hours into a day of 23
    facts = [level(change, "storage_mb", 46, event_type="storage", resource="a")]
    cells = level_cells(facts, "America/New_York")
    day = date(2024, 3, 10)
    found = read(cells, day, day, catalogue=with_storage_cost("1.00"), timezone="America/New_York")
    assert found.total_cost == Decimal("24.00")


def test_a_day_that_a_zone_skipped_is_empty() -> None:
    day = date(2011, 12, 30)
    carried = {("storage_mb", ""): 5}
    found = read([], day, day, carried=carried, catalogue=with_storage_cost("1"), timezone="Pacific/Apia")
    assert found.total_cost == 0
    assert found.meters["storage_mb"] == 5


# -- bounds and forms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [date(2024, 1, 14), TODAY + MAX_DAYS * DAY])
def test_a_range_must_be_in_order_and_bounded(last: date) -> None:
    with pytest.raises(InvalidInput, match=r"end: .* 3,659 days") as caught:
        read([], TODAY, last)
    assert caught.value.field == "end"


def test_usage_survives_json() -> None:
    found = used(event(NOON, "ai_call", "gpt-4", 1, cost_nanos=30_000_000))
    assert UsageRange.model_validate_json(found.model_dump_json()) == found
    assert UsageSnapshot.model_validate_json(found.days[0].model_dump_json()) == found.days[0]


FACTS = st.lists(
    st.builds(
        event,
        st.integers(0, 5 * 1440).map(lambda minutes: NOON + timedelta(minutes=minutes)),
        st.sampled_from(["api_call", "export", "ai_call"]),
        st.sampled_from(["report_pdf", "gpt-4"]),
        st.integers(1, 99),
        st.integers(0, 10**9),
    ),
    max_size=20,
)


@settings(max_examples=100, deadline=None)
@given(FACTS, st.integers(0, 2**32).map(random.Random))
def test_days_add_up_to_the_facts(facts: list[Fact], rng: random.Random) -> None:
    found = read(folded(facts, ROW, rng), TODAY, TODAY + 6 * DAY)
    assert found.exports == sum(day.exports for day in found.days) == units(facts, "export")
    assert found.api_calls == units(facts, "api_call")
    assert found.total_cost * 10**9 == sum(fact.cost_nanos or 0 for fact in facts)


def units(facts: Sequence[Fact], event_type: str) -> int:
    return sum(fact.quantity for fact in facts if fact.event_type == event_type)
