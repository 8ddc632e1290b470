"""Golden bodies and headers; every RateLimit field is read back with a structured-field parser."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from mm_metering.core.decision import Decision
from mm_metering.core.periods import micros
from mm_metering.errors import InvalidInput
from mm_metering.gate.admission import readings
from mm_metering.middleware.ratelimit import POLICIES_AT_MOST, RawHeaders, rate_limit_headers
from mm_metering.middleware.responses import (
    DEGRADED,
    EXPOSED_HEADERS,
    PROBLEM_BASE,
    REASONS,
    Problem,
    refused,
    tenant_unknown,
    unavailable,
)
from mm_metering.middleware.shapes import HeaderStyle, Style

NOW = datetime(2026, 11, 22, 9, 31, 28, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)  # 52,112 s later
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)  # 743,312 s later
CALLS = Decision(
    allowed=True,
    meter="api_calls",
    requested=1,
    limit=10_000,
    used=7,
    remaining=9_993,
    resets_at=MIDNIGHT,
    window="day",
    window_s=86_400,
)
USED_UP = Decision(
    allowed=False,
    meter="api_calls",
    requested=1,
    limit=100,
    used=100,
    remaining=0,
    resets_at=MIDNIGHT,
    reason="quota-exceeded",
    retry_after_s=52_112,
    plan="free",
    window="day",
    window_s=86_400,
)


def scope(method: str = "GET", path: str = "/v1/scenarios", request_id: str = "req_1") -> Scope:
    headers = [(b"x-request-id", request_id.encode())] if request_id else []
    return {"type": "http", "method": method, "path": path, "headers": headers}


def but(decision: Decision, **changes: Any) -> Decision:
    return decision.model_copy(update=changes)


def sent(decisions: list[Decision], now: datetime = NOW, style: HeaderStyle = "standard") -> RawHeaders:
    return rate_limit_headers(readings(decisions), micros(now), style)


def fields(decisions: list[Decision], now: datetime = NOW) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in sent(decisions, now)}


def parsed(value: str) -> dict[str, dict[str, Any]]:
    """Name to parameters, as any client with an RFC 9651 parser reads them; a name must be a String."""
    items: Any = http_sf.parse(value.encode(), tltype="list")
    assert all(type(name) is str for name, _ in items)
    return {name: dict(parameters) for name, parameters in items}


def header(problem: Problem, name: str) -> str | None:
    found = [value.decode() for each, value in problem.headers if each.decode() == name]
    assert len(found) <= 1
    return found[0] if found else None


# ---- RateLimit fields ----


def test_an_allowed_request_says_what_is_left() -> None:
    assert fields([CALLS]) == {
        "ratelimit-policy": '"api_calls-day";q=10000;w=86400',
        "ratelimit": '"api_calls-day";r=9993;t=52112',
    }


def test_two_limits_are_one_list_in_their_order() -> None:
    reports = but(
        CALLS, meter="reports", limit=50, used=9, remaining=41, resets_at=DECEMBER, window="month", window_s=30 * 86_400
    )
    assert fields([reports, CALLS]) == {
        "ratelimit-policy": '"reports-month";q=50;w=2592000, "api_calls-day";q=10000;w=86400',
        "ratelimit": '"reports-month";r=41;t=743312, "api_calls-day";r=9993;t=52112',
    }


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"remaining": 2_001}, {}),
        ({"remaining": 2_000}, {"mm-state": "warn"}),
        ({"remaining": 0}, {"mm-state": "warn"}),
        ({"remaining": 0, "used": 10_137, "overage": 137}, {"mm-state": "overage", "mm-overage": 137}),
        ({"remaining": 0, "window": "second", "resets_at": NOW + timedelta(seconds=1)}, {}),  # a burst is no warning
        ({"remaining": 0, "allowed": False}, {}),
    ],
)
def test_a_limit_that_is_near_or_passed_says_so(changes: dict[str, Any], state: dict[str, Any]) -> None:
    (limit,) = parsed(fields([but(CALLS, **changes)])["ratelimit"]).values()
    assert {name: value for name, value in limit.items() if name.startswith("mm-")} == state


@pytest.mark.parametrize(
    "changes",
    [{"limit": None}, {"window": "none"}, {"window": None}, {"limit": Decimal("50.00"), "remaining": Decimal(1)}],
)
def test_levels_money_and_what_is_unlimited_are_not_listed(changes: dict[str, Any]) -> None:
    assert fields([but(CALLS, **changes)]) == {}
    assert fields([but(CALLS, **changes), CALLS]) == fields([CALLS])


def test_the_most_constrained_policies_are_listed_and_no_more() -> None:
    many = [but(CALLS, meter=f"meter_{number}") for number in range(9)]
    assert list(parsed(fields(many)["ratelimit"])) == [f"meter_{number}-day" for number in range(POLICIES_AT_MOST)]


def test_a_window_is_as_long_as_it_is() -> None:
    """A day with a clock change, and one whose length nobody knows."""
    for window_s, w in ((82_800, {"w": 82_800}), (90_000, {"w": 90_000}), (None, {})):
        assert parsed(fields([but(CALLS, window_s=window_s)])["ratelimit-policy"])["api_calls-day"] == {
            "q": 10_000,
            **w,
        }


def test_waits_are_rounded_up() -> None:
    for left_us, seconds in [(1, 1), (1_000_000, 1), (1_000_001, 2), (0, 0), (-5, 0)]:
        found = parsed(fields([but(CALLS, resets_at=NOW + timedelta(microseconds=left_us))])["ratelimit"])
        assert found["api_calls-day"]["t"] == seconds


@given(
    limit=st.integers(0, 2**53 - 1),
    used=st.integers(-1, 2**53 - 1),
    window=st.sampled_from(["second", "minute", "day", "month"]),
    left_s=st.integers(-100, 10**7),
)
def test_every_field_is_a_structured_field(limit: int, used: int, window: str, left_s: int) -> None:
    """The draft's musts: names are Strings; q, r, w and t are non-negative Integers (of at most 15 digits)."""
    decision = but(
        CALLS,
        limit=limit,
        used=used,
        remaining=max(0, limit - used),
        overage=max(0, used - limit),
        window=window,
        resets_at=NOW + timedelta(seconds=left_s),
    )
    found = fields([decision])
    policy, state = parsed(found["ratelimit-policy"]), parsed(found["ratelimit"])
    assert list(policy) == list(state) == [f"api_calls-{window}"]
    for value in (*policy[f"api_calls-{window}"].values(), *state[f"api_calls-{window}"].values()):
        assert isinstance(value, str) or 0 <= value < 10**15


