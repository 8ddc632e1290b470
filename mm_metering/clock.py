"""Where time comes from: a clock is passed in, never read from the system by other modules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """``now()`` is an aware UTC datetime. It may step back; nothing may depend on it for exactness."""

    @property
    def frozen(self) -> bool:
        """True for a test clock: stored keys then get no TTL, since their server's time is another."""
        ...

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's clock."""

    frozen = False

    def now(self) -> datetime:
        return datetime.now(UTC)


class FrozenClock:
    """A clock for tests that stands still until told to move.

    ``FrozenClock("2024-01-01T00:00:00Z")``; ``set`` takes the same forms, ``advance`` a timedelta.
    """

    frozen = True

    def __init__(self, now: str | datetime) -> None:
        self._now = _aware(now)

    def now(self) -> datetime:
        return self._now

    def set(self, now: str | datetime) -> None:
        self._now = _aware(now)

    def advance(self, delta: timedelta) -> None:
        self._now += delta


def _aware(value: str | datetime) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if moment.tzinfo is None:
        raise ValueError(f"clock: {moment.isoformat()} has no time zone; add Z or an offset")
    return moment.astimezone(UTC)
