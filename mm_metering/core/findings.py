"""What a check-up says, one line each, and who can be asked."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, Protocol, runtime_checkable

MAX_OFFSET_S: Final = 1.0
"""How far a server's clock may be from the host's."""


class Finding(NamedTuple):
    """One line of a check-up."""

    level: Literal["ok", "warn", "FAIL"]
    text: str


def clock_finding(where: str, offset_s: float) -> Finding:
    """``offset_s``: how far its clock is ahead of the host's."""
    if abs(offset_s) > MAX_OFFSET_S:
        way = "keep both on one time server"
        return Finding("warn", f"the clock of {where} is {offset_s:+.1f} s from this host's: {way}")
    return Finding("ok", f"the clock of {where} is {offset_s:+.1f} s from this host's")


@runtime_checkable
class Examined(Protocol):
    """A store that can say how its servers are set up."""

    async def examine(self, *, now_us: int) -> list[Finding]:
        """What a server does not let be asked is a warning, never an error. ``now_us`` is the host's time."""
        ...
