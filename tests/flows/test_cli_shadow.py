"""``mm-metering plans shadow``: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from mm_metering import FrozenClock, Metering, QuotaExceeded, UsageEvent
from mm_metering.clock import instead_of_system
from tests.flows.conftest import PATIENT, Shell

PAGE = (Path(__file__).parents[2] / "docs" / "shadow.md").read_text()


def block(number: int, language: str) -> str:
    return str(re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[number])


PLANS, NEXT = block(0, "toml"), block(1, "toml")


async def fill(metering: Metering, clock: FrozenClock) -> None:
    """The page's month: acme on Pro, and three on Free."""
    await metering.put_tenant("acme", plan="pro", subscribed_at="2023-12-01T00:00:00Z")
    for free in ("bob", "carol", "dora"):
        await metering.put_tenant(free, plan="free", subscribed_at="2023-12-01T00:00:00Z")
    for hour in range(9, 12):
        clock.set(f"2024-01-15T{hour:02}:00:00Z")
        await metering.record_many([UsageEvent(tenant="acme", event_type="api_call", resource="/x", quantity=3_000)])
    for tenant, calls in (("bob", 130), ("carol", 90), ("dora", 20)):
        for _ in range(calls):
            clock.advance(timedelta(seconds=1))
            try:
                await metering.enforce_quota(tenant, "api_calls")
            except QuotaExceeded:
                assert tenant == "bob"
    for _ in range(4):
        await metering.enforce_quota("carol", "reports")
    clock.set("2024-01-15T12:00:00Z")


class House:
    """The app's stores in a directory; each call is a process of its own."""

    def __init__(self, clock: FrozenClock, directory: Path) -> None:
        self.clock = clock
        self.ledger = f"sqlite:///{directory}/ledger.db"
        self.next = directory / "plans-next.toml"
        (directory / "plans.toml").write_text(PLANS)
        self.next.write_text(NEXT)

    @property
    def metering(self) -> Metering:
        return Metering("plans.toml", ledger=self.ledger, clock=self.clock, timing=PATIENT)


@pytest.fixture
def house(clock: FrozenClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(clock, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "main", house)
    monkeypatch.setenv("MM_METERING_APP", "main:metering")

    async def filled() -> None:
        async with house.metering as metering:
            await fill(metering, clock)

    asyncio.run(filled())
    return house


def test_the_page_shows_what_is_printed(house: House, shell: Shell) -> None:
    for number in range(PAGE.count("```console")):
        command, _, said = block(number, "console").partition("\n")
        words = command.removeprefix("$ mm-metering ").split()
        ended, printed, error = shell(*words)
        assert (ended, texts(printed), error) == (0, texts(said), "")


def texts(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines() if line.strip()]


def test_json_is_the_whole_value_and_one_tenant_has_all_its_limits(house: House, shell: Shell) -> None:
    code, said, _ = shell("plans", "shadow", house.next, "--json")
    found = json.loads(said)
    assert (code, found["compared"], found["blocked"], found["freed"]) == (0, 4, 2, 1)
    assert [each["tenant"] for each in found["tenants"]][:2] == ["carol", "acme"]
    code, said, _ = shell("plans", "shadow", house.next, "--json", "--tenant", "dora")
    (dora,) = json.loads(said)["tenants"]
    found = [(each["meter"], each["window"], each["limit_then"], each["used"]) for each in dora["limits"]]
    assert found == [("api_calls", "day", 120, 20), ("reports", "month", 2, 0)]
    assert dora["before"] == dora["after"] == "0.00"


def test_the_ledger_alone_is_enough(house: House, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MM_METERING_APP")
    monkeypatch.setenv("MM_METERING_LEDGER", house.ledger)
    with instead_of_system(house.clock):
        code, said, _ = shell("plans", "shadow", house.next, "--json")
    assert (code, json.loads(said)["refused_then"]) == (0, {"api_calls": 3_000, "reports": 2})


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ('currency = "USD"', 'currency = "EUR"', "is in EUR"),
        ("[plans.free]\n", "[plans.free]\nprize = 1\n", "plans-next.toml:"),
        ('reports = { event = "export" }\n', "", "reports"),
    ],
)
def test_a_wrong_file_is_one_line(house: House, shell: Shell, before: str, after: str, text: str) -> None:
    house.next.write_text(NEXT.replace(before, after))
    ended, said, error = shell("plans", "shadow", house.next)
    assert (ended, said, error.count("\n")) == (2, "", 1)
    assert text in error


def test_who_is_not_there_is_told(house: House, shell: Shell) -> None:
    assert shell("plans", "shadow", house.next, "--tenant", "nobody") == (
        1,
        "",
        "mm-metering: there is no tenant 'nobody'\n",
    )
    house.next.unlink()
    assert shell("plans", "shadow", "plans-next.toml")[0] == 2


def test_a_ledger_that_is_away_is_code_3(house: House, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MM_METERING_APP")
    monkeypatch.setenv("MM_METERING_LEDGER", "postgresql://127.0.0.1:1/none")
    assert shell("plans", "shadow", house.next)[0] == 3
