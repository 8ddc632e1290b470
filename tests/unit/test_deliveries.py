"""One delivery and its endpoint, attempt after attempt; and what an event is called and says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, get_args

import jsonschema
import pytest

from mm_metering.core import deliveries
from mm_metering.core.alerting import HOUSE
from mm_metering.core.collecting import Notice, NoticeType
from mm_metering.core.deliveries import (
    DISABLED_AFTER,
    MAX_RETRY_AFTER,
    SCHEDULE,
    THROTTLE,
    WARNED_AFTER,
    Attempt,
    Delivery,
    EndpointRow,
    Result,
    Sealed,
    settled,
)
from mm_metering.core.event_types import EVENT_TYPES, event_name, filters, is_wanted, known_type, told
from mm_metering.errors import InvalidInput

NOW: Final = datetime(2024, 1, 1, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
NOTHING: Final = timedelta(0)
NOTICE: Final = Notice("evt_1", "acme", "billing.invoice_created", {}, NOW, "host")


def an_endpoint(**changes: Any) -> EndpointRow:
    url, secrets = "https://acme.example/T0K3N?key=1", (Sealed(text="x"),)
    row = EndpointRow(id="ep_1", tenant="acme", url=url, events=("*",), created_at=NOW, secrets=secrets)
    return row.model_copy(update=changes)


def a_delivery(**changes: Any) -> Delivery:
    return deliveries.delivery_of(NOTICE, an_endpoint(), NOW).model_copy(update=changes)


def answer(status: int | None, *, at: datetime = NOW, error: str = "", retry_after: timedelta | None = None) -> Result:
    return Result("dlv", 1, at, Attempt(at=at, status=status, error=error), retry_after)


def test_the_pauses_are_those_of_the_schedule_each_with_a_share_of_the_jitter() -> None:
    for tries in range(1, 10):
        shares = [deliveries.pause(f"dlv_{number}", tries) / SCHEDULE[tries] for number in range(200)]
        assert 0.9 <= min(shares) < 0.92
        assert 1.08 < max(shares) <= 1.1
        assert deliveries.pause("dlv_1", tries) == deliveries.pause("dlv_1", tries)
    assert sum(SCHEDULE, NOTHING) == timedelta(hours=75, minutes=35, seconds=5)


@pytest.mark.parametrize(
    ("status", "error", "state"),
    [
        (200, "", "delivered"),
        (299, "", "delivered"),
        (200, "timeout: the whole of it took more than 15 s", "pending"),
        (199, "", "pending"),
        (301, "redirect: no", "pending"),
        (400, "status: no", "pending"),
        (500, "status: no", "pending"),
        (None, "dns: no", "pending"),
    ],
)
def test_only_a_2xx_that_ends_is_a_success(status: int | None, error: str, state: str) -> None:
    after = settled(a_delivery(), an_endpoint(), answer(status, error=error)).delivery
    assert (after.state, after.tries, len(after.attempts)) == (state, state == "pending", 1)


def test_the_tenth_failure_is_the_last_and_only_20_attempts_are_kept() -> None:
    each, endpoint = a_delivery(), an_endpoint()
    for tries in range(1, 11):
        each, endpoint, _ = settled(each, endpoint, answer(500))
        assert (each.tries, each.state) == (tries, "dead" if tries == 10 else "pending")
    assert each.next_at is None
    for _ in range(20):
        each, *_ = settled(each.model_copy(update={"tries": 0}), endpoint, answer(500))
    assert len(each.attempts) == 20


@pytest.mark.parametrize(
    ("status", "asked", "waits", "throttled"),
    [
        (429, None, NOTHING, THROTTLE),
        (502, None, NOTHING, THROTTLE),
        (504, HOUR, HOUR, HOUR),
        (503, HOUR, HOUR, HOUR),
        (500, None, NOTHING, None),
        (429, timedelta(days=9), MAX_RETRY_AFTER, MAX_RETRY_AFTER),
        (429, timedelta(-1), NOTHING, THROTTLE),
    ],
)
def test_who_asks_for_less_is_left_alone(
    status: int, asked: timedelta | None, waits: timedelta, throttled: timedelta | None
) -> None:
    each, endpoint, _ = settled(a_delivery(), an_endpoint(), answer(status, retry_after=asked))
    assert each.next_at is not None
    assert each.next_at - NOW >= max(waits, SCHEDULE[1] * 0.9)
    assert endpoint.throttled_until == (None if throttled is None else NOW + throttled)
    later = settled(a_delivery(), endpoint, answer(429, retry_after=timedelta(seconds=1))).endpoint
    assert later.throttled_until == max(NOW + (throttled or NOTHING), NOW + timedelta(seconds=1))


def test_410_disables_whatever_the_endpoint_s_record() -> None:
    each, endpoint, notices = settled(a_delivery(), an_endpoint(), answer(410))
    assert (each.state, endpoint.enabled, endpoint.why_disabled) == ("dead", False, "gone")
    assert [each.type for each in notices] == ["endpoint.disabled"]
    assert "T0K3N" not in str(notices)
    again = settled(a_delivery(), endpoint, answer(410))
    assert (again.endpoint, again.notices) == (endpoint, ())
    assert settled(a_delivery(), endpoint, answer(200)).delivery.state == "delivered"


def test_nothing_but_failures_is_said_after_a_day_and_disables_after_five() -> None:
    endpoint, told_at, at = an_endpoint(), dict[str, timedelta](), NOW
    while endpoint.enabled:
        _, endpoint, notices = settled(a_delivery(), endpoint, answer(500, at=at))
        told_at |= {each.type: at - NOW for each in notices if each.type not in told_at}
        at += HOUR
    assert told_at == {"endpoint.failing": WARNED_AFTER, "endpoint.disabled": DISABLED_AFTER}
    clean = deliveries.enabled(endpoint)
    assert (clean.enabled, clean.why_disabled, clean.failing_since, clean.warned) == (True, "", None, False)


def test_one_success_ends_the_count() -> None:
    endpoint = settled(a_delivery(), an_endpoint(), answer(500)).endpoint
    endpoint = settled(a_delivery(), endpoint, answer(204, at=NOW + HOUR)).endpoint
    assert endpoint.failing_since is None
    _, endpoint, notices = settled(a_delivery(), endpoint, answer(500, at=NOW + DISABLED_AFTER))
    assert (endpoint.enabled, endpoint.failing_since, notices) == (True, NOW + DISABLED_AFTER, ())


def test_what_could_not_be_attempted_is_put_off_and_costs_nothing() -> None:
    before = an_endpoint()
    for by, waits in ((None, deliveries.POSTPONED), (NOTHING, NOTHING)):
        each, endpoint, notices = settled(a_delivery(), before, Result("dlv", 1, NOW, None, by))
        assert (each.state, each.tries, each.attempts, each.next_at) == ("pending", 0, (), NOW + waits)
        assert (endpoint, notices) == (before, ())


def test_a_secret_lives_until_its_end() -> None:
    new, old = Sealed(text="new"), Sealed(text="old", until=NOW + HOUR)
    row = an_endpoint(secrets=(new, old))
    assert row.live(NOW) == (new, old)
    assert row.live(NOW + HOUR) == (new,)
    assert "text=" not in repr(row)


def test_an_endpoint_hears_of_others_troubles_alone() -> None:
    notice = Notice("n", "acme", "endpoint.failing", {"endpoint": "ep_1"}, NOW)
    row = an_endpoint()
    assert [each.endpoint for each in deliveries.deliveries_of(notice, [row, an_endpoint(id="ep_2")], NOW)] == ["ep_2"]
    assert not deliveries.deliveries_of(NOTICE, [an_endpoint(created_at=NOW + HOUR), an_endpoint(enabled=False)], NOW)


def test_every_notice_is_an_event_type_with_a_schema() -> None:
    for name in {*get_args(NoticeType)} - HOUSE:
        assert told(name, {}).type in EVENT_TYPES
    assert told("subscription.past_due", {"because": "inv_1"}).data == {"status": "past_due", "because": "inv_1"}
    for each in EVENT_TYPES.values():
        jsonschema.Draft202012Validator.check_schema(each.schema)
        assert (each.version, bool(each.doc)) == (1, True)


@pytest.mark.parametrize(
    ("events", "name", "wanted"),
    [
        (("*",), "a.b", True),
        (("invoice.*",), "invoice.paid", True),
        (("invoice.*",), "invoices.paid", False),
        (("invoice.paid",), "invoice.paid", True),
        (("invoice.paid",), "invoice.paid_late", False),
        (("quota.warning", "budget.*"), "budget.exceeded", True),
    ],
)
def test_filters(events: tuple[str, ...], name: str, wanted: bool) -> None:  # noqa: FBT001
    assert is_wanted(events, name) is wanted


def test_a_filter_that_nothing_passes_and_a_type_that_is_not_there_are_refused() -> None:
    assert filters(["invoice.*", "invoice.*", "*"], EVENT_TYPES) == ("invoice.*", "*")
    wrong: Any
    for wrong in (["nothing.*"], ["invoice."], ["*.paid"], [""], [None], {}, 7):
        with pytest.raises(InvalidInput):
            filters(wrong, EVENT_TYPES)
    assert known_type("invoice.paid", EVENT_TYPES).name == "invoice.paid"
    with pytest.raises(InvalidInput, match=r'"invoice\.paid"'):
        known_type("invoice.payed", EVENT_TYPES)
    assert event_name("report.finished") == "report.finished"
    for bad in ("report", "Report.x", "a..b", "a.b.c.d.e", "a.b ", "é.x", None):
        with pytest.raises(InvalidInput):
            event_name(bad)
