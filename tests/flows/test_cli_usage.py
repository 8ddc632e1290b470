"""``mm-metering usage``, as somebody types it: what it prints and writes, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

from mm_metering import FrozenClock, Metering
from mm_metering.cli.checkpoint import Checkpoint
from tests.flows.conftest import Shell
from tests.redis_server import RedisServer

T = TypeVar("T")
APP = ("--app", "house_of_usage:metering")


class House(ModuleType):
    """An app whose Metering is a new one each time, as in a process of its own."""

    def __init__(self, counters: str, ledger: str) -> None:
        super().__init__("house_of_usage")
        self.stores: dict[str, Any] = {"counters": counters, "ledger": ledger}
        self.clock = FrozenClock("2024-01-15T12:00:00Z")

    @property
    def metering(self) -> Metering:
        return Metering(**self.stores, clock=self.clock, worker="off")

    def do(self, work: Callable[[Metering], Awaitable[T]]) -> T:
        async def done() -> T:
            async with self.metering as metering:
                return await work(metering)

        return asyncio.run(done())

    def calls(self, tenant: str = "acme") -> int:
        async def read(metering: Metering) -> int:
            assert (await metering.prove()).holds
            return (await metering.get_usage(tenant, "2024-01-01", "2024-01-31")).api_calls

        return self.do(read)


@pytest.fixture
def house(redis_server: RedisServer, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    found = House(redis_server.url, sqlite_url)
    monkeypatch.setitem(sys.modules, "house_of_usage", found)

    async def use(metering: Metering) -> None:
        await metering.put_tenant("acme", plan="pro", timezone="America/New_York")
        for n, route in enumerate(("/v1/a", "/v1/a", "=cmd|' /C calc'!A0")):
            await metering.record_api_call("acme", route, id=f"seen{n}", occurred_at=metering.clock.now())
        await metering.record_ai_usage("acme", "gpt-4", tokens=1_000, cost="0.03")

    found.do(use)
    return found


def lines(path: Path, count: int, *more: str, first: int = 0) -> Path:
    row = {"tenant": "acme", "event_type": "api_call", "resource": "/v1", "occurred_at": "2024-01-14T12:00:00Z"}
    path.write_text("".join([*(json.dumps({**row, "id": f"e{first + n}"}) + "\n" for n in range(count)), *more]))
    return path


# -- show --------------------------------------------------------------------------------------------------------------


def test_what_a_tenant_used_is_shown_by_day_meter_resource_and_model(house: House, shell: Shell) -> None:
    code, said, _ = shell("usage", "show", "acme", *APP)
    assert (code, "2024-01-01" in said, "2024-01-15" in said, "rows: 15" in said) == (0, True, True, True)
    code, said, _ = shell("usage", "show", "acme", "--from", "2024-01-15", "--to", "2024-01-15", "--json", *APP)
    (day,) = json.loads(said)
    assert day == {"day": "2024-01-15", "api_calls": 3, "ai_requests": 1, "ai_tokens": 1000, "total_cost": "0.03"} | {
        "ai_cost": "0.03"
    }
    code, said, _ = shell("usage", "show", "acme", "--by", "meter", "--json", *APP)
    assert {each["meter"]: each["used"] for each in json.loads(said)}["ai_tokens"] == 1000
    code, said, _ = shell("usage", "show", "acme", "--by", "resource", "--csv", *APP)
    assert said.splitlines()[:3] == [
        "meter,resource,quantity,events,cost",
        "api_calls,/v1/a,2,2,0.00",
        "api_calls,'=cmd|' /C calc'!A0,1,1,0.00",
    ]
    code, said, _ = shell("usage", "show", "acme", "--by", "model", "--csv", *APP)
    assert said.splitlines() == ["model,requests,tokens,cost", "gpt-4,1,1000,0.03"]
    code, said, _ = shell("usage", "show", "acme", "--to", "2023-12-05", "--json", *APP)
    assert [each["day"] for each in json.loads(said)] == [f"2023-12-0{n}" for n in range(1, 6)]


def test_what_cannot_be_shown_is_said(house: House, shell: Shell) -> None:
    code, _, said = shell("usage", "show", "nobody", *APP)
    assert (code, "mm-metering tenants list" in said) == (1, True)
    for words in (("--by", "moon"), ("--from", "15.1.24"), ("--from", "2024-02-01", "--to", "2024-01-01")):
        assert shell("usage", "show", "acme", *words, *APP)[0] == 2
    house.stores["ledger"] = "memory://"
    assert shell("usage", "show", "acme", *APP)[0] == 2


# -- adjust ------------------------------------------------------------------------------------------------------------


def test_a_correction_says_what_was_and_is(house: House, shell: Shell) -> None:
    asked = ("usage", "adjust", "acme", "api_calls", "-2", "--reason", "incident 4711", "--id", "i1")
    code, said, _ = shell(*asked, *APP)
    assert (code, said) == (0, "acme: api_calls -2 on 2024-01-15: 3 before, 1 now\n")
    assert shell(*asked, *APP)[:2] == (0, "i1: was made before; nothing changed\n")
    code, _, said = shell("usage", "adjust", "acme", "api_calls", "-2", "--reason", "more", *APP)
    assert (code, "2 api_calls cannot be taken off 2024-01-15: 1 were used then" in said) == (2, True)
    day = ("--at", "2024-01-03", "--resource", "/v1/b")
    code, said, _ = shell("usage", "adjust", "acme", "api_calls", "7", "--reason", "forgotten", *day, *APP)
    assert (code, said) == (0, "acme: api_calls +7 on 2024-01-03: 0 before, 7 now\n")
    assert house.calls() == 8
    entries = house.do(lambda metering: metering.list_audit(tenant="acme"))
    reasons = [(each.reason, each.actor[:4]) for each in entries if each.action == "usage adjusted"]
    assert reasons == [("forgotten", "cli:"), ("incident 4711", "cli:")]


def test_what_is_no_correction_is_said(house: House, shell: Shell) -> None:
    for words in (("acme", "callz", "1"), ("acme", "api_calls", "0"), ("acme", "api_calls", "many")):
        code, _, said = shell("usage", "adjust", *words, "--reason", "why", *APP)
        assert (code, said.startswith("mm-metering: ")) == (2, True)
    assert shell("usage", "adjust", "acme", "api_calls", "1", *APP)[0] == 2
    assert shell("usage", "adjust", "acme", "api_calls", "1", "--reason", "x", "--at", "2024-13-01", *APP)[0] == 2


# -- backfill ----------------------------------------------------------------------------------------------------------


def test_a_file_is_recorded_once(house: House, shell: Shell, tmp_path: Path) -> None:
    file = lines(tmp_path / "events.ndjson", 50, "nope\n", "\n", '{"tenant":"acme"}\n')
    code, said, noted = shell("usage", "backfill", file, "--dry-run", *APP)
    assert (code, "would be recorded: 50, duplicates: 0" in said, house.calls()) == (1, True, 3)
    for recorded, duplicates in ((50, 0), (0, 50)):
        code, said, noted = shell("usage", "backfill", file, "--reason", "moving here", *APP)
        assert (code, noted) == (1, "")
        assert f"recorded: {recorded}, duplicates: {duplicates}\nconflicts: 0, rejected: 2\n" in said
        assert "line 51: line: is not JSON" in said
        assert "line 53: " in said
    assert house.calls() == 53
    assert [each.name for each in tmp_path.iterdir() if "events" in each.name] == ["events.ndjson"]
    code, said, _ = shell("usage", "backfill", lines(file, 9), "--json", *APP)
    assert (code, json.loads(said)["duplicates"], json.loads(said)["ended"]) == (0, 9, True)
    (entry, *_) = [each for each in house.do(lambda m: m.list_audit(tenant="")) if each.reason]
    assert (entry.action, entry.reason) == ("usage backfilled", "moving here")


def test_a_csv_file_is_recorded_too(house: House, shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "events.txt"
    head = "tenant,event_type,id,quantity,resource,occurred_at,cost,model,metadata\n"
    rows = ["acme,api_call,c1,5,/v1,2024-01-14T12:00:00Z,,,\n", 'acme,ai_call,c2,1,,,0.5,gpt-4,"{""n"":1}"\n']
    file.write_text(head + "".join(rows) + "acme,api_call,c3,none,/v1,,,,\n")
    code, said, _ = shell("usage", "backfill", file, "--format", "csv", *APP)
    assert (code, "recorded: 2, duplicates: 0" in said, "line 4: quantity: 'none'" in said) == (1, True, True)
    assert house.calls() == 8
    assert shell("usage", "backfill", file, *APP)[0] == 1
    assert shell("usage", "backfill", tmp_path / "nothing.csv", *APP)[0] == 2


def test_an_ended_run_goes_on_and_a_new_one_is_refused(
    house: House, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle: the batch that is under way is finished."""
    file, kept = lines(tmp_path / "events.ndjson", 45, "nope\n"), tmp_path / "events.ndjson.backfill"
    write = Checkpoint.write

    def interrupted(self: Checkpoint, to: Path) -> None:
        write(self, to)
        if self.tally.read == 20:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoint, "write", interrupted)
    code, said, noted = shell("usage", "backfill", file, "--batch", 10, *APP)
    monkeypatch.setattr(Checkpoint, "write", write)
    assert (code, f"go on with: mm-metering usage backfill {file} --resume" in noted) == (130, True)
    stood = Checkpoint.read(kept, file).tally
    assert stood.recorded == stood.read == stood.settled
    assert house.calls() == 3 + stood.read < 48
    code, _, noted = shell("usage", "backfill", file, *APP)
    assert (code, "go on with --resume, or delete it" in noted) == (2, True)
    code, said, _ = shell("usage", "backfill", file, "--resume", *APP)
    assert (code, "recorded: 45, duplicates: 0\nconflicts: 0, rejected: 1" in said) == (1, True)
    assert "line 46: line: is not JSON" in said
    assert (house.calls(), kept.exists()) == (48, False)


