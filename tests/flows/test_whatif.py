"""What another catalogue would have brought, from real stores and from the command line."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
import tomllib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mm_metering import FrozenClock, Metering, QuotaExceeded, UsageEvent, catalogues
from mm_metering.cli import main
from mm_metering.cli.simulate import bars
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.cells import CellKey
from mm_metering.core.simulation import MonthChange, Simulation
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.errors import InvalidInput
from tests.flows.conftest import PATIENT, Make

T = TypeVar("T")

PAGE = (Path(__file__).parents[2] / "docs" / "whatif.md").read_text()
NEW = """
currency = "USD"
[meters]
api_calls = { event = "api_call" }
ai_requests = { event = "ai_call" }
ai_tokens = { event = "ai_token" }
webhook_deliveries = { event = "webhook_delivery" }
reports = { event = "export", resource = "report_*" }
users = { aggregation = "level" }
scenarios = { aggregation = "level" }
pages = { event = "page" }
[plans.free]
price = "0.00"
[plans.free.quotas]
api_calls = [{ limit = 100, per = "day", then = "charge", unit_price = "0.10" }, { limit = 400, per = "month" }]
[plans.pro]
price = "79.00"
[plans.pro.quotas]
api_calls = { limit = 5_000, per = "day", then = "charge", unit_price = "0.02" }
"""


def new() -> Catalogue:
    return Catalogue.from_dict(tomllib.loads(NEW))


async def used(metering: Metering, tenant: str, *usage: tuple[str, int]) -> None:
    for when, quantity in usage:
        await metering.record(
            UsageEvent(
                tenant=tenant,
                event_type="api_call",
                resource="/x",
                quantity=quantity,
                occurred_at=datetime.fromisoformat(when),
                id=f"{when}/{quantity}",
            )
        )


async def refused(metering: Metering, tenant: str, meter: str, quantity: int) -> None:
    with pytest.raises(QuotaExceeded):
        await metering.enforce_quota(tenant, meter, quantity)


async def fill(metering: Metering, clock: FrozenClock) -> None:
    """acme on Pro, with 12,345 calls on 10 January and 3 in February; two on Free, one of which was refused 450 calls
    in January; one with a version of its own; one that signed up in March."""
    await metering.put_tenant("acme", plan="pro", subscribed_at="2023-12-01T00:00:00Z")
    for free in ("f1", "f2", "own"):
        await metering.put_tenant(free, plan="free", subscribed_at="2023-12-01T00:00:00Z")
    await metering.override_plan("own", {"price": "3.00"}, at="2023-12-15T00:00:00Z")
    await used(metering, "acme", ("2024-01-10T12:00:00Z", 12_345))
    for day, units in (("2024-01-16", 50), ("2024-01-17", 400)):
        clock.set(f"{day}T12:00:00Z")
        await metering.enforce_quota("f1", "api_calls", 100)
        await refused(metering, "f1", "api_calls", units)
    clock.set("2024-03-05T12:00:00Z")
    await used(metering, "acme", ("2024-02-10T12:00:00Z", 3))
    await metering.put_tenant("late", plan="pro", subscribed_at="2024-03-01T00:00:00Z")
    await metering.flush()


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock("2024-01-15T12:00:00Z")


async def everything(metering: Metering) -> list[Any]:
    """All that the ledger has of these tenants."""
    rows = await metering.ledger.tenants()
    days = {"first": date(2023, 12, 1), "last": date(2024, 4, 1)}
    cells = [await metering.ledger.cells(row.id, **days) for row in rows]
    return [rows, cells, await metering.ledger.plan_versions(), await metering.list_invoices()]


async def test_history_is_rated_under_both_with_refused_demand(metering: Metering, clock: FrozenClock) -> None:
    """
    acme  January   99.00 + 2,345 x 0.01 = 122.45     79.00 + 7,345 x 0.02 = 225.90
          February  99.00                             79.00
    f1    January   0.00                              0.00; with 50 and 150 of the refused calls x 0.10, 20.00
    own             3.00 each                         3.00 each
    """
    await fill(metering, clock)
    before = await everything(metering)
    done: list[int] = []
    found = await metering.simulate(new(), start="2024-01", end="2024-02", progress=done.append)
    assert await everything(metering) == before
    assert done == [1, 2, 3, 4, 5]

    shown = [
        (each.tenant, *map(str, (each.before, each.after, each.with_refused)), each.refused) for each in found.tenants
    ]
    assert shown == [
        ("acme", "221.45", "304.90", "304.90", {}),
        ("f1", "0.00", "0.00", "20.00", {"api_calls": 450}),
        ("f2", "0.00", "0.00", "0.00", {}),
        ("own", "6.00", "6.00", "6.00", {}),
    ]
    by_month = [(each.period, *map(str, (each.before, each.after, each.with_refused))) for each in found.months]
    assert by_month == [("2024-01", "125.45", "228.90", "248.90"), ("2024-02", "102.00", "82.00", "82.00")]
    assert str(found.total.difference) == "83.45"
    assert str(found.total.difference_with_refused) == "103.45"
    assert (found.more, found.less, found.same, found.left_out, found.own_plans) == (1, 0, 3, 1, 1)
    assert [each.tenant for each in found.rises] == ["acme"]
    assert found.refused == {"api_calls": 450}
    assert found.new_meters == ("pages",)
    assert (found.missing_plans, found.running, found.currency) == ({}, 0, "USD")
    assert found.as_of == clock.now()


async def test_before_is_what_the_preview_says(memory: Metering, clock: FrozenClock) -> None:
    """To the cent, with a discount, a proration, a zone of its own and a level that charges."""
    seats = catalogues.seed.to_dict()
    seats["plans"]["pro"]["quotas"]["users"] = {"limit": 2, "then": "charge", "unit_price": "7.77"}
    async with Metering(seats, clock=clock, worker="inline", timing=PATIENT) as metering:
        await metering.put_tenant("acme", plan="pro", subscribed_at="2023-12-11T10:20:30Z", timezone="Asia/Kathmandu")
        await metering.put_discount("acme", percent="12.5", applies_to="all", name="d")
        await metering.set_level("acme", "users", 5, occurred_at=datetime.fromisoformat("2024-01-03T04:05:06Z"))
        await used(metering, "acme", ("2023-12-31T20:00:00Z", 11_000), ("2024-01-12T12:00:00Z", 14_321))
        await metering.change_plan("acme", "enterprise", at="2024-01-14T13:00:00Z")
        clock.set("2024-02-20T12:00:00Z")
        await metering.change_plan("acme", "pro")
        found = await metering.simulate(catalogues.seed, start="2023-12", end="2024-02")
        (acme,) = found.tenants
        assert acme.plans == ("pro", "enterprise")
        previews = [await metering.preview_invoice("acme", period=each.period) for each in found.months]
        assert [each.before for each in found.months] == [each.subtotal for each in previews]
        assert len({each.subtotal for each in previews}) == 3
        assert acme.before == sum(each.subtotal for each in previews)
        assert acme.after < acme.before  # the seed's seats are not charged
        assert found.running == 1


async def test_seats_that_only_the_new_plan_charges_stood_since_before(metering: Metering) -> None:
    """5 seats since December, of which 2 are free: 79.00 + 3 x 7.77."""
    await metering.put_tenant("acme", plan="pro", subscribed_at="2023-12-01T00:00:00Z")
    await metering.set_level("acme", "users", 5, occurred_at=datetime.fromisoformat("2023-12-20T00:00:00Z"))
    tree = tomllib.loads(NEW)
    tree["plans"]["pro"]["quotas"]["users"] = {"limit": 2, "then": "charge", "unit_price": "7.77"}
    found = await metering.simulate(tree, start="2024-01", end="2024-01")
    assert (str(found.total.before), str(found.total.after)) == ("99.00", "102.31")


async def test_what_other_months_and_hands_put_on_an_invoice_is_left_out(memory: Metering, clock: FrozenClock) -> None:
    await memory.put_tenant("acme", plan="pro", subscribed_at="2023-12-01T00:00:00Z", tax_rate="0.19")
    clock.set("2024-02-03T00:00:00Z")
    await memory.close_period("2024-01")
    await used(memory, "acme", ("2024-01-20T12:00:00Z", 10_100))
    await memory.adjust_invoice("acme", "-5.00", reason="goodwill")
    preview = await memory.preview_invoice("acme", period="2024-02")
    assert [line.kind for line in preview.lines] == ["base", "late_usage", "adjustment", "tax"]
    found = await memory.simulate(catalogues.seed, start="2024-01", end="2024-02")
    assert [str(each.before) for each in found.months] == ["100.00", "99.00"]
    assert found.same == 1


async def test_plans_that_are_gone_and_tenants_without_one_are_told(make: Make) -> None:
    tree = catalogues.seed.to_dict()
    del tree["default_plan"]
    metering = await make(catalogue=tree)
    await metering.put_tenant("acme", plan="enterprise", subscribed_at="2023-12-01T00:00:00Z")
    await metering.ledger.put_tenant(NewTenant("none"), defaults=TenantDefaults("", 0, "UTC"), now_us=0)
    found = await metering.simulate(new(), start="2024-01", end="2024-01")
    assert (found.missing_plans, found.left_out, found.running) == ({"enterprise": 1}, 1, 1)
    assert [(each.tenant, str(each.after)) for each in found.tenants] == [("acme", "499.00")]


async def test_what_cannot_be_compared_changes_nothing(memory: Metering, clock: FrozenClock) -> None:
    await fill(memory, clock)
    before, catalogue = await everything(memory), new()
    bare = replace(catalogue, meters={name: each for name, each in catalogue.meters.items() if name != "scenarios"})
    for asked, said in (
        ((bare, "2024-01", "2024-01"), "no meter 'scenarios', which pro@1 limits"),
        ((replace(catalogue, currency="EUR"), "2024-01", "2024-01"), "is in EUR"),
        ((catalogue, "2024-02", "2024-01"), "2024-01 is before 2024-02"),
    ):
        with pytest.raises(InvalidInput, match=said):
            await memory.simulate(asked[0], start=asked[1], end=asked[2])
    assert await everything(memory) == before


async def test_those_who_have_cells_and_are_no_tenants_are_counted(metering: Metering) -> None:
    await metering.put_tenant("acme", plan="pro", subscribed_at="2023-12-01T00:00:00Z")
    key = CellKey("stranger", date(2024, 1, 10), 0, "api_calls", "", "")
    await metering.ledger.report("p", acknowledged={}, refused={key: 5}, now_us=0)
    found = await metering.simulate(new(), start="2024-01", end="2024-01")
    assert (len(found.tenants), found.left_out, found.refused) == (1, 1, {})


async def test_more_tenants_than_a_page_has(memory: Metering) -> None:
    for number in range(205):
        await memory.put_tenant(f"t{number:03}", plan="pro", subscribed_at="2023-12-01T00:00:00Z")
    found = await memory.simulate(new(), start="2024-01", end="2024-01")
    assert (len(found.tenants), found.less, len(found.falls)) == (205, 205, 10)
    assert str(found.total.difference) == "-4100.00"


# -- the command line --------------------------------------------------------------------------------------------------


class House:
    """An app whose Metering commands find as ``house:metering``: an SQLite file, and counters in a private Valkey."""

    def __init__(self, clock: FrozenClock, directory: Path) -> None:
        self.clock = clock
        self.directory = directory
        self.file = directory / "new.toml"
        self.file.write_text(NEW)

    @property
    def metering(self) -> Metering:
        return Metering(
            counters=f"local://{self.directory}/counters",
            ledger=f"sqlite:///{self.directory}/ledger.db",
            clock=self.clock,
            timing=PATIENT,
        )

    def do(self, work: Callable[[Metering], Awaitable[T]]) -> T:
        async def done() -> T:
            async with self.metering as metering:
                return await work(metering)

        return asyncio.run(done())


@pytest.fixture
def house(clock: FrozenClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(clock, tmp_path)
    monkeypatch.setitem(sys.modules, "house", house)
    monkeypatch.setenv("MM_METERING_APP", "house:metering")
    house.do(lambda metering: fill(metering, clock))
    return house


class Shell:
    """Runs the command line: its exit code, and what it said. No error is a traceback."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._file = str(house.file)
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, start: str, end: str, *more: str, file: str = "") -> tuple[int, str, str]:
        asked = ["simulate", "--catalogue", file or self._file, "--from", start, "--to", end, *more]
        self._monkeypatch.setattr(sys, "argv", ["mm-metering", *asked])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return int(ended.value.code or 0), said.out, said.err

    def refused(self, start: str, end: str, *more: str, file: str = "") -> str:
        """The one line of an error: what was asked for is wrong."""
        code, _, said = self(start, end, *more, file=file)
        assert code == 2
        assert said.startswith("mm-metering: ")
        assert said.count("\n") == 1
        return said


