"""docs/subscriptions.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from mm_metering import FrozenClock, Metering, catalogues
from mm_metering.core.lifecycles import FREE_STATES, REFUSED_AS, SUBSCRIPTION
from tests.flows.conftest import Shell
from tests.flows.test_billing_page import drawn

PAGE = (Path(__file__).parents[2] / "docs" / "subscriptions.md").read_text()


def test_the_diagram_is_the_table() -> None:
    _, _, rest = PAGE.partition("```mermaid\n")
    assert rest.partition("\n```")[0].splitlines() == list(drawn(SUBSCRIPTION, "trial"))


def test_the_states_are_those_of_the_table() -> None:
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in PAGE.splitlines() if row.startswith("| `")]
    assert [state.strip("`") for state, *_ in rows] == list(SUBSCRIPTION.moves)
    for state, request, fee, _ in rows:
        reason = REFUSED_AS.get(state.strip("`"))
        assert (f"`{reason}`" in request) == (reason is not None)
        assert (fee == "none") == (state.strip("`") in FREE_STATES)


async def test_the_snippet_runs(memory: Metering, clock: FrozenClock) -> None:
    clock.set("2024-01-16T12:00:00Z")
    code = PAGE.partition("```python\n")[2].partition("```")[0]
    body = "\n".join(f"    {line}" for line in code.splitlines())
    names: dict[str, object] = {}
    exec(f"async def run(metering):\n{body}", names)
    await names["run"](memory)  # type: ignore[operator]
    tenant = await memory.get_tenant("acme")
    assert tenant is not None
    assert [each.status for each in tenant.planned] == ["active", "canceled"]


def test_the_attacks_come_out(tmp_path: Path, shell: Shell) -> None:
    plans = tmp_path / "plans.toml"
    plans.write_text((Path(catalogues.__file__).parent / "seed.toml").read_text() + '\n[changes]\ndowngrade = "now"\n')
    _, safe, _ = shell("plans", "attack", "seed")
    _, found, _ = shell("plans", "attack", plans)
    shown = PAGE.partition("$ mm-metering plans attack seed\n")[2].partition("```")[0].splitlines()
    lines = [line for line in shown if line != "..." and not line.startswith("$")]
    assert [line for line in lines if line not in (safe + found).splitlines()] == []
    _, late, _ = shell("plans", "attack", "seed", "--allow", "late")
    assert "late: pro -> enterprise -> pro, 2024-01-31 to 2024-02-01, saves 399.46 USD with 100,000 api_calls" in late
