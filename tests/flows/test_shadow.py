"""A shadow plan over real traffic: what it would have decided is what a Metering decides that really runs it."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mm_metering import FrozenClock, Metering, Refused
from mm_metering.backends.work import SHADOW_BLOCKS
from mm_metering.billing import shadow as shadowing
from mm_metering.core.shadow_report import LimitShadow, TenantShadow
from mm_metering.errors import CatalogueError, InvalidInput, UnknownTenant
from tests.flows.conftest import Make

METERS = {
    "api_calls": {"event": "api_call"},
    "reports": {"event": "export", "resource": "report_*"},
    "exports": {"event": "export"},
    "users": {"aggregation": "level"},
}


def plans(price: str = "10.00", **quotas: Any) -> dict[str, Any]:
    """A catalogue of one plan, "p"."""
    return {
        "currency": "USD",
        "default_plan": "p",
        "meters": METERS,
        "plans": {"p": {"price": price, "quotas": quotas}},
    }


def limit(units: int | str, per: str = "day", **more: Any) -> dict[str, Any]:
    return {"limit": units, "per": per, **more}


def charged(units: int, price: str, per: str = "day") -> dict[str, Any]:
    return limit(units, per, then="charge", unit_price=price)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock("2024-01-14T12:00:00Z")


Request = tuple[str, str, int]
"""A tenant, a meter and units."""


async def refused_units(
    metering: Metering, clock: FrozenClock, days: Iterable[Iterable[Request]]
) -> dict[str, Counter[str]]:
    """Sends each day's requests, a second apart; what was refused, by tenant and meter."""
    refused, noon = dict[str, Counter[str]](), clock.now()
    for number, day in enumerate(days):
        clock.set(noon + timedelta(days=number))
        for tenant, meter, units in day:
            clock.advance(timedelta(seconds=1))
            try:
                await metering.enforce_quota(tenant, meter, units)
            except Refused as error:
                named = {each.meter for each in error.decisions if not each.allowed}
                refused.setdefault(tenant, Counter()).update(dict.fromkeys(named, units))
    return refused


def traffic(seed: int, days: int, most: int, tenants: str = "ab") -> list[list[Request]]:
    rng = random.Random(seed)
    meters = ("api_calls", "api_calls", "reports", "exports")
    return [
        [(rng.choice(tenants), rng.choice(meters), rng.randint(1, most)) for _ in range(rng.randint(5, 25))]
        for _ in range(days)
    ]


WIDE = plans(api_calls=limit("unlimited"), reports=limit("unlimited"), exports=limit("unlimited"))
TIGHT = {
    "a day": plans(api_calls=limit(20), reports=limit(3)),
    "a day and a month": plans(api_calls=[limit(15), limit(40, "month")], exports=limit(9, "month")),
    "a cap": plans(api_calls=limit(10, then={"charge_up_to": "0.25"}, unit_price="0.01"), exports=limit(6)),
    "not in the plan": plans(api_calls=limit(0), reports=limit(30, "month")),
}


@pytest.mark.parametrize("ledger", ["memory://", "sqlite"])
@pytest.mark.parametrize("name", TIGHT)
async def test_whole_requests_are_refused_as_by_the_plan_itself(
    make: Make, clock: FrozenClock, tmp_path: Path, name: str, ledger: str
) -> None:
    """A request is an export and a report at once, or five calls with three left: all of it is let in, or nothing."""
    url = ledger if ledger == "memory://" else f"sqlite:///{tmp_path}/now.db"
    real = await make(catalogue=WIDE, shadow=TIGHT[name], ledger=url)
    own = FrozenClock(clock.now())
    other = await make(catalogue=TIGHT[name], clock=own)
    asked = traffic(seed=len(name), days=4, most=6)
    assert await refused_units(real, clock, asked) == {}
    really = await refused_units(other, own, asked)
    found = await real.shadow_report()
    assert really
    assert {each.tenant: each.refused_then for each in found.tenants if each.refused_then} == really
    assert not any(each.estimated for each in found.tenants)