@pytest.fixture
def simulate(house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(house, monkeypatch, capsys)


def rows(said: str, first: str) -> list[list[str]]:
    return [line.split() for line in said.splitlines() if line.split()[:1] == [first]]


def test_people_see_sums_bars_and_the_largest_changes(simulate: Shell) -> None:
    code, said, errors = simulate("2024-01", "2024-02")
    assert (code, errors) == (0, "")
    assert "tenants compared: 4" in said
    assert rows(said, "all") == [["all", "227.45", "310.90", "83.45", "330.90", "103.45"]]
    table, bar = rows(said, "2024-01")[-2:]
    assert table == ["2024-01", "125.45", "228.90", "103.45", "248.90", "123.45"]
    assert bar == ["2024-01", "before", "█" * 25, "125.45"]
    assert rows(said, "after")[0] == ["after", "█" * 46, "228.90"]
    assert rows(said, "with")[0] == ["with", "refused", "demand", "█" * 50, "248.90"]
    assert "pay more: 1, less: 0, the same: 3" in said
    assert rows(said, "acme") == [["acme", "pro", "221.45", "304.90", "83.45", "304.90", "83.45"]]
    assert rows(said, "f1") == [["f1", "free", "0.00", "0.00", "0.00", "20.00", "20.00", "api_calls", "450"]]
    assert "the largest falls" not in said
    assert "refused: api_calls 450; tries again count each time, so this is an upper bound" in said
    assert "tenants with a version of their own, which they keep: 1" in said
    assert "no such usage was counted so far: pages" in said
    assert "left out, unknown or without a plan in these months: 1" in said


def test_machines_get_json_and_tables(house: House, simulate: Shell) -> None:
    house.do(lambda metering: metering.put_tenant("=1+1", plan="pro", subscribed_at="2024-02-01T00:00:00Z"))
    file = house.directory / "out.csv"
    code, said, _ = simulate("2024-01", "2024-02", "--json", "--csv", str(file))
    assert code == 0
    found = Simulation.model_validate_json(said)
    assert json.loads(said)["total"] == {
        "before": "326.45",
        "after": "389.90",
        "with_refused": "409.90",
        "difference": "63.45",
        "difference_with_refused": "83.45",
    }
    assert found == house.do(lambda metering: metering.simulate(house.file, start="2024-01", end="2024-02"))
    table = [*csv.reader(file.read_text().splitlines())]
    assert table[:3] == [
        ["tenant", "plans", "before", "after", "difference", "with_refused", "difference_with_refused", "refused"],
        ["'=1+1", "pro", "99.00", "79.00", "-20.00", "79.00", "-20.00", ""],
        ["acme", "pro", "221.45", "304.90", "83.45", "304.90", "83.45", ""],
    ]
    assert table[3] == ["f1", "free", "0.00", "0.00", "0.00", "20.00", "20.00", "api_calls 450"]
    assert len(table) == 6


def test_every_error_is_one_line_and_changes_nothing(house: House, simulate: Shell) -> None:
    before = house.do(everything)
    assert "'2024-1' is not a calendar month" in simulate.refused("2024-1", "2024-02")
    assert "'January' is not a calendar month" in simulate.refused("2024-01", "January")
    assert "2024-01 is before 2024-02" in simulate.refused("2024-02", "2024-01")
    assert "are 37 months, and at most 36" in simulate.refused("2021-02", "2024-02")
    assert "2024-04 has not begun anywhere" in simulate.refused("2024-01", "2024-04")
    assert "no such file" in simulate.refused("2024-01", "2024-01", file="nothing.toml")
    assert "cannot be written" in simulate.refused("2024-01", "2024-01", "--json", "--csv", str(house.directory))
    other = house.directory / "other.toml"
    other.write_text(NEW.replace("USD", "EUR"))
    assert "is in EUR, and the usage was sold in USD" in simulate.refused("2024-01", "2024-01", file=str(other))
    other.write_text(NEW.replace("scenarios", "plays"))
    assert "no meter 'scenarios', which pro@1 limits" in simulate.refused("2024-01", "2024-01", file=str(other))
    other.write_text("currency = 1")
    assert "other.toml:1:" in simulate.refused("2024-01", "2024-01", file=str(other))
    assert house.do(everything) == before


def test_the_page_shows_what_is_printed(house: House, simulate: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(house.directory)
    said = simulate("2024-01", "2024-02", file="new.toml")[1]
    _, _, shown = PAGE.partition("--from 2024-01 --to 2024-02\n")
    assert words(shown.partition("\n```")[0]) == words(said)
    assert f"```toml{NEW}```" in PAGE


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def test_without_the_apps_stores_there_is_no_history(simulate: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MM_METERING_APP")
    assert "ledger: memory:// lives inside one process" in simulate.refused("2024-01", "2024-01")


def test_bars_are_as_long_as_the_amounts_are_large() -> None:
    amounts = {"before": Decimal("10.00"), "after": Decimal("20.00"), "with_refused": Decimal("-1.00")}
    assert [*bars([MonthChange(period="2024-01", **amounts)], "#")] == [
        f"2024-01  before               {'#' * 25}{' ' * 25}  10.00",
        f"         after                {'#' * 50}  20.00",
        f"         with refused demand  {' ' * 50}  -1.00",
    ]
    nothing = MonthChange(period="2024-01", before=Decimal(0), after=Decimal(0), with_refused=Decimal(0))
    assert all("#" not in line for line in bars([nothing], "#"))
