"""What stands before our own endpoints, and how JSON from outside is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mm_metering.backends.endpoint_limits import EndpointLimits
from mm_metering.core import strict_json
from mm_metering.errors import InvalidInput
from mm_metering.middleware.endpoint_guard import EndpointGuard, EndpointRules, Guarded, address_of


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_704_067_200.0

    def __call__(self) -> float:
        return self.now


def scope(client: str | None = "192.0.2.1", **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": client and (client, 1), "headers": raw, "path": "/", "method": "POST"}


def test_a_window_slides_and_each_address_has_its_own() -> None:
    clock = Seconds()
    guard = EndpointGuard(EndpointRules(per_minute=10), now_s=clock)
    assert [guard.refusal(scope()) for _ in range(10)] == [None] * 10
    clock.now += 15
    refusal = guard.refusal(scope())
    assert refusal is not None
    assert (refusal.status_code, refusal.headers["retry-after"]) == (429, "45")
    assert refusal.headers["content-type"] == "application/problem+json"
    assert json.loads(bytes(refusal.body))["code"] == "rate-limited"
    assert guard.refusal(scope("192.0.2.2")) is None
    clock.now += 60  # the window before counts for its last quarter of an hour: 7.5 of its 10
    assert [guard.refusal(scope()) is None for _ in range(4)] == [True, True, True, False]
    clock.now += 3600
    assert guard.refusal(scope()) is None


def test_a_clock_that_steps_back_opens_nothing() -> None:
    clock = Seconds()
    guard = EndpointGuard(EndpointRules(per_minute=1), now_s=clock)
    assert guard.refusal(scope()) is None
    clock.now -= 120
    assert guard.refusal(scope()) is not None


def test_addresses_are_bounded_and_the_newest_stay() -> None:
    limits = EndpointLimits(1, now_s=Seconds(), addresses=100)
    assert [limits.wait_s(f"10.0.{n // 256}.{n % 256}") for n in range(5_000)] == [None] * 5_000
    assert len(limits.kept) == 100
    assert limits.wait_s("10.0.19.135") == 60


@pytest.mark.parametrize(
    ("client", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
        ("x" * 1000, "x" * 64),
        (None, ""),
    ],
)
def test_an_address_is_a_caller(client: str | None, address: str) -> None:
    assert address_of(scope(client)) == address


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (scope(content_encoding="gzip"), 415),
        (scope(content_encoding="identity, br"), 415),
        (scope(content_encoding="identity"), None),
        (scope(**{f"x_{n}": "" for n in range(101)}), 431),
        (scope(x="y" * 32_768), 431),
        (scope(x="y" * 32_767), None),
    ],
)
async def test_what_is_not_even_read(request_: dict[str, Any], status: int | None) -> None:
    told: list[Any] = []

    async def app(*_: object) -> None:
        told.append({"status": None})

    async def send(message: Any) -> None:
        told.append(message)

    async def receive() -> Any:
        raise AssertionError("the body is not read")

    guard = EndpointGuard(EndpointRules(per_minute=0), now_s=Seconds())
    await Guarded(app, guard)(request_, receive, send)
    assert told[0]["status"] == status


def test_rules_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="per_minute: -1 is less than 0"):
        EndpointRules(per_minute=-1)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"a": [{"b": 1, "b": 1}]}',
        '{"a": NaN}',
        "-Infinity",
        "1e999",
        "9" * 5000,
        b"\xff",
        '"\ud800'.encode("utf-16-le", "surrogatepass"),
        "[" * 100_000,
        "[" * 65 + "1" + "]" * 65,
        '{"a":' * 66 + "1" + "}" * 66,
        "",
        "{} {}",
    ],
)
def test_json_that_readers_differ_in_is_none(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        strict_json.loads(text)


def test_json_is_read_as_ever() -> None:
    value = {"a": [1, 2.5, None, True, "é"], "b": {"a": "[" * 100}}
    assert strict_json.loads(json.dumps(value)) == value
    deep = "[" * 64 + "]" * 64
    assert json.dumps(strict_json.loads(deep.encode())) == deep
