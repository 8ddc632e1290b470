"""In whose name code runs, and why: what the audit log says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

from mm_metering.clock import Clock
from mm_metering.core.audit import Act
from mm_metering.errors import InvalidInput

HOST: Final = "host"
"""Who acts where nobody was named."""
WORKER: Final = "worker"
MAX_ACTOR: Final = 128
MAX_REASON: Final = 500


class Acting(NamedTuple):
    actor: str = HOST
    reason: str = ""


_ACTING: ContextVar[Acting] = ContextVar("mm_metering_acting", default=Acting())  # noqa: B039 - it is frozen


@contextmanager
def acting(actor: str, *, reason: str = "") -> Iterator[None]:
    """What is done in the block is done by this actor. InvalidInput for texts that are too long or not printable."""
    given = Acting(_text(actor, "actor", MAX_ACTOR, least=1), _text(reason, "reason", MAX_REASON))
    token = _ACTING.set(given)
    try:
        yield
    finally:
        _ACTING.reset(token)


def act_now(clock: Clock, new_id: Callable[[], str], *, actor: str | None = None, reason: str = "") -> Act:
    """What is done now, by whoever acts here unless ``actor`` says who."""
    here = _ACTING.get()
    return Act(actor or here.actor, clock.now(), new_id, here.reason or reason)


def _text(value: object, field: str, most: int, *, least: int = 0) -> str:
    if not isinstance(value, str) or not value.isprintable() or not least <= len(value.strip()) <= most:
        raise InvalidInput(field, f"is not {least} to {most} printable characters, as the audit log shows them")
    return value.strip()