UNITS = {
    "more a day": (plans(api_calls=limit(5)), plans(api_calls=limit(12))),
    "a month instead": (plans(api_calls=limit(9)), plans(api_calls=limit(30, "month"))),
    "less a day, more a month": (
        plans(api_calls=[limit(12), limit(15, "month")]),
        plans(api_calls=[limit(6), limit(60, "month")]),
    ),
    "more of both": (
        plans(api_calls=[limit(5), limit(5, "month")]),
        plans(api_calls=[limit(99), limit(99, "month")]),
    ),
    "a larger cap": (
        plans(api_calls=limit(3, then={"charge_up_to": "0.02"}, unit_price="0.01")),
        plans(api_calls=limit(3, then={"charge_up_to": "9.00"}, unit_price="0.01")),
    ),
    "charged instead": (plans(api_calls=limit(5)), plans(api_calls=charged(5, "0.10"))),
    "the same": (plans(api_calls=limit(5)), plans("20.00", api_calls=limit(5))),
}


@pytest.mark.parametrize("name", UNITS)
async def test_units_are_let_in_and_refused_as_by_the_plan_itself(make: Make, clock: FrozenClock, name: str) -> None:
    now, then = UNITS[name]
    real = await make(catalogue=now, shadow=then)
    own = FrozenClock(clock.now())
    other = await make(catalogue=then, clock=own)
    asked = [[("a", "api_calls", 1)] * units for units in (14, 3, 9, 20)]
    before = await refused_units(real, clock, asked)
    after = await refused_units(other, own, asked)
    found = await real.shadow_report("a")
    (tenant,) = found.tenants
    changed = {
        key: each.get("api_calls", 0) for key, each in (("then", tenant.refused_then), ("let in", tenant.allowed_then))
    }
    assert before["a"]["api_calls"] + changed["then"] - changed["let in"] == after.get("a", Counter())["api_calls"]
    bill = await other.preview_invoice("a")
    assert tenant.before == (await real.preview_invoice("a")).subtotal
    if not tenant.refused_then:
        assert tenant.with_refused == bill.subtotal


# -- what a plan is besides limits per day and month -------------------------------------------------------------------


def of(tenant: TenantShadow, meter: str, window: str) -> LimitShadow:
    (found,) = [each for each in tenant.limits if (each.meter, each.window) == (meter, window)]
    return found


async def test_each_window_says_since_when(make: Make, clock: FrozenClock) -> None:
    then = plans(api_calls=[limit(4), limit(9, "month")])
    metering = await make(catalogue=plans(api_calls=limit(6)), shadow=then)
    await refused_units(metering, clock, [[("a", "api_calls", 1)] * units for units in (8, 3, 5)])
    (tenant,) = (await metering.shadow_report()).tenants
    day, month = of(tenant, "api_calls", "day"), of(tenant, "api_calls", "month")
    assert (day.limit_now, day.limit_then, day.used, day.refused) == (6, 4, 5, 0)
    assert (day.refused_then, day.refused_then_month, day.since) == (0, 2, None), "two on the first day"
    assert (month.limit_now, month.limit_then, month.used, month.refused) == (None, 9, 14, 2)
    assert (month.refused_then, month.refused_then_month, month.allowed_then) == (3, 3, 0)
    assert f"{month.since:%d %H:%M:%S}" == "16 12:00:03", "the third request of the third day"
    assert tenant.refused_then == {"api_calls": 5}
    assert (tenant.plan, tenant.period) == ("p@1", "2024-01")