def test_strict_ends_at_an_event_that_is_refused_and_goes_on_after_it(
    house: House, shell: Shell, tmp_path: Path
) -> None:
    lines(tmp_path / "rest", 30, first=100)
    file = lines(tmp_path / "events.ndjson", 15, "nope\n", (tmp_path / "rest").read_text())
    kept = tmp_path / "elsewhere"
    words = ("usage", "backfill", file, "--strict", "--batch", 10, "--checkpoint", kept, *APP)
    code, said, noted = shell(*words)
    assert (code, "line 16: line: is not JSON" in said, "--resume" in noted) == (1, True, True)
    assert (house.calls(), kept.exists()) == (3 + 19, True)
    code, said, _ = shell(*words, "--resume")
    assert (code, "recorded: 45, duplicates: 0" in said) == (1, True)
    assert (house.calls(), kept.exists()) == (48, False)


def test_another_file_does_not_go_on_where_this_one_was(house: House, shell: Shell, tmp_path: Path) -> None:
    file = lines(tmp_path / "events.ndjson", 5)
    (tmp_path / "events.ndjson.backfill").write_text("{}")
    code, _, noted = shell("usage", "backfill", file, "--resume", *APP)
    assert (code, "delete it to begin anew" in noted, house.calls()) == (2, True, 3)


