"""``mm-metering invoice``, as somebody types it: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import pytest

from mm_metering import FrozenClock, Metering, UsageEvent
from mm_metering.cli import main
from mm_metering.core.invoices import Invoice
from tests.flows.conftest import PATIENT
from tests.redis_server import RedisServer

T = TypeVar("T")


class House:
    """An app whose Metering commands find as ``house:metering``: a new one each time, as in a process of its own."""

    def __init__(self, clock: FrozenClock, counters: str, ledger: str) -> None:
        self.clock = clock
        self.stores = {"counters": counters, "ledger": ledger}

    @property
    def metering(self) -> Metering:
        return Metering(**self.stores, clock=self.clock, timing=PATIENT)  # type: ignore[arg-type]

    def do(self, work: Callable[[Metering], Awaitable[T]]) -> T:
        async def done() -> T:
            async with self.metering as metering:
                return await work(metering)

        return asyncio.run(done())

    def used(self, tenant: str, *usage: tuple[str, int], zone: str = "UTC") -> None:
        async def use(metering: Metering) -> None:
            await metering.put_tenant(tenant, plan="pro", subscribed_at="2023-10-01T00:00:00Z", timezone=zone)
            for when, quantity in usage:
                await metering.record(
                    UsageEvent(
                        tenant=tenant,
                        event_type="api_call",
                        resource="/v1/[red]x",
                        quantity=quantity,
                        occurred_at=datetime.fromisoformat(when),
                        id=f"{when}/{quantity}",
                    )
                )

        self.do(use)

    def invoices(self) -> list[Invoice]:
        return self.do(lambda metering: metering.list_invoices())


@pytest.fixture
def house(clock: FrozenClock, redis_server: RedisServer, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> House:
    clock.set("2024-01-31T23:00:00Z")
    house = House(clock, redis_server.url, sqlite_url)
    monkeypatch.setitem(sys.modules, "house", house)
    monkeypatch.setenv("MM_METERING_APP", "house:metering")
    return house


class Shell:
    """Runs the command line: its exit code, and what it said. No error is a traceback."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str]:
        self._monkeypatch.setattr(sys, "argv", ["mm-metering", "invoice", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out + said.err

    def refused(self, *arguments: str) -> str:
        """The one line of an error."""
        code, said = self(*arguments)
        assert code in (1, 2), said
        assert said.startswith("mm-metering: ")
        assert said.count("\n") == 1
        return said


@pytest.fixture
def invoice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def test_a_month_from_its_preview_to_its_credit_note(house: House, invoice: Shell) -> None:
    house.used("acme", ("2024-01-10T12:00:00Z", 12_345), ("2024-01-11T12:00:00Z", 3))
    code, said = invoice("preview", "acme")
    assert code == 0
    assert "acme  2024-01  draft" in said
    assert "2,345 api_calls past the allowance" in said
    assert said.split()[-2:] == ["total", "122.45"]
    assert "2024-01 ends at 2024-02-01T00:00:00Z for 'acme'" in invoice.refused("run", "2024-01")

    house.clock.set("2024-02-01T12:00:00Z")
    code, said = invoice("run", "2024-01")
    assert code == 0
    assert "drafts, until the grace is over: 1" in said
    assert "finalized: 0" in said
    house.clock.set("2024-02-02T00:00:00Z")
    code, said = invoice("run", "2024-01")
    assert (code, "finalized: 1, with 122.45 USD" in said) == (0, True)
    assert invoice("run", "2024-01", "--tenant", "acme") == (0, said)

    (closed,) = house.invoices()
    code, said = invoice("show", closed.id)
    assert (code, f"INV-000001  {closed.id}" in said) == (0, True)
    assert all(line.id in said for line in closed.lines)
    assert said.split()[-4:] == ["total", "122.45", "due", "122.45"]

    code, said = invoice("credit", closed.id, "--amount", "22.45", "--reason", "an outage")
    assert (code, said) == (0, "CN-000001  22.45 USD: no longer due\n")
    assert invoice("show", closed.id)[1].split()[-2:] == ["due", "100.00"]
    assert "it stays" in invoice.refused("void", closed.id)


def test_json_is_the_whole_value(house: House, invoice: Shell) -> None:
    house.used("acme", ("2024-01-10T12:00:00Z", 12_345))
    previewed = Invoice.model_validate_json(invoice("preview", "acme", "--period", "2024-01", "--json")[1])
    house.clock.set("2024-02-03T00:00:00Z")
    invoice("run", "2024-01")
    (closed,) = house.invoices()
    said = invoice("show", closed.id, "--json")[1]
    assert Invoice.model_validate_json(said) == closed
    assert json.loads(said)["total"] == "122.45"
    assert previewed.lines == closed.lines


def test_a_line_is_explained_down_to_its_facts(house: House, invoice: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mm_metering.cli.invoices.PAGE", 2)
    each = [(f"2024-01-10T12:00:0{second}Z", 2_345) for second in range(5)]
    house.used("acme", *each, ("2024-01-11T12:00:00Z", 5))
    house.clock.set("2024-02-03T00:00:00Z")
    invoice("run", "2024-01")
    (closed,) = house.invoices()
    base, overage = closed.lines
    code, said = invoice("explain", overage.id)
    assert code == 0
    assert "1,725 x 0.01 = 17.25 USD" in said
    (row,) = [line.split() for line in said.splitlines() if "pro@1" in line]
    assert row[:2] == ["2024-01-10T00:00:00Z", "2024-01-11T00:00:00Z"]
    assert row[2:] == ["11,725", "0", "10,000", "1,725", "0", "5", "pro@1"]
    assert "/v1/[red]x" not in said
    facts = invoice("explain", overage.id, "--facts")[1].removeprefix(said).splitlines()
    assert [line.split()[:4] for line in facts] == [[when, "2,345", "api_call", "/v1/[red]x"] for when, _ in each]
    assert "2,678,400 of 2,678,400 seconds of the month, of 99.00 for pro@1" in invoice("explain", base.id)[1]


def test_the_list_is_narrowed_by_month_tenant_and_status(house: House, invoice: Shell) -> None:
    for tenant in ("acme", "[bold]b"):
        house.used(tenant)
    house.clock.set("2024-02-03T00:00:00Z")
    invoice("run", "2023-12")
    invoice("run", "2024-01")
    assert invoice("list")[1].endswith("invoices: 4\n")
    assert invoice("list", "--limit", "3")[1].endswith("invoices: 3\n")
    assert "2023-12" not in invoice("list", "--period", "2024-01")[1]
    said = invoice("list", "--tenant", "[bold]b")[1]
    assert said.endswith("invoices: 2\n")
    assert "[bold]b" in said
    assert invoice("list", "--status", "draft")[1].endswith("invoices: 0\n")
    assert "'sent' is not one of 'draft', 'finalized'" in invoice("list", "--status", "sent")[1]


def test_what_is_held_is_told_and_finalized_by_hand(house: House, invoice: Shell) -> None:
    house.used("acme", ("2024-01-10T12:00:00Z", 1_000_000))
    house.clock.set("2024-02-03T00:00:00Z")
    assert invoice("run", "2023-12")[0] == 0
    code, said = invoice("run", "2024-01")
    assert code == 1
    assert "held for a review: 1" in said
    assert "9999.00 is more than 20 times the usual 99.00" in said
    (draft,) = [each for each in house.invoices() if each.held]
    assert "held: its total" in invoice("show", draft.id)[1]
    assert "draft, held" in invoice("list")[1]
    assert invoice("finalize", draft.id) == (0, f"{draft.id}  INV-000002  finalized  9999.00 USD\n")
    assert "is finalized: finalize is not possible" in invoice.refused("finalize", draft.id)
    assert invoice("run", "2024-01")[0] == 0


def test_a_voided_month_is_issued_again(house: House, invoice: Shell) -> None:
    house.used("acme")
    house.clock.set("2024-02-03T00:00:00Z")
    invoice("run", "2024-01")
    (first,) = house.invoices()
    assert invoice("void", first.id) == (0, f"{first.id}  INV-000001  void  99.00 USD\n")
    assert "void: void is not possible; that is final" in invoice.refused("void", first.id)
    assert "finalized: 1, with 99.00 USD" in invoice("run", "2024-01")[1]
    assert "INV-000002" in invoice("list", "--status", "finalized")[1]
    second = house.invoices()[1]
    assert "finalized, issue 2" in invoice("show", second.id)[1]


def test_months_that_are_not_over_everywhere_are_named(house: House, invoice: Shell) -> None:
    house.used("acme")
    house.used("hawaii", zone="Pacific/Honolulu")
    house.clock.set("2024-02-01T05:00:00Z")
    code, said = invoice("run", "2024-01")
    assert code == 0
    assert "invoices: 1" in said
    assert "month not over yet: 1: hawaii; run it again" in said


def test_every_error_is_one_line_that_says_what_is_wrong(house: House, invoice: Shell) -> None:
    house.used("acme")
    house.clock.set("2024-02-03T00:00:00Z")
    invoice("run", "2024-01")
    (closed,) = house.invoices()
    assert "there is no invoice 'inv_0'" in invoice.refused("show", "inv_0")
    assert "no invoice that was closed has a line 'line_0'" in invoice.refused("explain", "line_0")
    assert "tenant 'nobody' is not known" in invoice.refused("preview", "nobody")
    assert "tenant 'nobody' is not known" in invoice.refused("run", "2024-01", "--tenant", "nobody")
    assert "'2024-13' is not a calendar month" in invoice.refused("run", "2024-13")
    assert "'2024-1' is not a calendar month" in invoice.refused("preview", "acme", "--period", "2024-1")
    assert "2024-02 ends at 2024-03-01T00:00:00Z" in invoice.refused("run", "2024-02")
    assert "'1e3' is not a plain decimal" in invoice.refused("credit", closed.id, "--amount", "1e3", "--reason", "x")
    assert "100.00 is not above 0 and up to 99.00" in invoice.refused(
        "credit", closed.id, "--amount", "100", "--reason", "x"
    )
    assert "1 to 500 printable characters" in invoice.refused("credit", closed.id, "--reason", "a\x1b[2J")
    assert "has no line line_0" in invoice.refused("credit", closed.id, "--line", "line_0", "--reason", "x")
    assert invoice("credit", closed.id)[0] == 2
    assert house.invoices() == [closed]


def test_without_the_apps_stores_or_plans_nothing_is_billed(
    house: House, invoice: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.used("acme")
    monkeypatch.delenv("MM_METERING_APP")
    assert "ledger: memory:// lives inside one process" in invoice.refused("list")
    monkeypatch.setenv("MM_METERING_LEDGER", house.stores["ledger"])
    assert "counters: memory:// lives inside one process" in invoice.refused("run", "2024-01")
    assert invoice("list")[0] == 0
    monkeypatch.setenv("MM_METERING_COUNTERS", house.stores["counters"])
    assert "finalized: 1" in invoice("run", "2023-11", "--tenant", "acme")[1]
    other = Path(house.stores["ledger"].removeprefix("sqlite:///")).with_name("plans.toml")
    other.write_text(
        'currency = "USD"\ndefault_plan = "pro"\n[meters]\na = { event = "a" }\n[plans.pro]\nprice = "1"\n'
    )
    monkeypatch.setenv("MM_METERING_CATALOGUE", str(other))
    monkeypatch.setenv("MM_METERING_APPLY", "always")
    assert "differs from the plans in this ledger" in invoice.refused("run", "2023-11")