async def test_rates_are_judged_by_the_days_facts(make: Make, clock: FrozenClock) -> None:
    """Of four requests a second three would have been let in; by the day before nothing is said."""
    then = plans(api_calls=[limit("unlimited"), limit(3, "second")])
    metering = await make(catalogue=plans(api_calls=limit("unlimited")), shadow=then)
    for day in range(2):
        for step in (0.0, 0.2, 0.4, 0.8, 1.0):
            clock.set("2024-01-14T12:00:00Z")
            clock.advance(timedelta(days=day, seconds=step))
            await metering.enforce_quota("a", "api_calls")
    (tenant,) = (await metering.shadow_report()).tenants
    rate = of(tenant, "api_calls", "second")
    assert (rate.limit_now, rate.limit_then, rate.used, rate.refused_then, rate.refused_then_month) == (
        None,
        3,
        5,
        1,
        1,
    )
    assert f"{rate.since:%d %H:%M:%S.%f}" == "15 12:00:00.800000"


async def test_levels_are_what_stands_past_the_limit(make: Make, clock: FrozenClock) -> None:
    now, then = plans(users={"limit": 8}), plans(users={"limit": 5})
    tight = await make(catalogue=now, shadow=then)
    wide = await make(catalogue=then, shadow=now)
    for metering in (tight, wide):
        await refused_units(metering, clock, [[("a", "users", 1)] * 10])
    (found,) = (await tight.shadow_report()).tenants
    assert (of(found, "users", "none").used, found.refused_then) == (8, {"users": 3})
    (found,) = (await wide.shadow_report()).tenants
    assert (of(found, "users", "none").used, found.allowed_then) == (5, {"users": 3})


async def test_what_was_stated_and_not_asked_is_not_refused(make: Make, clock: FrozenClock) -> None:
    """Past the limit in force only ``record`` counts; before it nothing tells the two apart."""
    metering = await make(catalogue=plans(api_calls=limit(10)), shadow=plans(api_calls=limit(8)))
    await metering.record_api_call("a", "/x", occurred_at=clock.now())
    await refused_units(metering, clock, [[("a", "api_calls", 1)] * 9])
    for _ in range(4):
        clock.advance(timedelta(seconds=1))
        await metering.record_api_call("a", "/x")
    (tenant,) = (await metering.shadow_report()).tenants
    assert (of(tenant, "api_calls", "day").used, tenant.refused_then) == (14, {"api_calls": 2})
    same = await make(catalogue=plans(api_calls=limit(10)), shadow=plans(api_calls=limit(10)))
    for _ in range(15):
        await same.record_api_call("a", "/x")
    found = await same.shadow_report()
    assert (found.blocked, found.compared, found.tenants) == (0, 1, ())


async def test_overrides_and_plans_that_the_file_has_not_stay(make: Make, clock: FrozenClock) -> None:
    now = plans(api_calls=limit(10))
    now["plans"]["q"] = now["plans"]["p"]
    metering = await make(catalogue=now, shadow=plans(api_calls=limit(2)))
    await metering.put_tenant("q", plan="q")
    await metering.put_tenant("own", plan="p")
    await metering.override_plan("own", {"price": "3.00"})
    await refused_units(metering, clock, [[(tenant, "api_calls", 1) for tenant in ("q", "own", "a")] * 5])
    found = await metering.shadow_report()
    assert [(each.tenant, each.refused_then) for each in found.tenants] == [("a", {"api_calls": 3})]
    assert (found.compared, found.blocked, found.missing_plans, found.own_plans) == (3, 1, {"q": 1}, 1)


async def test_those_hit_most_come_first(make: Make, clock: FrozenClock) -> None:
    metering = await make(catalogue=plans(api_calls=limit(100)), shadow=plans("12.00", api_calls=limit(4)))
    calls = {"little": 5, "most": 40, "none": 3, "half": 8}
    await refused_units(
        metering, clock, [[(name, "api_calls", 1) for name, many in calls.items() for _ in range(many)]]
    )
    found = await metering.shadow_report()
    assert [each.tenant for each in found.tenants] == ["most", "half", "little", "none"]
    assert (found.blocked, found.refused_then) == (3, {"api_calls": 41})
    assert found.total.difference == sum(each.difference for each in found.tenants) > 0


