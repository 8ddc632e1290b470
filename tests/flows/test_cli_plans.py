"""``mm-metering plans``, as somebody types it: what it prints, what it stores, and its exit codes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mm_metering import FrozenClock, Metering, UsageEvent, catalogues
from mm_metering.cli import main
from mm_metering.core.periods import micros
from mm_metering.errors import NotApplied
from tests.flows.conftest import PATIENT

T = TypeVar("T")
PAGE = (Path(__file__).parents[2] / "docs" / "plans.md").read_text()
PLANS = """\
currency = "EUR"
default_plan = "free"
[meters]
api_calls = { event = "api_call" }
reports = { event = "export" }
users = { aggregation = "level" }
[plans.free]
price = "0.00"
quotas.api_calls = { limit = 100, per = "day" }
[plans.pro]
price = "99.00"
[plans.pro.quotas]
api_calls = { limit = 10_000, per = "day", then = "charge", unit_price = "0.01" }
users = { limit = 10 }
"""


class House:
    """A plans file, and a ledger in a file; each call is a process of its own."""

    def __init__(self, clock: FrozenClock, directory: Path) -> None:
        self.clock = clock
        self.file = directory / "plans.toml"
        self.ledger = f"sqlite:///{directory}/ledger.db"
        self.file.write_text(PLANS)

    @property
    def metering(self) -> Metering:
        return self.at(apply="always")

    def at(self, **options: str) -> Metering:
        return Metering(self.file, ledger=self.ledger, clock=self.clock, timing=PATIENT, **options)  # type: ignore[arg-type]

    def do(self, work: Callable[[Metering], Awaitable[T]]) -> T:
        async def done() -> T:
            async with self.metering as metering:
                return await work(metering)

        return asyncio.run(done())

    def write(self, *changes: tuple[str, str]) -> None:
        """The file with these texts instead of others."""
        text = self.file.read_text()
        for before, after in changes:
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        self.file.write_text(text)

    def tenants(self, *names: str, plan: str = "pro", calls: int = 0, reports: int = 0, users: int = 0) -> None:
        async def put(metering: Metering) -> None:
            for name in names:
                await metering.put_tenant(name, plan=plan, subscribed_at="2024-01-01T00:00:00Z")
                if calls:
                    await metering.record_many(_events(name, "api_call", calls))
                if reports:
                    await metering.record_many(_events(name, "export", reports))
                if users:
                    await metering.set_level(name, "users", users)

        self.do(put)


def _events(tenant: str, event_type: str, quantity: int) -> list[UsageEvent]:
    return [UsageEvent(tenant=tenant, event_type=event_type, resource="/x", quantity=quantity)]


@pytest.fixture
def house(clock: FrozenClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    house = House(clock, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "house", house)
    monkeypatch.setenv("MM_METERING_APP", "house:metering")
    return house


class Shell:
    """Runs the command line: its exit code, and what it said. No error is a traceback."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        self._monkeypatch.setattr(sys, "argv", ["mm-metering", "plans", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        assert int(ended.value.code or 0) == code, said
        return said.out + said.err

    def refused(self, *arguments: str) -> str:
        """The one line of an error."""
        said = self(*arguments, code=2)
        assert said.startswith("mm-metering: ")
        assert said.count("\n") == 1
        return said


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


# -- a file ------------------------------------------------------------------------------------------------------------


