"""Days, months and windows in every zone: they tile time, whatever the clocks do."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mm_metering.core.cells import Calendar
from mm_metering.core.periods import (
    EPOCH,
    FOREVER,
    Span,
    Window,
    day_span,
    day_start,
    days_between,
    days_of,
    from_micros,
    local_day,
    micros,
    month_first,
    month_span,
    parse_day,
    parse_period,
    period_of,
    period_span,
    window_span,
    zone,
)
from mm_metering.errors import InvalidInput

TICK = timedelta(microseconds=1)
ODD_ZONES = [
    "UTC",
    "America/New_York",
    "America/Toronto",  # 1919: from 23:30 to 00:30
    "America/St_Johns",  # until 2011: from 00:01 back to 23:01
    "America/Goose_Bay",
    "America/Sao_Paulo",  # no midnight on the first day of summer time
    "America/Havana",  # midnight twice
    "America/Asuncion",
    "America/Santiago",
    "America/Scoresbysund",
    "America/Nuuk",
    "America/Caracas",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/Juba",
    "Africa/Monrovia",
    "Antarctica/Troll",
    "Antarctica/Casey",
    "Asia/Amman",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Kolkata",
    "Asia/Manila",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Asia/Tokyo",
    "Atlantic/Azores",
    "Australia/Lord_Howe",  # half an hour of summer time
    "Europe/Amsterdam",
    "Europe/Berlin",
    "Europe/Dublin",  # summer time in winter
    "Europe/London",
    "Europe/Moscow",
    "Pacific/Apia",  # no 30 December 2011
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Pacific/Kwajalein",  # no 21 August 1993
    "Pacific/Norfolk",
    "Pacific/Pago_Pago",
]


def at(year: int) -> datetime:
    """New year, naive, as hypothesis wants its bounds."""
    return datetime(year, 1, 1)  # noqa: DTZ001


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text + "Z")


@pytest.mark.parametrize("name", ODD_ZONES)
def test_local_days_tile_130_years(name: str) -> None:
    """Day starts never go back, and each day that has any time is the local day of its first and last instant."""
    tz, rng = zone(name), random.Random(name)
    day = date(1901, 1, 1)
    while day.year < 2031:
        span = day_span(day, tz)
        assert span.start <= span.end
        if span.start < span.end:
            assert local_day(span.start, tz) == local_day(span.end - TICK, tz) == day
        following = day + timedelta(days=1)
        assert span.end == day_start(following, tz)
        day += timedelta(days=1 if unusual(span) else rng.randint(5, 30))


def unusual(span: Span) -> bool:
    return span.seconds != 86_400


@pytest.mark.parametrize("name", ODD_ZONES)
def test_every_day_with_a_change_of_clocks_is_whole(name: str) -> None:
    """Around each change since 2000, every quarter of an hour lies in the span of its local day."""
    tz = zone(name)
    for first in (date(year, month, 1) for year in range(2000, 2031) for month in range(1, 13)):
        month = month_span(first.year, first.month, tz)
        if month.seconds % 86_400 == 0:
            continue
        changed = [day for day in month_from(first) if unusual(day_span(day, tz))]
        for day in changed:
            span = day_span(day, tz)
            moments = [span.start + step * timedelta(minutes=15) for step in range(span.seconds // 900)]
            assert {local_day(moment, tz) for moment in moments} == ({day} if moments else set())


def month_from(first: date) -> list[date]:
    return list(days_between(*days_of(f"{first:%Y-%m}")))


@pytest.mark.parametrize(
    ("name", "day", "start", "hours"),
    [
        ("America/New_York", "2024-03-10", "2024-03-10T05:00", 23),
        ("America/New_York", "2024-11-03", "2024-11-03T04:00", 25),
        ("Australia/Lord_Howe", "2024-04-07", "2024-04-06T13:00", 24.5),
        ("Australia/Lord_Howe", "2024-10-06", "2024-10-05T13:30", 23.5),
        ("Africa/Cairo", "2024-04-26", "2024-04-25T22:00", 23),
        ("America/Sao_Paulo", "2017-10-15", "2017-10-15T03:00", 23),
        ("America/Havana", "2023-11-05", "2023-11-05T04:00", 25),
        ("America/St_Johns", "2006-10-29", "2006-10-29T02:30", 25),
        ("America/Toronto", "1919-03-31", "1919-03-31T04:30", 23.5),
        ("Pacific/Apia", "2011-12-29", "2011-12-29T10:00", 24),
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00", 0),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00", 24),
    ],
)
def test_days_of_unusual_length(name: str, day: str, start: str, hours: float) -> None:
    span = day_span(date.fromisoformat(day), zone(name))
    assert (span.start, span.seconds) == (utc(start), hours * 3600)


def test_an_hour_that_comes_twice_at_midnight_belongs_to_one_day_in_any_order() -> None:
    moment = micros(utc("2006-10-29T02:45"))  # 23:15 in St. John's, for the second time
    later = micros(utc("2006-10-29T12:00"))
    fresh, used = (Calendar("America/St_Johns", ()) for _ in range(2))
    assert used.day(later) == date(2006, 10, 29)
    assert used.day(moment) == fresh.day(moment) == date(2006, 10, 29)


@given(st.datetimes(at(2000), at(9998)), st.sampled_from(ODD_ZONES), st.sampled_from(Window))
def test_a_window_holds_its_moment(naive: datetime, name: str, window: Window) -> None:
    moment, tz = naive.replace(tzinfo=UTC), zone(name)
    span = window_span(window, moment, tz)
    assert span.contains(moment)
    assert window_span(window, span.start, tz) == span
    if window is not Window.NONE:
        assert window_span(window, span.end - TICK, tz) == span
        assert not span.contains(span.end)
        assert window_span(window, span.end, tz).start == span.end


def test_a_level_has_one_window_for_ever() -> None:
    assert window_span(Window.NONE, utc("2024-01-01T00:00"), zone("UTC")) == FOREVER


def test_rate_windows_are_exact_far_ahead() -> None:
    moment = utc("9998-06-01T12:00:59.999999")
    assert window_span(Window.SECOND, moment, zone("UTC")).start == utc("9998-06-01T12:00:59")
    assert window_span(Window.MINUTE, moment, zone("UTC")).start == utc("9998-06-01T12:00:00")


@given(st.datetimes(at(1900), at(9998)))
def test_microseconds_and_back(naive: datetime) -> None:
    moment = naive.replace(tzinfo=UTC)
    assert from_micros(micros(moment)) == moment
    assert micros(EPOCH) == 0


# -- months -------------------------------------------------------------------------------------------------------


def test_months_follow_each_other_in_every_zone() -> None:
    for name in sorted(available_timezones()):
        tz = zone(name)
        for month in range(1, 12):
            assert month_span(2024, month, tz).end == month_span(2024, month + 1, tz).start
        assert month_span(2024, 12, tz).end == month_span(2025, 1, tz).start


def test_a_period_is_a_month_in_the_tenants_zone() -> None:
    assert period_span("2024-03", zone("America/New_York")) == (utc("2024-03-01T05:00"), utc("2024-04-01T04:00"))


def test_month_anchors_do_not_drift() -> None:
    assert [days_of(f"{period}", 31)[0] for period in ("2024-01", "2024-02", "2024-03", "2025-02")] == [
        *(date(2024, 1, 31), date(2024, 2, 29), date(2024, 3, 31), date(2025, 2, 28)),
    ]
    assert days_of("2024-01", 20) == (date(2024, 1, 20), date(2024, 2, 19))
    assert days_of("2024-12", 31) == (date(2024, 12, 31), date(2025, 1, 30))
    assert (period_of(date(2024, 1, 19), 20), period_of(date(2024, 1, 20), 20)) == ("2023-12", "2024-01")


@given(st.integers(1, 31), st.datetimes(at(2001), at(2099)), st.sampled_from(("UTC", "Europe/Berlin", "Asia/Tokyo")))
def test_anchored_months_hold_their_moment_and_begin_on_the_anchors_day(
    anchor: int, naive: datetime, name: str
) -> None:
    tz, moment = zone(name), naive.replace(tzinfo=UTC)
    span = window_span(Window.MONTH, moment, tz, anchor)
    assert span.contains(moment)
    first, following = local_day(span.start, tz), local_day(span.end, tz)
    assert first.day == anchor or (first + timedelta(days=1)).day == 1
    assert window_span(Window.MONTH, span.end, tz, anchor).start == span.end
    assert (following.year - first.year) * 12 + following.month - first.month == 1
    period = period_of(local_day(moment, tz), anchor)
    assert period_span(period, tz, anchor) == span
    assert days_of(period, anchor) == (first, following - timedelta(days=1))
    assert month_first(following - timedelta(days=1), anchor) == first


# -- what callers write -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "period", ["2024-13", "2024-00", "2024-1", "24-01", "2024-01-01", "", "0000-01", "9999-12", 202401, None]
)
def test_a_period_is_a_calendar_month(period: object) -> None:
    with pytest.raises(InvalidInput, match=r'period: .* is not a calendar month such as "2024-01"') as caught:
        parse_period(period)
    assert caught.value.field == "period"


def test_first_and_last_periods_have_spans() -> None:
    for name in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        assert period_span("1970-01", zone(name)).seconds == 31 * 86_400
        assert period_span("9998-12", zone(name)).seconds == 31 * 86_400


@pytest.mark.parametrize(
    "day",
    [
        "2024-02-30",
        "2024-1-15",
        "20240115",
        "2024-W03-1",
        "2024-01-15T00",
        "",
        None,
        5,
        "9999-12-31",
        "1969-12-31",
        utc("2024-01-15T00:00"),
    ],
)
def test_a_day_is_a_date_or_its_text(day: object) -> None:
    with pytest.raises(InvalidInput, match=r'start: .* is not a day such as "2024-01-15"') as caught:
        parse_day(day, "start")  # type: ignore[arg-type]
    assert caught.value.field == "start"


def test_a_day_passes() -> None:
    assert parse_day("2024-02-29", "start") == parse_day(date(2024, 2, 29), "start") == date(2024, 2, 29)


@pytest.mark.parametrize(
    "name", ["", "Mars/Base", "America", "../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 5_000, None, 5, []]
)
def test_a_zone_must_be_known(name: object) -> None:
    with pytest.raises(InvalidInput, match="is not an IANA time zone") as caught:
        zone(name)  # type: ignore[arg-type]
    assert caught.value.field == "timezone"
    assert len(str(caught.value)) < 150