async def test_a_changed_plan_is_looked_at_from_its_instant(make: Make, clock: FrozenClock) -> None:
    now, then = plans(api_calls=limit(100)), plans(api_calls=limit(5))
    now["plans"]["big"] = {"price": "99.00", "quotas": {"api_calls": limit(100)}}
    then["plans"]["big"] = {"price": "99.00", "quotas": {"api_calls": limit(12)}}
    metering = await make(catalogue=now, shadow=then)
    await refused_units(metering, clock, [[("a", "api_calls", 1)] * 7])
    await metering.change_plan("a", "big")
    await refused_units(metering, clock, [[("a", "api_calls", 1)] * 9])
    (tenant,) = (await metering.shadow_report()).tenants
    assert tenant.refused_then == {"api_calls": 4}, "2 past 5, then 2 past 12, of which 5 were used"


async def test_days_and_months_are_the_tenants_own(make: Make, clock: FrozenClock) -> None:
    """Its month begins on the 15th, and its day at 11:00 in UTC."""
    then = plans(api_calls=[limit(4), limit(6, "month")])
    metering = await make(catalogue=plans(api_calls=limit(99)), shadow=then)
    own = FrozenClock(clock.now())
    other = await make(catalogue=then, clock=own)
    asked = [[("a", "api_calls", 1)] * units for units in (5, 3)]
    for each in (metering, other):
        await each.put_tenant(
            "a", timezone="Pacific/Auckland", anchor=15, subscribed_at="2023-11-01T00:00:00Z", plan="p"
        )
    for each, moving in ((metering, clock), (other, own)):
        moving.set("2024-01-14T10:00:00Z")
        await refused_units(each, moving, asked[:1])
        moving.set("2024-01-31T10:30:00Z")
    await refused_units(metering, clock, asked)
    really = await refused_units(other, own, asked)
    (tenant,) = (await metering.shadow_report()).tenants
    assert (tenant.period, tenant.refused_then) == ("2024-01", really["a"])
    assert of(tenant, "api_calls", "month").used == 8


async def test_what_is_recorded_in_a_pause_was_not_asked(make: Make, clock: FrozenClock) -> None:
    metering = await make(catalogue=plans(api_calls=limit(9)), shadow=plans(api_calls=limit(2)))
    await refused_units(metering, clock, [[("a", "api_calls", 1)] * 3])
    clock.advance(timedelta(seconds=1))
    await metering.pause_subscription("a")
    for _ in range(4):
        await metering.record_api_call("a", "/x")
    (tenant,) = (await metering.shadow_report()).tenants
    assert (of(tenant, "api_calls", "day").used, tenant.refused_then) == (7, {"api_calls": 1})


async def test_too_many_facts_are_judged_by_their_sums(
    make: Make, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    metering = await make(catalogue=plans(api_calls=limit(100)), shadow=plans(api_calls=limit(12)))
    await refused_units(metering, clock, [[("a", "api_calls", 5)] * 4])
    found = (await metering.shadow_report()).tenants[0]
    assert (found.refused_then, found.estimated) == ({"api_calls": 10}, False)
    monkeypatch.setattr(shadowing, "PAGE", 3)
    assert (await metering.shadow_report()).tenants[0] == found, "page by page"
    monkeypatch.setattr(shadowing, "MOST_FACTS", 5)
    await refused_units(metering, clock, [[], [("a", "api_calls", 6)] * 3])
    found = (await metering.shadow_report()).tenants[0]
    assert (found.refused_then, found.estimated) == ({"api_calls": 16}, True), "the second day is too much"
    monkeypatch.setattr(shadowing, "MOST_FACTS", 2)
    found = (await metering.shadow_report()).tenants[0]
    assert (found.refused_then, found.estimated, found.limits[0].since) == ({"api_calls": 14}, True, None)


# -- the request path --------------------------------------------------------------------------------------------------


async def test_nothing_of_it_runs_with_a_request(make: Make) -> None:
    metering = await make(catalogue=plans(api_calls=limit(10)), shadow=plans(api_calls=limit(1)), worker="off")
    await metering.enforce_quota("a", "api_calls")
    called: set[str] = set()

    def note(frame: FrameType, _event: str, _: object) -> None:
        called.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        for _ in range(3):
            await metering.enforce_quota("a", "api_calls")
    finally:
        sys.setprofile(None)
    assert any(file.endswith("gate/gate.py") for file in called)
    assert not [file for file in called if "shadow" in Path(file).name and "test_" not in Path(file).name]
    assert not any(file.endswith("memory_ledger.py") for file in called)


# -- the worker --------------------------------------------------------------------------------------------------------


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.getMessage().startswith("shadow: ")]


