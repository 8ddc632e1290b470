"""Scenario files: read, run under a test clock through the real product, written."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mm_metering.core.scenario_file import read_scenario, to_toml
from mm_metering.errors import CatalogueError
from mm_metering.testing import run_scenario
from mm_metering.testing.scenario import ScenarioResult, load_scenario
from tests.flows.conftest import Shell

EXAMPLES = Path(__file__).parents[2] / "examples" / "scenarios"


def scenario(**tenant: Any) -> dict[str, Any]:
    return {"catalogue": "seed", "start": "2024-01-01", "months": 1, "tenants": {"acme": {"plan": "pro"} | tenant}}


async def total(**tenant: Any) -> str:
    return str((await run_scenario(scenario(**tenant))).total("2024-01", "acme"))


@pytest.mark.parametrize(
    ("tenant", "expected"),
    [
        ({"usage": {"api_calls": {"amount": 11_000, "on": ["2024-01-10"]}}}, "109.00"),  # S01
        ({"usage": {"api_calls": [8_000, {"amount": 4_345, "on": ["2024-01-10"]}]}}, "122.45"),  # S02
        ({"changes": [{"at": "2024-01-16T00:00:00Z", "plan": "enterprise"}]}, "305.45"),  # S10
        ({"changes": [{"at": "2024-01-16T12:00:00Z", "plan": "enterprise"}]}, "299.00"),
        ({"subscribed_at": "2024-01-20T00:00:00Z"}, "38.32"),
        ({"trial_days": 14}, "54.29"),
        ({"changes": [{"at": "2024-01-16T12:00:00Z", "do": "cancel"}]}, "49.50"),
        ({"usage": {"users": {"level": 99}}}, "99.00"),
        ({"count": 3}, "297.00"),
    ],
)
async def test_a_month_comes_to_what_it_would(tenant: dict[str, Any], expected: str) -> None:
    assert await total(**tenant) == expected


async def test_demand_that_does_not_fit_is_refused_and_not_billed() -> None:
    found = await run_scenario(
        scenario(plan="free", timezone="Asia/Tokyo", usage={"api_calls": {"amount": 250, "on": ["2024-01-31"]}})
    )
    assert [(each.refused, each.total) for each in found.months] == [({"api_calls": 150}, Decimal("0.00"))]


async def test_a_level_goes_up_to_its_limit_once_and_down_again() -> None:
    usage = {"users": [{"level": 12, "on": ["2024-01-05", "2024-01-06"]}, {"level": 3, "on": ["2024-01-10"]}]}
    found = await run_scenario(scenario(usage=usage))
    assert [each.refused for each in found.months] == [{"users": 2}]


async def test_the_same_file_gives_the_same_numbers_and_another_seed_others() -> None:
    use = {"mean": 11_000, "spread": "0.5", "weekend": "0.5", "growth": "-0.1"}
    tree = scenario(usage={"api_calls": use}, count=2) | {"months": 2}
    once, again = await run_scenario(tree), await run_scenario(tree)
    assert once == again
    assert await run_scenario(tree | {"seed": 2}) != once
    parsed, _ = load_scenario(tree)
    [group] = parsed.groups
    days = {at.date(): units for at, _, units in parsed.uses(group, "acme-1")}
    assert days != {at.date(): units for at, _, units in parsed.uses(group, "acme-2")}
    assert all(5_500 <= units <= 16_500 for day, units in days.items() if day < date(2024, 2, 1) and day.weekday() < 5)
    assert all(units <= 8_250 for day, units in days.items() if day.weekday() >= 5)
    assert [days[date(2024, 1, 1)], days[date(2024, 1, 2)]] == [9_926, 11_781]  # on every machine


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
async def test_the_examples_come_to_what_they_expect_and_are_written_as_they_are_read(file: Path) -> None:
    read, _ = load_scenario(file)
    again, _ = load_scenario_text(to_toml(read))
    assert again == read
    if file.stem == "upgrade":
        assert (await run_scenario(file)).unexpected == ()


def load_scenario_text(text: str) -> tuple[Any, str]:
    from mm_metering.core.catalogue_file import toml

    return read_scenario(*toml(text, "x.toml")), text


async def test_a_year_has_its_pause_its_trial_and_its_refusals() -> None:
    found = await run_scenario(EXAMPLES / "growth.toml")
    by = {(each.period[5:], each.group): each for each in found.months}
    assert [str(by[month, "seasonal"].total) for month in ("06", "07", "08", "09")] == ["99.00", "0", "0", "99.00"]
    assert [str(by[month, "newcomer"].fees) for month in ("04", "05", "06")] == ["0", "53.09", "99.00"]
    assert by["01", "free"].refused["api_calls"] > 0
    assert by["12", "team"].total > by["01", "team"].total


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": (
        {"tenants": {"acme": {"plan": "pro", "useage": {}}}},
        'unknown key "useage"; did you mean',
    ),
    "an unknown plan": (
        {"tenants": {"acme": {"plan": "prop"}}},
        'unknown plan "prop"; did you mean "pro"',
    ),
    "an unknown meter": (
        {"tenants": {"acme": {"plan": "pro", "usage": {"api_call": 5}}}},
        'unknown meter "api_call"; did you mean "api_calls"',
    ),
    "a level as units": ({"tenants": {"acme": {"plan": "pro", "usage": {"users": 5}}}}, "write { level = 5 }"),
    "units as a level": (
        {"tenants": {"acme": {"plan": "pro", "usage": {"api_calls": {"level": 5}}}}},
        "write units a day, such as 500",
    ),
    "no moments": ({"tenants": {"acme": {"plan": "pro", "usage": {"api_calls": {"amount": 5}}}}}, "amount needs on"),
    "a float": (
        {"tenants": {"acme": {"plan": "pro", "usage": {"api_calls": {"mean": 5, "spread": 0.3}}}}},
        "as a string such as",
    ),
    "two names for one tenant": (
        {"tenants": {"acme": {"plan": "pro", "count": 2}, "acme-1": {"plan": "pro"}}},
        "two of them make a tenant acme-1",
    ),
    "a change after the end": (
        {"tenants": {"acme": {"plan": "pro", "changes": [{"at": "2024-02-01T00:00:01Z", "do": "pause"}]}}},
        "2024-02-01T00:00:01Z is not from the sign-up, 2024-01-01T00:00:00Z, to the end of the last month",
    ),
    "use before the sign-up": (
        {"tenants": {"acme": {"plan": "pro", "usage": {"api_calls": {"amount": 5, "on": ["2023-12-31"]}}}}},
        "2023-12-31 is not from the sign-up",
    ),
    "more than anybody uses": ({"tenants": {"acme": {"plan": "pro", "usage": {"api_calls": 10**9 + 1}}}}, "in a day"),
    "two things at once": (
        {
            "tenants": {
                "acme": {"plan": "pro", "changes": [{"at": "2024-01-02T00:00:00Z", "plan": "free", "do": "pause"}]}
            }
        },
        "name one of plan, timezone, addon, or do",
    ),
    "a day in mid-month": ({"start": "2024-01-02"}, "is not the first day of a month"),
    "too many months": ({"months": 37}, "37 months are too many; at most 36"),
    "too many tenants": ({"tenants": {"acme": {"plan": "pro", "count": 10_001}}}, "more than 10,000 tenants"),
    "an expectation of nobody": ({"expect": {"2024-01": {"bob": "1.00"}}}, 'unknown tenant "bob"'),
    "an expectation of another month": (
        {"expect": {"2024-03": {"acme": "1.00"}}},
        "not one of the months",
    ),
    "no such zone": ({"timezone": "Mars"}, "is not an IANA time zone"),
    "no catalogue": ({"catalogue": "nowhere.toml"}, "no such file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_place(case: str) -> None:
    changes, says = WRONG[case]
    with pytest.raises(CatalogueError) as found:
        load_scenario(scenario() | changes)
    assert says in str(found.value)


def test_the_command_shows_a_table_bars_and_what_was_not_expected(tmp_path: Path, shell: Shell) -> None:
    file, table = tmp_path / "s.toml", tmp_path / "out.csv"
    text = (EXAMPLES / "upgrade.toml").read_text()
    file.write_text(text)
    code, said, _ = shell("simulate", file, "--csv", table)
    assert (code, "2024-02" in said, "█" in said) == (0, True, True)
    assert table.read_text().splitlines()[1].startswith("2024-01,acme,1,299.00,api_calls 20.00,0.00,319.00")
    _, said, _ = shell("simulate", file, "--json")
    assert ScenarioResult.model_validate(json.loads(said)).total("2024-01", "acme") == 319
    file.write_text(text.replace('"319.00"', '"318.00"'))
    code, said, _ = shell("simulate", file)
    assert (code, "not as expected: acme in 2024-01: 319.00, not 318.00" in said) == (1, True)
    file.write_text(text.replace('plan = "pro"', 'plan = "prop"'))
    code, _, said = shell("simulate", file)
    assert (code, said.count("\n"), f"{file}:6" in said) == (2, 1, True), said


def test_the_command_takes_a_scenario_or_months_of_real_usage(shell: Shell) -> None:
    assert shell("simulate")[::2] == (
        2,
        "mm-metering: --catalogue: is missing; name --catalogue, --from and --to, or a scenario file\n",
    )
    code, _, said = shell("simulate", "x.toml", "--from", "2024-01")
    assert (code, "--from: compares real usage" in said) == (2, True)
