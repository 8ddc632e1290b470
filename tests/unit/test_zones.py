"""Tenants that move between time zones: dates go on one by one, and no day lasts longer than 26 hours."""

from __future__ import annotations

import copy
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.core.periods import LONGEST_DAY, day_span, day_start, local_day, micros, month_span, zone
from mm_metering.core.zones import MAX_MOVES, last_move_us, moved_zone, zone_name
from mm_metering.errors import InvalidInput

NAMES = (
    *("UTC", "America/New_York", "America/Los_Angeles", "Asia/Tokyo", "Asia/Kathmandu", "Europe/Berlin"),
    *("Australia/Lord_Howe", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Pacific/Apia"),
)
START = datetime(2024, 1, 1, tzinfo=UTC)
LONG_AGO = -(2**60)
DAY = timedelta(days=1)


def moved(name: str, to: str, at: str) -> str:
    return moved_zone(name, to, micros(datetime.fromisoformat(f"{at}+00:00")), since_us=LONG_AGO)


def hours(name: str, first: date, days: int) -> list[float]:
    spans = [day_span(first + timedelta(days=n), zone(name)) for n in range(days)]
    return [span.seconds / 3600 for span in spans]


def test_a_clock_that_goes_back_does_so_by_two_hours_a_day() -> None:
    name = moved("UTC", "America/Los_Angeles", "2024-01-16T10:00:00")
    assert hours(name, date(2024, 1, 15), 7) == [24, 26, 26, 26, 26, 24, 24]
    assert day_start(date(2024, 1, 20), zone(name)) == day_start(date(2024, 1, 20), ZoneInfo("America/Los_Angeles"))


def test_a_clock_that_goes_forward_does_so_at_once() -> None:
    name = moved("UTC", "Asia/Tokyo", "2024-01-16T10:00:00")
    assert hours(name, date(2024, 1, 15), 4) == [24, 15, 24, 24]
    late = moved("UTC", "Asia/Tokyo", "2024-01-16T20:00:00")  # it is the 17th in Tokyo by then
    assert hours(late, date(2024, 1, 15), 4) == [24, 20, 19, 24]
    assert local_day(datetime(2024, 1, 16, 20, tzinfo=UTC), zone(late)) == date(2024, 1, 17)


def test_what_has_begun_stays_and_months_begin_with_their_first_day() -> None:
    name = moved("UTC", "America/New_York", "2024-01-31T12:00:00")
    assert day_start(date(2024, 1, 31), zone(name)) == datetime(2024, 1, 31, tzinfo=UTC)
    assert month_span(2024, 1, zone(name)).end == day_start(date(2024, 2, 1), zone(name))
    assert hours(name, date(2024, 1, 31), 4) == [26, 26, 25, 24]


def test_of_the_name_the_last_part_is_shown_and_the_first_day_of_a_tenant_moves_with_it() -> None:
    name = moved("UTC", "Asia/Tokyo", "2024-01-16T10:00:00")
    assert name == "UTC@1705399200>Asia/Tokyo"
    assert (zone_name(name), zone_name("UTC")) == ("Asia/Tokyo", "UTC")
    assert moved(name, "Asia/Tokyo", "2024-03-01T00:00:00") == name
    assert last_move_us("UTC", name) == micros(datetime(2024, 1, 16, 10, tzinfo=UTC))
    assert (last_move_us("UTC", "UTC"), last_move_us("Asia/Tokyo", name)) == (None, None)
    now_us = micros(START)
    assert moved_zone("UTC", "Asia/Tokyo", now_us + 86_399_999_999, since_us=now_us) == "Asia/Tokyo"
    assert moved_zone("UTC", "Asia/Tokyo", now_us + 86_400_000_000, since_us=now_us).startswith("UTC@")


def test_moves_are_bounded_and_a_broken_name_is_an_error() -> None:
    name = "UTC"
    for number in range(MAX_MOVES):
        name = moved(name, NAMES[1 + number % 2], f"2024-01-{1 + number // 2:02}T{number % 2:02}:00:00")
    with pytest.raises(InvalidInput, match=f"was changed {MAX_MOVES} times"):
        moved(name, "UTC", "2024-06-01T00:00:00")
    assert zone(name).utcoffset(datetime.fromisoformat("2024-06-01")) == timedelta(hours=-7)
    for broken in ("UTC@x>Asia/Tokyo", "UTC>Asia/Tokyo", "@1>UTC", "UTC@1>", "Nowhere@1>UTC", "UTC@1>Nowhere"):
        with pytest.raises(InvalidInput, match="is not an IANA time zone"):
            zone(broken)


MOVES = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 40 * 86_400)), min_size=1, max_size=4)


@given(st.sampled_from(NAMES), MOVES, st.integers(0, 300))
def test_however_often_it_moves_each_date_comes_once_in_order_and_no_day_is_longer_than_26_hours(
    name: str, moves: list[tuple[str, int]], first: int
) -> None:
    moment = START + first * DAY
    begin = moment - 2 * DAY
    for to, seconds in moves:
        before, name = name, moved_zone(name, to, micros(moment), since_us=LONG_AGO)
        for hours_ago in range(60):
            past = moment - timedelta(hours=hours_ago, microseconds=1)
            assert local_day(past, zone(name)) == local_day(past, zone(before))
            day = local_day(past, zone(before))
            assert day_start(day, zone(name)) == day_start(day, zone(before))
        moment += timedelta(seconds=seconds)
    tz, day = zone(name), local_day(begin, zone(name))
    start = day_start(day, tz)
    while start < moment + 16 * DAY:
        day += DAY
        end = day_start(day, tz)
        assert timedelta() <= end - start <= LONGEST_DAY
        for at in (start, start + (end - start) / 3, end - timedelta(microseconds=1)):
            if start <= at < end:
                assert local_day(at, tz) == day - DAY
                assert at.astimezone(tz).astimezone(UTC) == at
        start = end
    assert start.astimezone(tz).utcoffset() == start.astimezone(zone(zone_name(name))).utcoffset()
    assert copy.deepcopy(start.astimezone(tz)) == start
