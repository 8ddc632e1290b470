"""docs/billing.md says what the code does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from mm_metering import FrozenClock, Metering, UsageEvent
from mm_metering.core.lifecycles import INVOICE, Lifecycle

PAGE = (Path(__file__).parents[2] / "docs" / "billing.md").read_text()


def drawn(table: Lifecycle, first: str) -> Iterator[str]:
    """A state diagram of a lifecycle, as mermaid draws it."""
    yield "stateDiagram-v2"
    yield f"    [*] --> {first}"
    for state, moves in table.moves.items():
        yield from (f"    {state} --> {after}: {event}" for event, after in moves.items() if after != state)
    yield from (f"    {state} --> [*]" for state, moves in table.moves.items() if not moves)


def test_the_diagram_is_the_table() -> None:
    _, _, rest = PAGE.partition("```mermaid\n")
    assert rest.partition("\n```")[0].splitlines() == list(drawn(INVOICE, "draft"))


async def test_the_example_comes_out(memory: Metering, clock: FrozenClock) -> None:
    await memory.put_tenant("acme", plan="pro", subscribed_at="2024-01-01T00:00:00Z", tax_rate="0.19")
    await memory.put_discount("acme", percent="10", applies_to="base", name="launch")
    await memory.grant_credit("acme", "20.00")
    for day, calls in ((10, 12_345), (11, 9_999)):
        noon = datetime.fromisoformat(f"2024-01-{day}T12:00:00Z")
        event = UsageEvent(tenant="acme", event_type="api_call", resource="/x", quantity=calls, occurred_at=noon)
        await memory.record(event)
    clock.set("2024-02-02T00:00:00Z")
    (invoice,) = await memory.close_period("2024-01")
    said: list[tuple[str, str]] = [(line.kind, str(line.amount)) for line in invoice.lines]
    said += [("*subtotal*", f"*{invoice.subtotal}*"), ("**total**", f"**{invoice.total}**")]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in PAGE.splitlines() if row.startswith("| ")]
    assert {(kind, amount) for kind, _, amount in rows[1:]} == set(said)
