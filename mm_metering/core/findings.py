"""What a check-up says, one line each, and who can be asked."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable


class Finding(NamedTuple):
    """One line of a check-up."""

    level: Literal["ok", "warn", "FAIL"]
    text: str


@runtime_checkable
class Examined(Protocol):
    """A store that can say how its servers are set up."""

    async def examine(self, *, now_us: int) -> list[Finding]:
        """What a server does not let be asked is a warning, never an error. ``now_us`` is the host's time."""
        ...
