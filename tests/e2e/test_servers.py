"""Requests of every kind on real servers: each row of ``edge_kinds`` on each server, and what docs/http.md says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from typing import Any

import http_sf
import pytest

from tests.e2e.edge_app import CALLS_A_DAY, PLANS
from tests.e2e.edge_asks import talk
from tests.e2e.edge_kinds import DOCUMENT, KINDS, LIMITS, OURS, PATHS, PREFIXED, SERVERS, Kind, document
from tests.e2e.edge_server import Answer, Running, Server

CASES = [(server, there) for server in SERVERS for kind in chain(*KINDS.values()) if (there := kind.at(server.name))]
QUOTAS = PLANS["plans"]["small"]["quotas"]
AT_ONCE = 20
NONE = dict.fromkeys(PLANS["meters"], 0)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server of the test's parameter. When it has stopped, nothing must have gone wrong in it unseen."""
    which: Server = request.param
    with which.running(tmp_path_factory.mktemp("server")) as running:
        yield running
    assert not running.complaints()


@pytest.fixture(autouse=True)
def output(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the server writes meanwhile; pytest shows it where a test fails."""
    if "server" not in request.fixturenames:
        yield
        return
    with closing(request.getfixturevalue("server").log.open()) as log:
        log.read()
        yield
        print(log.read())


def words(value: Server | Kind | str) -> str:
    name = value if isinstance(value, str) else value.name
    return re.sub(r"\W+", "-", name.lower()).strip("-")


@pytest.mark.parametrize(("server", "kind"), CASES, ids=words, indirect=["server"], scope="module")
def test_each_kind_is_answered_and_counted_as_the_table_says(server: Running, kind: Kind) -> None:
    tenant = f"t-{words(kind)}"
    if kind.is_spent:
        server.spend(tenant)
    answer = kind.ask(server, tenant)
    seen = server.settled(tenant)
    counted = {**NONE, "api_calls": CALLS_A_DAY if kind.is_spent else 0, **kind.counts}
    assert (answer.status, OURS & answer.headers.keys()) == (kind.status, kind.says)
    assert seen["counted"] == seen["folded"] == counted
    assert not (kind.is_spent and seen["handled"])
    if kind.says >= LIMITS:
        assert "api_calls-day" in said_limits(answer, counted)


@pytest.mark.parametrize("server", SERVERS, ids=words, indirect=True, scope="module")
@pytest.mark.parametrize("path", ["/sync", "/async"])
def test_of_requests_that_come_at_once_exactly_the_limit_is_admitted(server: Running, path: str) -> None:
    tenant = f"t-at-once-{words(path)}"
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = [*threads.map(lambda _: server.ask("GET", path, tenant), range(AT_ONCE))]
    statuses = Counter(answer.status for answer in answers)
    assert statuses == {200: CALLS_A_DAY, 429: AT_ONCE - CALLS_A_DAY}
    seen = server.settled(tenant)
    assert (seen["counted"]["api_calls"], seen["handled"]) == (CALLS_A_DAY, CALLS_A_DAY)


def said_limits(answer: Answer, counted: dict[str, int]) -> list[str]:
    """The policies that an answer names. What it says of each must be what the plan allows, and leaves."""
    policies, limits = (fields(answer.headers[name]) for name in ("ratelimit-policy", "ratelimit"))
    allowed = {name: QUOTAS[name.removesuffix("-day")]["limit"] for name in policies}
    assert policies == {name: {"q": limit, "w": 86_400} for name, limit in allowed.items()}
    left = {name: limit - counted[name.removesuffix("-day")] for name, limit in allowed.items()}
    assert limits == {name: {"r": each, "t": 43_200} for name, each in left.items()}
    return [*limits]


def fields(text: str) -> dict[str, dict[str, int]]:
    """A structured list of strings with parameters."""
    found: Any = http_sf.parse(text.encode(), tltype="list")
    return dict(found)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("server", PREFIXED, ids=words, indirect=True, scope="module")
def test_behind_a_prefix_metering_meets_the_routes_that_the_app_serves(server: Running, path: str) -> None:
    status = PATHS[path][server.name]
    is_served = status == 200
    tenant = f"t-{words(path)}"
    assert server.ask("GET", path, tenant).status == status
    assert server.ask("GET", path.replace("async", "open")).status == status
    assert talk(path.replace("async", "echo"))(server, tenant).status == (101 if is_served else 403)
    seen = server.settled(tenant)
    assert seen["counted"] == {**NONE, "api_calls": 2 if is_served else 0}
    assert sorted(seen["resources"]) == (["/async", "/echo"] if is_served else [])


def test_the_document_shows_the_table() -> None:
    """``./dev run python -m tests.e2e.edge_kinds`` writes it."""
    text = DOCUMENT.read_text()
    assert document(text) == text
