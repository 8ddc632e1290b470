"""The demo's three customers: what they send on each of three days, and what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from random import Random
from typing import Final, NamedTuple

import httpx2

CONNECTIONS: Final = 64
DAYS: Final = tuple(datetime(2024, 1, day, tzinfo=UTC) for day in (15, 16, 17))
SUBSCRIBED_AT: Final = datetime(2024, 1, 1, tzinfo=UTC)
METERS: Final = ("api_calls", "reports", "exports", "webhook_deliveries", "ai_requests", "ai_tokens")
REPLY_TOKENS: Final = 40
"""What the model says to each question, which has eight."""


class Call(NamedTuple):
    """A request, and what it uses if it is allowed."""

    method: str
    path: str
    uses: Mapping[str, int]


LIST = Call("GET", "/v1/scenarios", {"api_calls": 1})
CREATE = Call("POST", "/v1/scenarios", {"api_calls": 1})
QUOTE = Call("GET", "/v1/scenarios/base/quotes/first-bank", {"api_calls": 1})
EXPORT = Call("GET", "/v1/export/loans", {"api_calls": 1, "exports": 1})
REPORT = Call("POST", "/v1/reports", {"api_calls": 1, "exports": 1, "reports": 1})
EXPLAIN = Call(
    "POST", "/v1/scenarios/base/explanation", {"api_calls": 1, "ai_requests": 1, "ai_tokens": 8 + REPLY_TOKENS}
)
WEBHOOK = Call("POST", "/v1/webhooks/test", {"api_calls": 1, "webhook_deliveries": 1})
BULK = Call("POST", "/v1/scenarios/bulk", {"api_calls": 500})
NO_ANSWER = Call("GET", "/v1/scenarios/base/quotes/sleepy", {"api_calls": 1})
EVERYDAY: Final = (LIST, CREATE, QUOTE, EXPORT)


@dataclass(slots=True)
class Tally:
    """What the servers answered, as their clients saw it."""

    allowed: int = 0
    refused: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    example: dict[tuple[int, str, str], str] = field(default_factory=dict)
    failed: Counter[int] = field(default_factory=Counter)
    degraded: int = 0
    admitted: Counter[str] = field(default_factory=Counter)

    @property
    def refusals(self) -> int:
        return self.refused.total()

    @property
    def requests(self) -> int:
        return self.allowed + self.refusals + self.failed.total()

    def add(self, call: Call, answer: httpx2.Response) -> None:
        self.degraded += answer.headers.get("mm-metering") == "degraded"
        if answer.headers.get("content-type") == "application/problem+json":
            problem = answer.json()
            meter = problem["limits"][0]["meter"] if problem.get("limits") else ""
            reason = (answer.status_code, problem["code"], meter)
            self.refused[reason] += 1
            self.example.setdefault(reason, problem["detail"])
        elif answer.is_success:
            self.allowed += 1
            self.admitted.update(call.uses)
        else:
            self.failed[answer.status_code] += 1


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant. ``morning`` is sent before ``rush``; both by day."""

    id: str
    plan: str
    morning: Sequence[Call]
    rush: Sequence[Sequence[Call]]
    small: int
    tally: Tally = field(default_factory=Tally)

    def waves(self, day: int, random: Random) -> tuple[list[Call], list[Call]]:
        """What it sends on a day: two lots, each in no order."""
        return list(self.morning), [*self.rush[day], *random.choices(EVERYDAY, k=self.small)]


def subscribing(url: str) -> Call:
    return Call("POST", f"/v1/webhooks?url={url}", {"api_calls": 1})


def customers(hooks_url: str) -> tuple[Customer, ...]:
    """Free meets four of its limits every day. Pro passes 10,000 calls on the second day and 50 reports on the third.
    Enterprise passes nothing."""
    return (
        Customer(
            "corner-loans",
            "free",
            [*[REPORT] * 3, subscribing(hooks_url), *[EXPLAIN] * 12, *[NO_ANSWER] * 2],
            [[], [], []],
            small=130,
        ),
        Customer(
            "city-brokers",
            "pro",
            [*[REPORT] * 18, *[WEBHOOK] * 6, *[EXPLAIN] * 10, *[NO_ANSWER] * 3],
            [[BULK] * 8, [BULK] * 20, [BULK] * 11],
            small=216,
        ),
        Customer(
            "first-national",
            "enterprise",
            [*[REPORT] * 30, *[WEBHOOK] * 10, *[EXPLAIN] * 15],
            [[BULK] * 60] * 3,
            small=195,
        ),
    )


class Sending(NamedTuple):
    """One request on its way."""

    customer: Customer
    call: Call


def shuffled(waves: Sequence[tuple[Customer, list[Call]]], random: Random) -> list[Sending]:
    """The calls of all customers, mixed."""
    sendings = [Sending(customer, call) for customer, calls in waves for call in calls]
    random.shuffle(sendings)
    return sendings


async def drive(
    client: httpx2.AsyncClient, urls: Sequence[str], sendings: Sequence[Sending], answered: Callable[[], None]
) -> None:
    """Sends all over CONNECTIONS connections, in turn to each server; returns when the last answer is here."""
    waiting = iter(zip(sendings, cycle(urls), strict=False))
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(_connection(client, waiting, answered))


async def _connection(
    client: httpx2.AsyncClient, waiting: Iterator[tuple[Sending, str]], answered: Callable[[], None]
) -> None:
    for (customer, call), url in waiting:
        answer = await client.request(call.method, url + call.path, headers={"x-org-id": customer.id})
        customer.tally.add(call, answer)
        answered()
