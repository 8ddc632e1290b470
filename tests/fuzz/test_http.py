"""Whatever is sent to an HTTP surface, nothing answers with a 5xx, or keeps a core busy for 50 ms. ``MM_FUZZ=3000`` is
the long form."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode

from mm_metering import EndpointRules, FrozenClock, Metering, MockBillingAdapter
from mm_metering.gate.deadlines import Timing
from tests.fuzz.surfaces import SURFACES, Surface
from tests.fuzz.test_parsers import MOST_S, TRIES, corpus

MANY = int(os.environ.get("MM_FUZZ", "40"))
SEED = os.environ.get("MM_FUZZ_SEED")
pytestmark = pytest.mark.timeout(120 + 2 * MANY)

Send = Callable[..., httpx2.Response]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module", params=SURFACES)
def surface(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Iterator[Surface]:
    clock = FrozenClock("2024-01-15T12:00:00Z")
    metering = Metering(
        billing=MockBillingAdapter(clock=clock),
        clock=clock,
        worker="inline",
        timing=Timing(decision_s=10, load_s=10),
        endpoint_rules=EndpointRules(per_minute=0),
    )
    runner.run(metering.startup())
    runner.run(metering.put_tenant("acme", plan="enterprise"))
    yield SURFACES[request.param](metering)
    runner.run(metering.shutdown())


@pytest.fixture(scope="module")
def send(surface: Surface, runner: asyncio.Runner) -> Send:
    """Sends a request; it fails where the answer is a 5xx or took 50 ms of the core."""

    async def sent(method: str, path: str, **what: Any) -> httpx2.Response:
        transport = httpx2.ASGITransport(app=surface.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path, **what)

    def timed(method: str, path: str, **what: Any) -> httpx2.Response:
        took = []
        for _ in range(TRIES):
            runner.run(asyncio.sleep(0.002))  # the worker comes round, so that it is well
            began = time.thread_time()
            answer = runner.run(sent(method, path, **what))
            took.append(time.thread_time() - began)
            assert answer.status_code < 500, (answer.status_code, answer.text[:300], method, path, what)
            if took[-1] < MOST_S:
                return answer
        raise AssertionError(f"{min(took) * 1000:.0f} ms for {method} {path} {what!r:.300}")

    return timed


def fuzzed(strategy: st.SearchStrategy[Any], one: Callable[[Any], object], *, most: int) -> None:
    @settings(
        max_examples=most,
        deadline=None,
        database=None,
        derandomize=SEED is None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(strategy)
    def fuzz(value: Any) -> None:
        one(value)

    (fuzz if SEED is None else seed(int(SEED))(fuzz))()


def test_what_the_document_says_and_what_it_does_not(surface: Surface, send: Send) -> None:
    """By schemathesis: requests that keep the document, and such that break it somewhere."""
    schema = schemathesis.openapi.from_dict(dict(surface.document))
    statuses = set[int]()

    def one(case: Any) -> None:
        given = case.as_transport_kwargs(base_url="http://x")
        headers = {
            str(name).encode("utf-8", "replace"): str(value).encode("utf-8", "replace")
            for name, value in given["headers"].items()
        }
        what = {each: given[each] for each in ("json", "data", "content", "params") if each in given}
        if isinstance(what.get("data"), bytes):
            what["content"] = what.pop("data")
        statuses.add(send(given["method"], case.formatted_path, headers=[*headers.items()], **what).status_code)

    operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    for operation in operations:
        for mode in GenerationMode:
            fuzzed(operation.as_strategy(generation_mode=mode), one, most=max(4, MANY // 4))
    assert len(operations) == sum(len(verbs) for verbs in surface.document["paths"].values())
    assert statuses >= surface.answers


def test_nasty_heads_and_bodies(surface: Surface, send: Send) -> None:
    """By the parsers' corpus, in each header that somebody reads, in the path, and as the body."""
    names = ("x-org-id", "x-key", "authorization", "x-request-id", "stripe-signature", "content-type")
    nasty = [*corpus("headers"), *corpus("stripe_signature"), *corpus("stripe_body")]
    paths = [path.partition("{")[0] for path in surface.document["paths"]]

    def one(how: tuple[str, str, bytes, str, bytes]) -> None:
        method, name, value, path, body = how
        head = value.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
        send(method, path, headers=[(name.encode(), head), (b"x-org-id", b"acme")], content=body)

    values = st.sampled_from(nasty) | st.binary(max_size=60)
    methods = st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "BREW"])
    wheres = st.sampled_from([*paths, "/", "/%00", "/..%2f", "/ask/%ff", "//x", "/ask/" + "a" * 3_000])
    fuzzed(st.tuples(methods, st.sampled_from(names), values, wheres, values), one, most=2 * MANY)