async def test_the_worker_says_it_once_whatever_runs(
    make: Make, clock: FrozenClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two workers at once, and a third after them; the next day too."""
    stores = {"ledger": f"sqlite:///{tmp_path}/ledger.db", "catalogue": plans(api_calls=limit(10)), "worker": "off"}
    options: dict[str, Any] = stores | {"shadow": plans(api_calls=limit(2), reports=limit(1))}
    first = await make(**options)
    await refused_units(first, clock, [[("a", "api_calls", 1)] * 3 + [("b", "api_calls", 1)] * 2])
    await first.flush()
    second = await make(**options)
    await asyncio.gather(watch(first), watch(second))
    assert lines(caplog) == [
        (
            "shadow: tenant='a' plan='p@1' meter=api_calls window=day limit_now=10 limit_then=2 used=3 "
            "refused_then_month=1 since=2024-01-14T12:00:03Z"
        )
    ]
    (record,) = [each for each in caplog.records if each.getMessage().startswith("shadow: ")]
    assert record.shadow["refused_then"] == 1  # type: ignore[attr-defined]
    scraped = [await each.monitor.exposition() for each in (first, second)]
    assert sum('mm_metering_shadow_blocks_total{meter="api_calls"} 1' in text for text in scraped) == 1

    clock.advance(timedelta(days=1))
    await refused_units(
        first, clock, [[("a", "api_calls", 1)] * 3 + [("a", "reports", 1)] * 2 + [("b", "api_calls", 3)]]
    )
    await first.flush()
    for each in (first, second, await make(**options)):
        await watch(each)
    assert [line.split()[1:5:2] for line in lines(caplog)[1:]] == [
        ["tenant='a'", "meter=reports"],
        ["tenant='b'", "meter=api_calls"],
    ]
    assert len(await first.ledger.open_alerts()) == 3

    await watch(await make(**options | {"shadow": plans(api_calls=limit(2))}))
    opened = await first.ledger.open_alerts()
    assert [(each.kind, each.subject.split("/")[1:]) for each in opened] == [
        (SHADOW_BLOCKS, ["api_calls", "day", "a"]),
        (SHADOW_BLOCKS, ["api_calls", "day", "b"]),
    ], "another file is noticed anew, and what the first one would do is closed"


async def watch(metering: Metering) -> None:
    (job,) = [job for job in metering._jobs._jobs if job.name == "shadow"]
    await job.run(metering.clock.now(), 1)


async def test_it_is_a_job_of_the_worker(make: Make, clock: FrozenClock, caplog: pytest.LogCaptureFixture) -> None:
    metering = await make(catalogue=plans(api_calls=limit(10)), shadow=plans(api_calls=limit(2)), worker="off")
    await refused_units(metering, clock, [[("a", "api_calls", 1)] * 3])
    await metering.flush()
    await metering._jobs.once()
    assert len(lines(caplog)) == 1
    assert [run.state for run in await metering.ledger.runs("shadow", until_us=2**62, limit=5)] == ["done"]


async def test_a_tenant_that_has_not_changed_is_not_replayed(
    make: Make, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    metering = await make(catalogue=plans(api_calls=limit(10)), shadow=plans(api_calls=limit(2)), worker="off")
    asked: list[str] = []
    facts = metering.ledger.facts

    async def counted(tenant: str, **page: Any) -> Any:
        asked.append(tenant)
        return await facts(tenant, **page)

    monkeypatch.setattr(metering.ledger, "facts", counted)
    await refused_units(metering, clock, [[("a", "api_calls", 1), ("b", "api_calls", 1)] * 3])
    await metering.flush()
    for expected in (["a", "b"], []):
        asked.clear()
        await watch(metering)
        assert asked == expected
    await metering.enforce_quota("b", "api_calls")
    await metering.flush()
    await watch(metering)
    assert asked == ["b"]
    await refused_units(metering, clock, [[("a", "api_calls", 20)]])
    await metering.flush()
    await watch(metering)
    assert asked == ["b", "a"], "it was refused something"
    await metering.put_tenant("own", plan="p")
    await metering.override_plan("own", {"price": "1.00"})
    for _ in range(12):
        await metering.record_api_call("own", "/x")
    await metering.flush()
    await watch(metering)
    assert asked == ["b", "a"], "its own version stays: nothing is to be decided"


async def test_who_would_only_be_let_in_is_no_line(
    make: Make, clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    metering = await make(catalogue=plans(api_calls=limit(2)), shadow=plans(api_calls=limit(4)), worker="off")
    await refused_units(metering, clock, [[("a", "api_calls", 1)] * 3])
    await metering.flush()
    await watch(metering)
    assert ((await metering.shadow_report()).freed, lines(caplog)) == (1, [])


# -- what is refused ---------------------------------------------------------------------------------------------------


def wrong(text: str, **changes: Any) -> Any:
    return pytest.param(plans(api_calls=limit(5)) | changes, text, id=text)


@pytest.mark.parametrize(
    ("shadow", "text"),
    [
        wrong("is in EUR, and the usage was sold in USD", currency="EUR"),
        wrong("has no meter 'reports', which p limits", meters={"api_calls": METERS["api_calls"]}),
        wrong("users is a sum of count there", meters=METERS | {"users": {"event": "user"}}),
    ],
)
def test_a_shadow_that_cannot_be_compared_stops_the_start(shadow: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        Metering(plans(api_calls=limit(5), reports=limit(5)), shadow=shadow)


def test_a_wrong_file_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "next.toml"
    file.write_text('currency = "USD"\n[plans.p]\npryce = "1.00"\n')
    with pytest.raises(CatalogueError, match=r"next\.toml:3"):
        Metering(shadow=str(file))


async def test_an_old_version_with_a_dropped_meter_leaves_its_tenant_out(
    make: Make, clock: FrozenClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    old = await make(catalogue=plans(reports=limit(5)), ledger=url, worker="off")
    await old.put_tenant("old", plan="p")
    new = plans(api_calls=limit(9))
    metering = await make(
        catalogue=new,
        ledger=url,
        worker="off",
        shadow=plans(api_calls=limit(1)) | {"meters": {"api_calls": METERS["api_calls"]}},
    )
    await refused_units(metering, clock, [[("young", "api_calls", 1)] * 2])
    await metering.flush()
    await watch(metering)
    assert [line.split(" plan=")[0] for line in lines(caplog)] == [
        "shadow: tenant='young'",
        (
            "shadow: tenants left out: 1, the first is 'old': catalogue: has no meter 'reports', which p@1 limits; "
            "keep it under [meters]: a plan that does not name it neither limits nor bills it"
        ),
    ]
    with pytest.raises(InvalidInput, match="which p@1 limits"):
        await metering.shadow_report()
    assert (await metering.shadow_report("young")).blocked == 1


async def test_without_a_shadow_there_is_no_report(memory: Metering, make: Make) -> None:
    with pytest.raises(InvalidInput, match="MM_METERING_SHADOW"):
        await memory.shadow_report()
    with pytest.raises(UnknownTenant, match="'nobody'"):
        await (await make(shadow=plans(), catalogue=plans())).shadow_report("nobody")


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM_METERING_SHADOW", str(tmp_path / "gone.toml"))
    with pytest.raises(CatalogueError, match=r"gone\.toml"):
        Metering.from_env()
