"""Where time comes from: a clock is passed in, never read from the system by other modules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


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


_instead: ContextVar[Clock | None] = ContextVar("mm_metering.clock", default=None)


def default_clock() -> Clock:
    """The machine's, unless a block says otherwise."""
    return _instead.get() or SystemClock()


@contextmanager
def instead_of_system(clock: Clock) -> Iterator[None]:
    """What is built within the block and names no clock has this one."""
    token = _instead.set(clock)
    try:
        yield
    finally:
        _instead.reset(token)


def micros_of(clock: Clock) -> Callable[[], int]:
    """The clock's microseconds since 1970, for those who ask once per request."""
    if isinstance(clock, SystemClock):
        return _system_us
    return lambda: (clock.now() - _EPOCH) // _MICROSECOND


def _system_us() -> int:
    return time.time_ns() // 1000


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
