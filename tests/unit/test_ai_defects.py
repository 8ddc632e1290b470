"""A defect of a model is said once an hour, with how many there were; nobody's names make the memory of it grow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mm_metering.ai.defects import MAX_KEPT, Defects

NOON = datetime(2024, 1, 15, 12, tzinfo=UTC)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What each line is about, and how many."""
    lines = [each.getMessage().removeprefix("AI calls of ") for each in caplog.records]
    caplog.clear()
    return [" ".join(line.split()[:3]).rstrip(":") for line in lines]


def test_each_model_and_each_defect_is_said_at_once_and_then_with_its_number(caplog: pytest.LogCaptureFixture) -> None:
    defects = Defects()
    for minute in range(61):
        now = NOON + timedelta(minutes=minute)
        defects.add("no usage", "gpt-4", now)
        if minute % 30 == 0:
            defects.add("unpriced", "gpt-4", now, "web_searches")
    assert said(caplog) == ["gpt-4: 1 have", "gpt-4: 1 have", "gpt-4: 60 have", "gpt-4: 2 have"]


def test_more_models_than_are_kept_are_counted_together_until_an_hour_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    defects = Defects()
    for number in range(MAX_KEPT + 50):
        defects.add("contradictory", f"m{number}", NOON)
    assert said(caplog)[MAX_KEPT:] == ["other models: 1"]
    defects.add("contradictory", "fresh", NOON + timedelta(hours=1))
    assert said(caplog) == ["fresh: 1 said"]