# -- export ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["usage.ndjson", "usage.csv"])
def test_an_export_is_a_file_that_a_backfill_reads(
    house: House, shell: Shell, tmp_path: Path, migrated_sqlite: Path, name: str
) -> None:
    out, fresh = tmp_path / name, tmp_path / "fresh.db"
    code, said, noted = shell("usage", "export", "--out", out, *APP)
    assert (code, said, noted) == (0, "", "facts: 5\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    code, said, _ = shell("usage", "backfill", out, *APP)
    assert (code, "recorded: 0, duplicates: 5" in said) == (0, True)
    fresh.write_bytes(migrated_sqlite.read_bytes())
    house.stores = {"counters": f"local://{tmp_path}/c", "ledger": f"sqlite:///{fresh}"}
    house.do(lambda metering: metering.put_tenant("acme", plan="pro", timezone="America/New_York"))
    code, said, _ = shell("usage", "backfill", out, *APP)
    assert (code, "recorded: 5, duplicates: 0" in said, house.calls()) == (0, True, 3)
    code, said, _ = shell("usage", "export", "--tenant", "acme", "--from", "2024-01-15", "--to", "2024-01-15", *APP)
    assert (code, len(said.splitlines())) == (0, 5)
    assert shell("usage", "export", "--tenant", "nobody", *APP)[0] == 1
