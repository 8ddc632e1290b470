"""Money pumps: none in the shipped catalogues, each planted one is found, and does what it says in the real product."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mm_metering import catalogues
from mm_metering.core.catalogue import Catalogue
from mm_metering.core.pumps import MOVES, Burst, attack, trip_cost, words
from mm_metering.core.scenario_file import to_toml
from mm_metering.testing import run_scenario
from tests.flows.conftest import Shell

CALLS = {"limit": 1_000, "per": "day", "then": "charge", "unit_price": "0.01"}


def sound(**changes: str) -> dict[str, Any]:
    return {
        "meters": {"api_calls": {"event": "api_call"}, "reports": {"event": "report"}},
        "plans": {
            "basic": {"price": "31.00", "quotas": {"api_calls": CALLS}},
            "large": {
                "price": "93.00",
                "quotas": {
                    "api_calls": CALLS | {"limit": 20_000},
                    "reports": {"limit": 5, "per": "month", "then": "charge", "unit_price": "1.00"},
                },
            },
        },
        "changes": changes,
    }


def priced(price: dict[str, Any]) -> dict[str, Any]:
    tree = sound()
    limit = {"limit": 100, "per": "month", "then": "charge", "price": price}
    tree["plans"]["basic"]["quotas"]["reports"] = limit
    return tree


VOLUME = {"volume": [{"up_to": 100, "unit_price": "1.00"}, {"unit_price": "0.50"}]}
GRADUATED = {"graduated": [{"up_to": 100, "unit_price": "1.00"}, {"unit_price": "0.50"}]}

ADDONS = {"addons": {"calls": {"price": "31.00", "quotas": {"api_calls": 9_000}}}}

PLANTED: dict[str, tuple[dict[str, Any], list[str], str, str]] = {
    "a plan for an hour, with a day's allowance": (
        sound(downgrade="now"),
        [],
        "flip",
        "basic -> large -> basic, 2024-01-16, saves 61.92 USD with 20,000 api_calls: 31.08 instead of 93.00 on large",
    ),
    "a plan for some hours of a day, of which it has nothing": (
        sound(downgrade="now", proration="day"),
        [],
        "flip",
        "basic -> large -> basic, 2024-01-16, saves 62.00 USD with 20,000 api_calls: 31.00 instead of 93.00 on large",
    ),
    "an add-on for an hour, with a day's allowance": (
        sound(upgrade="now", downgrade="now") | ADDONS,
        [],
        "addon",
        "basic -> basic + calls -> basic, 2024-01-16, saves 61.96 USD with 10,000 api_calls: 31.04 instead of 93.00",
    ),
    "a cheaper tier for all units": (
        priced(VOLUME),
        [],
        "cliff",
        "basic: one unit more saves 49.50 USD with 201 reports: 81.50 instead of 131.00 on basic",
    ),
    "nights off": (
        sound(),
        ["pause"],
        "pause",
        "large -> pause -> resume, 2024-01-10 to 2024-01-20, saves 30.00 USD: 63.00 instead of 93.00 on large",
    ),
    "cancelled while away": (
        sound(),
        ["cancel"],
        "cancel",
        "large -> cancel -> large, 2024-01-10 to 2024-01-20, saves 30.00 USD: 63.00 instead of 93.00 on large",
    ),
    "the larger plan for a day that is over": (
        sound(),
        ["backdate"],
        "backdate",
        "basic -> large -> basic, backdated, 2024-01-16, saves 60.00 USD with 20,000 api_calls",
    ),
    "tomorrow's allowance today": (
        sound(),
        ["zone"],
        "zone",
        "basic -> Pacific/Kiritimati -> UTC, 2024-01-16, saves 10.00 USD with 1,000 api_calls, 1,000 api_calls",
    ),
    "the larger plan for the last hour": (
        sound(),
        ["late"],
        "late",
        "basic -> large -> basic, 2024-01-31 to 2024-02-01, saves 61.91 USD with 20,000 api_calls",
    ),
}


@pytest.mark.parametrize("name", catalogues.SHIPPED)
def test_the_shipped_catalogues_have_none(name: str) -> None:
    assert attack(catalogues.named(name)) == []


@pytest.mark.parametrize(
    "tree", [sound(), sound() | ADDONS, sound(proration="day"), sound(upgrade="period_end"), priced(GRADUATED)]
)
def test_sound_ones_have_none(tree: dict[str, Any]) -> None:
    assert attack(Catalogue.from_dict(tree)) == []


def test_an_upgrade_at_the_periods_end_is_not_bought_late() -> None:
    assert attack(Catalogue.from_dict(sound(upgrade="period_end")), ["late"]) == []


@pytest.mark.parametrize("case", PLANTED)
async def test_a_planted_one_is_found_and_the_product_bills_it_like_that(case: str) -> None:
    tree, allow, kind, says = PLANTED[case]
    found = attack(Catalogue.from_dict(tree), allow)
    assert any(words(pump, "USD").startswith(says) for pump in found if pump.kind == kind)
    for pump in found[:4]:
        assert pump.saves > 0
        trip = pump.scenario("") if not pump.steps else pump.scenario("seed")
        billed = await run_scenario({**_tree(to_toml(trip)), "catalogue": tree})
        assert billed.unexpected == (), words(pump, "USD")


def _tree(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


async def test_with_all_moves_the_shipped_one_has_some_and_each_bills_as_it_says() -> None:
    found = attack(catalogues.seed, MOVES)
    assert {pump.kind for pump in found} == set(MOVES)
    assert found == sorted(found, key=lambda pump: -pump.saves)
    for pump in found[::5]:
        assert (await run_scenario(pump.scenario("seed"))).unexpected == ()


def test_the_command_names_them_and_writes_scenarios(tmp_path: Path, shell: Shell) -> None:
    code, said, _ = shell("plans", "attack", "seed")
    assert (code, "money pumps: 0" in said, "not tried, since not allowed: late" in said) == (0, True, True)
    plans = tmp_path / "plans.toml"
    text = (Path(catalogues.__file__).parent / "seed.toml").read_text()
    plans.write_text(f'{text}\n[changes]\ndowngrade = "now"\n')
    code, said, _ = shell("plans", "attack", plans, "--save", tmp_path / "found")
    assert (code, "flip: pro -> enterprise -> pro, 2024-01-16, saves 399.46 USD" in said) == (1, True)
    written = sorted((tmp_path / "found").iterdir())
    assert f"wrote {len(written)} scenarios" in said
    assert shell("simulate", written[0])[0] == 0
    code, _, said = shell("plans", "attack", plans, "--allow", "teleport")
    assert (code, "is not one of late, cancel, pause, backdate, zone, all" in said) == (2, True)


def test_a_trip_costs_what_its_invoice_says_and_nothing_where_it_is_refused() -> None:
    [best, *_] = attack(Catalogue.from_dict(sound(downgrade="now")))
    assert (best.plan, best.instead, best.cost, best.saves) == ("basic", "large", Decimal("31.08"), Decimal("61.92"))
    burst = Burst(datetime(2024, 1, 16, 12, tzinfo=UTC), "api_calls", None, 100)
    assert trip_cost(catalogues.seed, "free", (), (burst,)) == 0
    assert trip_cost(catalogues.seed, "free", (), (burst, burst._replace(units=1))) is None