@pytest.mark.parametrize(
    ("style", "names"),
    [
        ("standard", ["ratelimit-policy", "ratelimit"]),
        ("legacy", ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"]),
        (
            "both",
            ["ratelimit-policy", "ratelimit", *(f"x-ratelimit-{name}" for name in ("limit", "remaining", "reset"))],
        ),
        ("off", []),
    ],
)
def test_a_host_chooses_the_fields(style: Any, names: list[str]) -> None:
    found = {name.decode(): value.decode() for name, value in sent([CALLS], style=style)}
    assert list(found) == names
    if style == "legacy":
        assert [*found.values()] == ["10000", "9993", str(int(MIDNIGHT.timestamp()))]
    problem = refused([USED_UP], scope(), now=NOW, style=Style(headers=style))
    assert [name for name in names if header(problem, name) is None] == []
    assert header(problem, "retry-after") == "52112"


def test_the_legacy_fields_are_of_the_most_constrained_window_alone() -> None:
    month = but(CALLS, window="month", limit=50, remaining=3, resets_at=DECEMBER)
    found = dict(sent([month, CALLS], style="legacy"))
    assert found[b"x-ratelimit-limit"] == b"50"


def test_all_that_is_sent_is_exposed() -> None:
    names = {name for name, _ in sent([CALLS], style="both")} | {DEGRADED[0]}
    for problem in (refused([USED_UP], scope(), now=NOW), tenant_unknown(scope(), "Bearer"), unavailable(scope())):
        names |= {name for name, _ in problem.headers}
    plain = {b"content-type", b"content-length", b"cache-control"}
    assert {name.decode() for name in names - plain} == {name.lower() for name in EXPOSED_HEADERS}


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat", "openai"),
        ("/v1/chat/completions", "openai"),
        ("/v1/chatter", "problem"),
        ("/v1/chat/claude/messages", "anthropic"),
        ("/", "problem"),
    ],
)
def test_the_longest_prefix_that_ends_at_a_slash_gives_the_shape(path: str, shape: str) -> None:
    assert Style(error_shapes={"/v1/chat": "openai", "/v1/chat/claude/": "anthropic"}).shape_of(path) == shape


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"headers": "loud"}, "headers"),
        ({"error_shapes": {"v1": "openai"}}, "error_shapes"),
        ({"error_shapes": {"/v1": "gemini"}}, "error_shapes"),
    ],
)
def test_a_style_that_does_not_exist_is_refused(wrong: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        Style(**wrong)
    assert refusal.value.field == field


# ---- problems ----


def test_a_used_up_quota() -> None:
    problem = refused((USED_UP,), scope(), now=NOW)
    assert problem.status == 429
    assert [(name.decode(), value.decode()) for name, value in problem.headers] == [
        ("content-type", "application/problem+json"),
        ("content-length", str(len(problem.body))),
        ("cache-control", "no-store"),
        ("retry-after", "52112"),
        ("ratelimit-policy", '"api_calls-day";q=100;w=86400'),
        ("ratelimit", '"api_calls-day";r=0;t=52112'),
        ("x-should-retry", "false"),
    ]
    assert json.loads(problem.body) == {
        "type": "https://mm-metering.readthedocs.io/problems/quota-exceeded",
        "title": "Quota exceeded",
        "status": 429,
        "detail": "api_calls: 100 of 100 used today; resets in 15 hours, or move to a larger plan",
        "instance": "/v1/scenarios",
        "code": "quota-exceeded",
        "violated-policies": ["api_calls-day"],
        "limits": [
            {
                "policy": "api_calls-day",
                "meter": "api_calls",
                "limit": 100,
                "used": 100,
                "remaining": 0,
                "requested": 1,
                "window": "day",
                "resets_at": "2026-11-23T00:00:00Z",
                "retry_after": 52_112,
            }
        ],
        "plan": "free",
        "request_id": "req_1",
        "retry_after": 52_112,
    }


def test_a_burst_may_be_retried() -> None:
    soon = NOW + timedelta(milliseconds=300)
    burst = but(USED_UP, limit=200, used=200, window="second", resets_at=soon, reason="rate-limited", retry_after_s=1)
    problem = refused((burst,), scope(), now=NOW)
    assert (problem.status, header(problem, "retry-after"), header(problem, "x-should-retry")) == (429, "1", None)
    assert json.loads(problem.body)["detail"] == "api_calls: 200 of 200 used this second; try again in 1 second"


def test_a_minute_is_still_worth_a_retry_and_a_second_more_is_not() -> None:
    for wait_s, advice in [(60, None), (61, "false")]:
        limit = but(USED_UP, resets_at=NOW + timedelta(seconds=wait_s), retry_after_s=wait_s)
        assert header(refused((limit,), scope(), now=NOW), "x-should-retry") == advice


def test_a_wait_is_never_shorter_than_the_longest_of_what_was_refused() -> None:
    burst = but(USED_UP, window="second", resets_at=NOW + timedelta(seconds=1), reason="rate-limited", retry_after_s=1)
    problem = refused((burst, USED_UP, CALLS), scope(), now=NOW)
    body = json.loads(problem.body)
    assert header(problem, "retry-after") == "52112"
    assert body["code"] == "rate-limited"
    assert body["violated-policies"] == ["api_calls-second", "api_calls-day"]


def test_a_budget_is_paid_for_and_not_waited_for() -> None:
    money = {
        "requested": Decimal("0.60"),
        "limit": Decimal("50.00"),
        "used": Decimal("49.71"),
        "remaining": Decimal("0.29"),
    }
    problem = refused(
        (but(USED_UP, meter="ai_cost", reason="budget-exceeded", retry_after_s=None, **money),), scope(), now=NOW
    )
    body = json.loads(problem.body)
    assert (problem.status, header(problem, "retry-after"), header(problem, "x-should-retry")) == (402, None, "false")
    assert header(problem, "ratelimit") is None
    assert body["detail"] == (
        "ai_cost: 49.71 of 50.00 used today, and this needs 0.60; raise the budget, or wait 15 hours"
    )
    assert body["limits"][0]["limit"] == "50.00"
    assert "retry_after" not in body


def test_a_busy_budget_is_tried_again_soon() -> None:
    problem = refused((but(USED_UP, meter="ai_cost", reason="budget-busy", retry_after_s=None),), scope(), now=NOW)
    assert (problem.status, header(problem, "retry-after"), header(problem, "x-should-retry")) == (429, "1", None)


def test_what_is_not_in_the_plan() -> None:
    none = but(USED_UP, meter="webhook_deliveries", limit=0, used=0, reason="feature-not-in-plan", retry_after_s=None)
    problem = refused((none,), scope(), now=NOW)
    body = json.loads(problem.body)
    assert (problem.status, header(problem, "retry-after"), header(problem, "x-should-retry")) == (403, None, "false")
    assert header(problem, "ratelimit") is None
    assert body["detail"] == "webhook_deliveries: not part of the plan free; move to a plan that has it"


def test_a_level_without_a_window_is_given_back() -> None:
    users = but(USED_UP, meter="users", limit=10, used=8, remaining=2, requested=3, window="none", resets_at=None)
    body = json.loads(refused((users,), scope(), now=NOW).body)
    assert body["detail"] == "users: 8 of 10 used, and this needs 3; give some back, or move to a larger plan"
    assert body["violated-policies"] == ["users"]


def test_a_missing_and_a_wrong_key_read_the_same() -> None:
    problem = tenant_unknown(scope(), 'ApiKey realm="api", header="x-api-key"')
    assert problem == tenant_unknown(scope(), 'ApiKey realm="api", header="x-api-key"')
    assert (problem.status, header(problem, "www-authenticate")) == (401, 'ApiKey realm="api", header="x-api-key"')
    assert json.loads(problem.body) == {
        "type": PROBLEM_BASE + "tenant-unknown",
        "title": "Unknown tenant",
        "status": 401,
        "detail": "tenant: the request names nobody we know; send the credentials you were given",
        "instance": "/v1/scenarios",
        "code": "tenant-unknown",
        "request_id": "req_1",
    }


def test_an_outage_is_not_the_callers_fault() -> None:
    problem = unavailable(scope())
    body = json.loads(problem.body)
    assert (problem.status, header(problem, "retry-after"), header(problem, "x-should-retry")) == (503, "5", None)
    assert (body["code"], "limits" in body, body["retry_after"]) == ("metering-unavailable", False, 5)
    assert refused((but(USED_UP, reason="metering-unavailable"),), scope(), now=NOW) == problem


@pytest.mark.parametrize("code", sorted(set(REASONS) - {"tenant-unknown", "url-refused"}))
def test_every_code_has_its_status_and_a_text(code: str) -> None:
    problem = refused((but(USED_UP, reason=code),), scope(), now=NOW, message="model: gpt-5 is not allowed")
    body = json.loads(problem.body)
    assert (problem.status, body["status"], body["code"]) == (REASONS[code].status, REASONS[code].status, code)
    assert body["type"] == PROBLEM_BASE + code
    assert body["detail"]


def test_a_request_without_an_id_gets_one_and_a_strange_one_is_not_repeated() -> None:
    ids = {json.loads(unavailable(scope(request_id=each)).body)["request_id"] for each in ("", "", 'a"b', "x" * 200)}
    assert len(ids) == 4
    assert all(len(each) == 36 for each in ids)


def test_any_path_makes_a_valid_instance() -> None:
    for path in ("/ä b", "/\ud800", "/x\n"):
        assert json.loads(unavailable(scope(path=path)).body)["instance"].isascii()


async def test_head_gets_the_headers_without_the_body() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    problem = unavailable(scope())
    await problem.send(scope("HEAD"), send)
    assert sent[1]["body"] == b""
    assert (b"content-length", str(len(problem.body)).encode()) in sent[0]["headers"]