def test_a_first_file_is_right_and_never_written_over(
    plans: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert plans("init") == "wrote plans.toml: 2 plans, 3 meters; next: mm-metering plans validate plans.toml\n"
    assert plans("validate", "plans.toml") == "ok: 2 plans, 3 meters\n"
    Path("plans.toml").write_text("mine")
    assert plans.refused("init") == (
        "mm-metering: plans.toml: is there already, and stays as it is; name another file\n"
    )
    assert Path("plans.toml").read_text() == "mine"
    assert plans("init", "other.toml").startswith("wrote other.toml: 2 plans")
    assert "expected a Catalogue, a dict or the path of a .toml file" in plans.refused("init", "plans.yaml")
    assert "cannot be written" in plans.refused("init", "no/such/plans.toml")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other.toml", "plans.toml"]


def test_a_wrong_file_is_told_with_its_line(plans: Shell, house: House) -> None:
    assert plans("validate", "plans.toml") == "ok: 2 plans, 3 meters\n"
    house.write(("users = { limit = 10 }", "usrs = { limit = 10 }"))
    wrong = 'mm-metering: plans.toml:14: plans.pro.quotas: unknown meter "usrs"; did you mean "users"?\n'
    for command in ("validate", "diff", "apply"):
        assert plans.refused(command, "plans.toml") == wrong
    assert "`mm-metering plans init gone.toml` writes one" in plans.refused("validate", "gone.toml")
    house.file.write_text("[plans")
    assert "plans.toml:1: not valid TOML" in plans.refused("validate", "plans.toml")
    assert "FILE" in plans("validate", code=2)


def test_one_is_not_several(plans: Shell, house: House) -> None:
    house.file.write_text('[plans.free]\nprice = "0.00"\n[meters]\na = { event = "a" }\n')
    assert plans("validate", "plans.toml") == "ok: 1 plan, 1 meter\n"


# -- against a ledger --------------------------------------------------------------------------------------------------


def test_from_a_first_file_to_a_second_version(plans: Shell, house: House) -> None:
    house.do(lambda metering: metering.flush())
    assert plans("diff", "plans.toml") == "as stored: free, pro\n"
    assert plans("apply", "plans.toml") == "as stored: free, pro\nnothing to apply\n"
    house.tenants("acme", "bob", calls=9_000, users=3)
    house.tenants("carol", calls=8_000, users=9)
    house.write(('"99.00"', '"119.00"'), ("10_000", "8_000"), ("limit = 10 }", "limit = 5 }"))
    difference = """\
pro: price 99.00 -> 119.00; api_calls per day 10000 -> 8000; users 10 -> 5
  tenants on it                           3 (pro@1: 3)
  base prices a month, if all were moved  297.00 -> 357.00 EUR
  over a new limit today, if moved        3
    acme                                  api_calls per day: used 9000, limit 8000, then charged
    bob                                   api_calls per day: used 9000, limit 8000, then charged
    carol                                 users: used 9, limit 5, then refused
as stored: free
"""
    assert f"```text\n{difference}```" in PAGE
    assert plans("diff", "plans.toml") == difference
    dry = plans("apply", "plans.toml", "--dry-run")
    assert dry == f"{difference}dry run, nothing was stored; it would be: pro@2\n"
    assert plans("diff", "plans.toml") == difference
    assert plans("apply", "plans.toml") == f"{difference}stored: pro@2\n"
    assert plans("apply", "plans.toml") == "as stored: free, pro\nnothing to apply\n"

    async def move(metering: Metering) -> None:
        await metering.change_plan("bob", "pro")
        await metering.override_plan("carol", {"price": "79.00"})

    house.do(move)
    assert (
        plans("show")
        == """\
version               price  tenants
free@1                 0.00        0  newest
pro@1                 99.00        1
pro@2                119.00        1  newest
pro, with overrides                1
"""
    )
    house.write(('"119.00"', '"129.50"'))
    assert plans("diff", "plans.toml").splitlines()[:3] == [
        "pro: price 119.00 -> 129.50",
        "  tenants on it                           3 (with overrides: 1, pro@1: 1, pro@2: 1)",
        "  base prices a month, if all were moved  297.00 -> 388.50 EUR",
    ]


def test_tenants_keep_their_version_until_they_are_moved(plans: Shell, house: House) -> None:
    house.tenants("acme")
    house.write(('"99.00"', '"119.00"'))
    plans("apply", "plans.toml")

    async def fees(metering: Metering) -> list[str]:
        stays = await metering.preview_invoice("acme")
        await metering.change_plan("acme", "pro", at="2024-01-01T00:00:00Z")
        return [str(each.total) for each in (stays, await metering.preview_invoice("acme"))]

    assert house.do(fees) == ["99.00", "119.00"]


def test_all_tenants_of_a_plan_are_moved_as_the_page_says(plans: Shell, house: House) -> None:
    house.tenants("acme", "bob", "own", "soon")
    house.tenants("free", plan="free")
    house.write(('"99.00"', '"119.00"'))
    plans("apply", "plans.toml")
    _, _, code = PAGE.partition("```python\nasync def")
    said: dict[str, Any] = {"micros": micros}
    exec(f"async def{code.partition('```')[0]}", said)

    async def move(metering: Metering) -> tuple[list[int], list[str]]:
        await metering.override_plan("own", {"price": "79.00"})
        await metering.change_plan("soon", "free", at="2024-02-01T00:00:00Z")
        moved = [await said["move_all"](metering, "pro", "2024-02-01T00:00:00Z") for _ in range(2)]
        house.clock.set("2024-02-01T00:00:00Z")
        names = ("acme", "bob", "free", "own", "soon")
        return moved, [str((await metering.preview_invoice(each)).total) for each in names]

    assert house.do(move) == ([2, 0], ["119.00", "119.00", "0.00", "79.00", "0.00"])
    assert [line.split()[:3] for line in plans("show").splitlines()[2:4]] == [
        ["pro@1", "99.00", "0"],
        ["pro@2", "119.00", "2"],
    ]


def test_a_plan_that_is_new_or_gone(plans: Shell, house: House) -> None:
    house.tenants("acme", "bob")
    house.write(("[plans.pro]", "[plans.team]"), ("[plans.pro.quotas]", "[plans.team.quotas]"))
    assert (
        plans("diff", "plans.toml")
        == """\
team: new
pro: gone from the file
  tenants on it, and billed for it  2 (pro@1: 2)
as stored: free
"""
    )
    assert plans("apply", "plans.toml").splitlines()[-1] == "stored: team@1"
    assert plans("apply", "plans.toml").splitlines()[-1] == "nothing to apply"
    assert "pro@1    99.00        2  newest" in plans("show").splitlines()


def test_twenty_tenants_are_named_and_the_others_counted(
    plans: Shell, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mm_metering.billing.plan_review.PAGE", 10)
    monkeypatch.setattr("mm_metering.billing.plan_review.MAX_SNAPSHOTS", 4)
    house.tenants(*(f"t{number:02}" for number in range(23)), users=7)
    house.tenants("few", users=5)
    house.write(("limit = 10 }", "limit = 5 }"))
    said = plans("diff", "plans.toml").splitlines()
    assert said[1].partition("on it")[2].strip() == "24 (pro@1: 24)"
    assert said[3].split() == ["over", "a", "new", "limit", "today,", "if", "moved", "23"]
    assert [line.split()[0] for line in said[4:24]] == [f"t{number:02}" for number in range(20)]
    assert said[24].strip() == "and 3 more"
    assert said[25:] == ["as stored: free"]


def test_a_meter_that_is_in_use_is_not_dropped(plans: Shell, house: House) -> None:
    house.tenants("acme", "bob")
    house.tenants("carol", reports=2)
    house.write(("reports = {", "exports = {"), ("users = { aggregation", "seats = { aggregation"))
    house.write(("users = { limit = 10 }", "seats = { limit = 10 }"))
    why = (
        "the meter users is gone, but pro@1 has a limit of it and 3 tenants are on that",
        "the meter reports is gone, but 1 tenant has recorded usage of it",
    )
    said = plans("diff", "plans.toml")
    assert said.splitlines()[-2:] == [f"apply would refuse it: {each}" for each in why]
    for options in ([], ["--dry-run"]):
        assert plans.refused("apply", "plans.toml", *options) == (
            f"mm-metering: plans.toml: {'; '.join(why)}. Nothing was stored: keep these in [meters]\n"
        )
    assert "pro@2" not in plans("show")
    house.write(
        ("[plans.free]", '[meters.reports]\nevent = "report"\n[meters.users]\naggregation = "level"\n[plans.free]')
    )
    assert plans("apply", "plans.toml").splitlines()[-1] == "stored: pro@2"


def test_a_plans_limits_by_version(plans: Shell, house: House) -> None:
    house.tenants("acme")
    house.write(
        ('"99.00"', '"119"\nsupport = "email"'), ("api_calls = { limit = 10_000", "api_calls = { limit = 8_000")
    )
    house.write(
        ("users = { limit = 10 }", 'users = { limit = "unlimited" }\n[plans.pro.ai]\nmodel_allowlist = ["a", "b"]')
    )
    plans("apply", "plans.toml")
    assert (
        plans("show", "pro")
        == """\
pro@1: price 99.00, tenants: 1
  limit of           at most  past it
  api_calls per day    10000  0.01 each
  users                   10  refused
pro@2: price 119.00, support email, tenants: 0, newest
  limit of              at most  past it
  api_calls per day        8000  0.01 each
  users               unlimited  nothing
  ai model_allowlist       a, b
  ai on_unpriced          block
"""
    )
    assert plans.refused("show", "prp") == ('mm-metering: plan: unknown stored plan "prp"; did you mean "pro"?\n')


# -- which ledger ------------------------------------------------------------------------------------------------------


def test_a_ledger_of_the_environment_needs_no_app(plans: Shell, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MM_METERING_APP")
    assert "ledger: memory:// lives inside one process" in plans.refused("diff", "plans.toml")
    monkeypatch.setenv("MM_METERING_LEDGER", house.ledger)
    monkeypatch.setenv("MM_METERING_CATALOGUE", "gone.toml")
    monkeypatch.setenv("MM_METERING_COUNTERS", "redis://nowhere.invalid")
    for command in (["diff", "plans.toml"], ["apply", "plans.toml", "--dry-run"], ["show"]):
        assert "has no schema yet" in plans.refused(*command)
    assert plans("apply", "plans.toml") == "free: new\npro: new\nstored: free@1, pro@1\n"
    assert plans("diff", "plans.toml") == "as stored: free, pro\n"
    monkeypatch.setenv("MM_METERING_LEDGER", "mysql://x")
    assert "mysql:// is not known" in plans.refused("show")
    assert "'house' is not of the form" in plans.refused("show", "--app", "house")


def test_an_empty_ledger_is_told_how_to_get_plans(plans: Shell, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MM_METERING_APP")
    monkeypatch.setenv("MM_METERING_LEDGER", house.ledger)
    asyncio.run(Metering(ledger=house.ledger).migrate())
    assert plans("show") == "no plans are stored yet; `mm-metering plans apply FILE` stores those of a file\n"
    assert "unknown stored plan" in plans.refused("show", "pro")


def test_production_refuses_a_file_that_was_not_applied_and_names_the_way_out(plans: Shell, house: House) -> None:
    async def start() -> None:
        metering = house.at(apply="never")
        try:
            await metering.startup()
        finally:
            await metering.shutdown()
            await metering.aclose()

    house.do(lambda metering: metering.flush())
    asyncio.run(start())
    house.write(('"99.00"', '"119.00"'), ("limit = 10 }", "limit = 5 }"))
    with pytest.raises(NotApplied) as refused:
        asyncio.run(start())
    assert str(refused.value) == (
        "the plans differ from what the ledger has: pro: price 99.00 -> 119.00; users 10 -> 5. `mm-metering plans diff "
        "FILE` shows all of it, `mm-metering plans apply FILE` stores it"
    )
    plans("apply", "plans.toml")
    asyncio.run(start())
    more = "".join(f'[plans.p{number}]\nprice = "1.00"\n' for number in range(5))
    house.file.write_text(house.file.read_text() + more)
    with pytest.raises(NotApplied, match=r": p0: new \| p1: new \| p2: new \| and 2 more\. `mm-metering plans diff"):
        asyncio.run(start())
    house.file.write_text(PLANS.replace("[plans.free]\n", "[plans.basic]\n").replace('"free"', '"basic"'))
    with pytest.raises(NotApplied, match="basic: new"):
        asyncio.run(start())


def test_the_shipped_file_to_begin_with_says_how_each_command_is_called(tmp_path: Path) -> None:
    catalogues.write_starter(str(tmp_path / "plans.toml"))
    text = (tmp_path / "plans.toml").read_text()
    assert all(f"mm-metering plans {each} plans.toml" in text for each in ("validate", "diff", "apply"))


# -- minimums and add-ons ----------------------------------------------------------------------------------------------

ADDONS = """
[addons.calls]
price = "20.00"
plans = ["pro"]
quotas.api_calls = 5_000
[addons.seats]
price = "8.00"
quotas.users = 5
"""


def test_what_a_file_sells_beside_plans_and_who_has_it(plans: Shell, house: House) -> None:
    house.file.write_text(f"{PLANS}{ADDONS}")
    assert plans("validate", "plans.toml") == "ok: 2 plans, 3 meters, 2 add-ons\n"
    house.tenants("acme", "bob", calls=9_000)

    async def sell(metering: Metering) -> None:
        await metering.set_addon("acme", "calls", quantity=2)
        await metering.set_addon("bob", "calls", quantity=1)
        await metering.set_addon("bob", "seats", quantity=1)

    house.do(sell)
    held = """\
add-on calls: 2 tenants have 3, 20.00 each, +5000 api_calls per day or month
add-on seats: 1 tenant has 1, 8.00 each, +5 users
"""
    assert plans("show").endswith(held)
    assert plans("show", "pro").endswith(f"pro, with overrides: tenants: 2\n{held}")
    assert plans("diff", "plans.toml") == "as stored: free, pro\n"
    house.write(
        ('"99.00"\n', '"99.00"\nminimum = "500.00"\n'),
        ("10_000", "2_000"),
        ('"20.00"', '"25.00"'),
        ('[addons.seats]\nprice = "8.00"\nquotas.users = 5\n', ""),
    )
    difference = """\
pro: minimum none -> 500.00; api_calls per day 10000 -> 2000
  tenants on it                           2 (with overrides: 2)
  base prices a month, if all were moved  198.00 -> 198.00 EUR
  over a new limit today, if moved        1
    bob                                   api_calls per day: used 9000, limit 7000, then charged
as stored: free
add-on calls: 2 tenants have 3, 20.00 each, +5000 api_calls per day or month; \
in the file 25.00 each, +5000 api_calls per day or month
add-on seats: 1 tenant has 1, 8.00 each, +5 users; gone from the file: they keep it on their plan
"""
    assert plans("diff", "plans.toml") == difference
    assert f"```text\n{difference}```" in PAGE
    assert plans("apply", "plans.toml") == f"{difference}stored: pro@2\n"
    assert "pro@2: price 99.00, minimum 500.00, tenants: 0, newest\n" in plans("show", "pro")
