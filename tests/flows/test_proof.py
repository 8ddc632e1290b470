"""What was acknowledged, folded and counted are the same facts; and what happens where they are not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mm_metering import FrozenClock, Metering, UsageEvent, from_header
from mm_metering.backends.counters import shard_of
from mm_metering.core.digest import Digest
from mm_metering.core.facts import Count, Fact, decode, encode, flaw, line, quoted, rest
from mm_metering.core.periods import micros
from mm_metering.errors import QuotaExceeded
from mm_metering.gate.admission import Wish
from mm_metering.gate.reconcile import Drift, Reconciler
from mm_metering.proof import Proof, Verdict
from mm_metering.worker.reconcile import Reconciling
from tests.flows.conftest import Make

FEW: dict[str, Any] = {
    "currency": "USD",
    "default_plan": "free",
    "meters": {"calls": {"event": "api_call"}, "users": {"aggregation": "level"}},
    "plans": {"free": {"price": "0", "quotas": {"calls": {"limit": 10, "per": "day"}, "users": {"limit": 5}}}},
}


def verdicts(proof: Proof) -> set[Verdict]:
    return {each.verdict for each in proof.shards}


async def sql(stores: dict[str, str], statement: str) -> None:
    url = stores["ledger"].replace("postgresql:", "postgresql+asyncpg:").replace("sqlite:", "sqlite+aiosqlite:")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        assert (await connection.execute(text(statement))).rowcount > 0
    await engine.dispose()


# -- the proof -------------------------------------------------------------------------------------------------------


async def test_everything_that_a_tenant_does_is_proved(metering: Metering) -> None:
    """Takes, records, levels, duplicates, refusals and reversals, of several tenants."""
    for n in range(3):
        tenant = f"org_{n}"
        await metering.put_tenant(tenant, plan="pro")
        for _ in range(n + 1):
            await metering.enforce_quota(tenant, "api_calls")
        await metering.record_ai_usage(tenant, "gpt-4", tokens=1000, cost="0.03", id="once")
        await metering.record_ai_usage(tenant, "gpt-4", tokens=1000, cost="0.03", id="once")
        await metering.set_level(tenant, "users", 4)
        await metering.enforce_quota(tenant, "users", 2)
        await metering.release(tenant, "users")
        admission = await metering.take(tenant, (Wish("export", "report_pdf"),))
        await metering.reverse(admission)
    proof = await metering.prove()
    assert verdicts(proof) == {Verdict.EQUAL}
    assert proof.holds
    assert (proof.tenants, proof.differ) == (3, ())
    assert sum(each.acknowledged.facts for each in proof.shards) == 3 * (2 + 3) + 6


async def test_what_was_retired_stays_proved(metering: Metering, clock: FrozenClock) -> None:
    await metering.enforce_quota("org", "api_calls")
    await metering.flush()
    clock.advance(timedelta(days=40))
    await metering.enforce_quota("org", "api_calls")
    await metering.flush()
    while (await metering.ledger.retire(micros(clock.now()), keep_months=0)).more:
        pass
    assert len(await metering.ledger.facts("org", after=(0, ""), limit=9)) == 1
    for _ in range(2):
        proof = await metering.prove()
        assert (proof.holds, proof.tenants) == (True, 1)
        await metering.ledger.rebuild_cells("org")


async def test_a_part_that_is_taken_back_leaves_the_rest(metering: Metering) -> None:
    admission = await metering.take("org", (Wish("api_call", "/x"), Wish("export", "report_pdf")))
    await metering.reverse(admission, meters={"exports"})
    proof = await metering.prove()
    assert verdicts(proof) == {Verdict.EQUAL}
    assert (await metering.get_usage("org", "2024-01-15", "2024-01-15")).api_calls == 1


async def test_requests_that_fail_are_proved_too(stores: dict[str, str], make: Make) -> None:
    metering = await make(**stores)

    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("", status_code=int(request.path_params["code"]))

    app = Starlette(routes=[Route("/{code}", page)])
    metering.install(app, tenant=from_header("x-org-id"))
    for code in (200, 404, 500, 204, 503):
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": f"/{code}",
            "headers": [(b"x-org-id", b"org")],
        }
        scope |= {"query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http", "server": ("t", 80)}

        async def send(_: object) -> None: ...

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        await app(scope, receive, send)
    proof = await metering.prove()
    assert verdicts(proof) == {Verdict.EQUAL}
    assert sum(each.folded.facts for each in proof.shards) == 3


async def test_a_process_that_never_reported_leaves_the_ledger_ahead(shared_stores: dict[str, str], make: Make) -> None:
    first, second = await make(**shared_stores, worker="off"), await make(**shared_stores)
    await first.record_api_call("org", "/x")
    await second.record_api_call("org", "/x")
    proof = await second.prove()
    assert verdicts(proof) <= {Verdict.EQUAL, Verdict.AHEAD}
    assert Verdict.AHEAD in verdicts(proof)
    assert proof.holds
    await first.gate.report()
    assert verdicts(await second.prove()) == {Verdict.EQUAL}


async def test_a_lost_fact_is_seen(shared_stores: dict[str, str], make: Make) -> None:
    metering = await make(**shared_stores)
    await metering.record_api_call("org", "/x")
    await metering.record_api_call("org", "/y")
    await metering.flush()
    for table, where in (("mm_usage_fact", "resource = '/x'"), ("mm_usage_cell", "resource = '/x'")):
        await sql(shared_stores, f"DELETE FROM {table} WHERE {where}")
    proof = await metering.prove()
    shard = shard_of("org", metering.counters.shards)
    assert proof.shards[shard].verdict is Verdict.DIFFERS
    assert (proof.shards[shard].folded.facts, proof.shards[shard].cells.facts) == (2, 1)
    assert not proof.holds


async def test_a_ledger_that_has_less_than_was_acknowledged_is_behind(
    shared_stores: dict[str, str], make: Make
) -> None:
    metering = await make(**shared_stores)
    await metering.record_api_call("org", "/x")
    await metering.flush()
    await metering.ledger.report("another", acknowledged={0: Digest(1, 7)}, refused={}, now_us=0)
    proof = await metering.prove(tenants=False)
    assert proof.shards[0].verdict is Verdict.BEHIND
    assert not proof.holds


@pytest.mark.parametrize(
    ("change", "wrong"),
    [("quantity = quantity + 1", True), ("count = count + 1", True), ("digest = 1", True), ("revision = 99", False)],
)
async def test_a_cell_that_was_changed_is_found_and_rebuilt(
    shared_stores: dict[str, str], make: Make, change: str, *, wrong: bool
) -> None:
    metering = await make(**shared_stores)
    await metering.enforce_quota("org", "api_calls", 3)
    await metering.set_level("org", "users", 2)
    await metering.flush()
    await sql(shared_stores, f"UPDATE mm_usage_cell SET {change} WHERE meter = 'api_calls'")
    proof = await metering.prove()
    found = [cell.key.meter for each in proof.differ for cell in each.wrong]
    assert found == (["api_calls"] if wrong else [])
    assert (await metering.rebuild()) == (1, len(found))
    assert (await metering.prove()).holds
    assert (await metering.enforce_quota("org", "api_calls")).used == 4


@pytest.mark.parametrize("document", ["document", "replace(document, '\"99.00\"', '\"98.00\"')"])
async def test_an_invoice_that_was_changed_is_found(
    shared_stores: dict[str, str], make: Make, clock: FrozenClock, document: str
) -> None:
    metering = await make(**shared_stores)
    for tenant in ("org", "other"):
        await metering.put_tenant(tenant, plan="pro", subscribed_at="2024-01-01T00:00:00Z")
    clock.set("2024-02-03T00:00:00Z")
    invoices = {each.tenant: each for each in await metering.close_period("2024-01")}
    await metering.mark_invoice(invoices["other"].id, "paid")
    await sql(shared_stores, f"UPDATE mm_invoice SET document = {document} WHERE tenant = 'org'")
    proof = await metering.prove()
    assert proof.invoices == 2
    assert proof.wrong_invoices == (() if document == "document" else (invoices["org"].id,))
    assert proof.holds is (document == "document")
    assert (await metering.prove(tenants=False)).invoices == 0


# -- counters against the ledger --------------------------------------------------------------------------------------


async def test_counters_that_are_right_are_left_alone(metering: Metering) -> None:
    await metering.enforce_quota("org", "api_calls", 3)
    await metering.set_level("org", "users", 2)
    assert await metering.reconciler.drift("org") == []
    assert await metering.reconciler.drift("stranger") == []


async def test_a_worker_that_does_not_have_the_apps_catalogue_compares_them_too(
    shared_stores: dict[str, str], make: Make
) -> None:
    quotas = {"calls": {"limit": 10, "per": "day"}, "desks": {"limit": 4}}
    tree = {"meters": {"calls": {"event": "api_call"}, "desks": {"aggregation": "level"}}, "default_plan": "free"}
    app = await make(catalogue=tree | {"plans": {"free": {"price": "0.00", "quotas": quotas}}}, **shared_stores)
    await app.enforce_quota("org", "calls", 3)
    await app.set_level("org", "desks", 2)
    await app.flush()
    stores: dict[str, Any] = shared_stores
    worker = Metering(**stores, worker="off")  # as `mm-metering worker` has it: it applies no plans
    _, wanted = await worker.gate.expected("org")
    assert {field.partition("@")[0] for field in wanted} == {"calls", "desks", "desks/desks"}
    assert await worker.reconciler.drift("org") == []
    await worker.aclose()


async def test_counters_that_drifted_are_told_and_loaded_anew(
    shared_stores: dict[str, str], make: Make, clock: FrozenClock
) -> None:
    """A counter that is changed behind everybody's back: here by another life of the clock's day."""
    metering = await make(catalogue=FEW, **shared_stores)
    await metering.enforce_quota("org", "calls", 3)
    await metering.flush()
    shard = shard_of("org", metering.counters.shards)
    (field,) = (name for name in await metering.counters.counters(shard, "org") if name.startswith("calls@d"))
    async with Redis.from_url(shared_stores["counters"]) as redis:
        await redis.hset(f"{{mm:{shard}}}:c:org", field, "9")
    assert await metering.reconciler.drift("org") == [Drift(field, 9, 3)]
    passes = Reconciling(metering._drain, metering.reconciler)
    await metering.record_api_call("org", "/x")  # folded since: that is who is looked at
    await metering.flush()
    await passes.once()
    assert (passes.checked, passes.drifted, passes.drift) == (1, 1, 6)
    assert (await metering.enforce_quota("org", "calls")).used == 5
    await metering.flush()
    await passes.once()
    assert (passes.checked, passes.drifted, passes.drift) == (2, 1, 0)


async def test_a_tenant_whose_usage_never_rests_is_left_to_the_next_time(metering: Metering) -> None:
    drain = metering._drain

    async def busy(shard: int) -> bool:
        more = await drain(shard)
        await metering.enforce_quota("org", "api_calls")
        return more

    await metering.put_tenant("org", plan="enterprise")
    assert await Reconciler(metering.counters, metering.ledger, metering.gate, busy).drift("org") is None


# -- statistics ------------------------------------------------------------------------------------------------------


async def test_what_was_refused_is_in_the_days_snapshot(stores: dict[str, str], make: Make) -> None:
    metering = await make(catalogue=FEW, **stores)
    await metering.enforce_quota("org", "calls", 10)
    for quantity in (1, 4):
        with pytest.raises(QuotaExceeded):
            await metering.enforce_quota("org", "calls", quantity)
    assert not await metering.check_limit("org", "calls")
    await metering.flush()
    day = await metering.create_usage_snapshot("org", "2024-01-15")
    assert day.refused == {"calls": 5}
    assert day.meters["calls"] == 10
    assert (await metering.get_usage("org", "2024-01-14", "2024-01-16")).refused == {"calls": 5}
    assert (await metering.preview_invoice("org")).total == 0


async def test_a_level_s_last_value_its_peak_and_its_mean(
    stores: dict[str, str], make: Make, clock: FrozenClock
) -> None:
    metering = await make(catalogue=FEW, **stores)
    for hour, value in ((0, 2), (6, 5), (18, 1)):
        when = datetime(2024, 1, 14, hour, tzinfo=UTC)
        await metering.set_level("org", "users", value, occurred_at=when)
    use = (await metering.create_usage_snapshot("org", "2024-01-14")).levels["users"]
    assert (use.last, use.peak, use.mean) == (1, 5, Decimal(2 * 6 + 5 * 12 + 1 * 6) / 24)
    after = (await metering.create_usage_snapshot("org", "2024-01-15")).levels["users"]
    assert (after.last, after.peak, after.mean) == (1, 1, Decimal(1))
    both = (await metering.get_usage("org", "2024-01-14", "2024-01-15")).levels["users"]
    assert (both.last, both.peak, both.mean) == (1, 5, (use.mean + 1) / 2)


async def test_the_peak_is_of_all_resources_together(stores: dict[str, str], make: Make) -> None:
    metering = await make(catalogue=FEW, **stores)
    moves = (("a", 1, 3), ("b", 2, 4), ("a", 3, 0), ("b", 4, 5))
    for resource, hour, value in moves:
        when = datetime(2024, 1, 14, hour, tzinfo=UTC)
        await metering.set_level("org", "users", value, resource=resource, occurred_at=when)
    use = (await metering.create_usage_snapshot("org", "2024-01-14")).levels["users"]
    assert (use.last, use.peak) == (5, 7)


async def test_a_late_fact_raises_the_revision_of_its_day(metering: Metering) -> None:
    early = datetime(2024, 1, 10, 12, tzinfo=UTC)
    await metering.record_api_call("org", "/x")
    before = await metering.create_usage_snapshot("org", "2024-01-10")
    today = await metering.create_usage_snapshot("org", "2024-01-15")
    await metering.record(UsageEvent(tenant="org", event_type="api_call", resource="/x", occurred_at=early))
    after = await metering.create_usage_snapshot("org", "2024-01-10")
    assert (before.api_calls, after.api_calls) == (0, 1)
    assert after.revision > before.revision
    assert await metering.create_usage_snapshot("org", "2024-01-15") == today


# -- lines -----------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8", min_codepoint=1), max_size=12)
FACTS = st.builds(
    Fact,
    id=TEXTS,
    occurred_us=st.integers(0, 2**52),
    kind=st.sampled_from(["use", "set", "add"]),
    tenant=TEXTS,
    event_type=TEXTS,
    resource=TEXTS,
    quantity=st.integers(0, 2**53),
    cost_nanos=st.none() | st.integers(0, 2**60),
    counts=st.lists(st.builds(Count, TEXTS, TEXTS, st.integers(0, 2**53)), max_size=3).map(tuple),
    success=st.booleans(),
    target=st.none() | TEXTS,
    metadata=st.none() | TEXTS,
).filter(lambda fact: not flaw(fact))


@given(FACTS)
def test_a_process_hashes_the_same_bytes_as_the_ledger(fact: Fact) -> None:
    """The process hashes the line that it sent, the ledger the fact that it read."""
    sent = line(fact.id, fact.occurred_us, quoted(fact.kind), quoted(fact.tenant), rest(fact))
    assert sent == encode(fact) == encode(decode(sent))
