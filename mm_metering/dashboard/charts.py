"""A chart as a value: what is drawn, and the same as a table for whoever does not look at pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, TypeAlias

Number: TypeAlias = int | Decimal | None
"""None where there is none: a gap."""
Kind: TypeAlias = Literal["bars", "line", "stack", "limit", "likely", "low", "high"]
"""How a series is drawn. "limit": a dashed line that others should stay below; "likely", "low" and "high": a forecast
and the band around it; "stack": areas on top of each other."""


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    values: Sequence[Number]
    kind: Kind = "bars"


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened on a day: a change of plan."""

    day: date
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """``days``: one for each value of each series. ``unit``: "" for counts, else a currency."""

    title: str
    days: Sequence[date]
    series: Sequence[Series]
    unit: str = ""
    marks: Sequence[Mark] = ()
    note: str = ""

    @property
    def is_empty(self) -> bool:
        return not any(value for each in self.series if each.kind != "limit" for value in each.values)

    @property
    def json(self) -> str:
        """For drawing alone: a pixel is not exact."""
        return json.dumps(
            {
                "days": [each.isoformat() for each in self.days],
                "unit": self.unit,
                "series": [
                    {"name": each.name, "kind": each.kind, "values": [_drawn(value) for value in each.values]}
                    for each in self.series
                ],
                "marks": [[mark.day.isoformat(), mark.text] for mark in self.marks],
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )

    @property
    def header(self) -> list[str]:
        return ["day", *(each.name for each in self.series)]

    @property
    def rows(self) -> list[list[date | Number]]:
        return [[day, *(each.values[number] for each in self.series)] for number, day in enumerate(self.days)]


def _drawn(value: Number) -> float | int | None:
    return float(value) if isinstance(value, Decimal) else value


def spark(values: Sequence[Number], *, width: int = 120, height: int = 28) -> str:
    """The points of a line through the values, for an SVG of that size; "" for fewer than two."""
    known = [float(value or 0) for value in values]
    if len(known) < 2:
        return ""
    top = max(*known, 0.0) or 1.0
    step = width / (len(known) - 1)
    return " ".join(f"{at * step:.1f},{height - 2 - value / top * (height - 4):.1f}" for at, value in enumerate(known))
