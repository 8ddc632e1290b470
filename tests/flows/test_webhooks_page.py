"""docs/webhooks.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from mm_metering.core.deliveries import SCHEDULE
from mm_metering.core.event_types import EVENT_TYPES

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()


def test_each_event_type_has_its_row() -> None:
    rows = [
        f"| `{each.name}` | {each.version} | {each.doc} | {', '.join(f'`{name}`' for name in each.fields)} |"
        for each in EVENT_TYPES.values()
    ]
    assert "\n".join(rows) in PAGE


def test_the_schedule_is_the_table_s() -> None:
    units = {"s": 1, "min": 60, "h": 3600}
    row = next(line for line in PAGE.splitlines() if line.startswith("| after the one before"))
    cells = [cell.split() for cell in row.split("|")[2:-1]]
    assert [int(cell[0]) * units[cell[-1]] if len(cell) > 1 else 0 for cell in cells] == [
        int(each.total_seconds()) for each in SCHEDULE
    ]
