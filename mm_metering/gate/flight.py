"""One who waits for an op, and the batch that is in flight: what they are told, and what they still owe."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from mm_metering.backends.counters import Append, Level, Op, Post, Result, Take, Taken
from mm_metering.core.facts import decode, encode, void
from mm_metering.gate.journal_file import Item


class Fate(Enum):
    """What a waiter is told when its op did not run as asked."""

    AGAIN = "ask again under a new id"
    ALLOWED = "allowed without the counters; the facts are in the journal"
    UNAVAILABLE = "the counters do not answer, and the policy is to refuse"


Outcome: TypeAlias = Result | Fate


class Waiter:
    """An op and the caller that waits for it. ``told`` is what it was told before the answer came, if anything."""

    __slots__ = ("allow", "future", "op", "told")

    def __init__(self, op: Op, allow: bool, future: asyncio.Future[Outcome]) -> None:  # noqa: FBT001 - one per request
        self.op: Op = op
        self.allow: bool = allow
        self.future: asyncio.Future[Outcome] = future
        self.told: Fate | None = None

    @property
    def items(self) -> tuple[Item, ...]:
        """The facts this op appends."""
        match self.op:
            case Take(payloads=payloads):
                return ((self.op.tenant, payloads[0]),) if payloads else ()
            case Post() | Level():
                return ((self.op.tenant, self.op.payload),)
            case Append():
                return self.op.payloads
            case _:
                return ()

    @property
    def policy(self) -> Fate:
        """What it is told in an outage. Nobody is there to use what a cancelled take would get."""
        is_gone = self.future.cancelled() and isinstance(self.op, Take)
        return Fate.ALLOWED if self.allow and not is_gone else Fate.UNAVAILABLE

    @property
    def stands(self) -> bool:
        """Whether its facts hold where nobody knows if its op ran. Said yes, or it is no question. Said no: they do
        not."""
        return self.told is Fate.ALLOWED or (self.told is None and not isinstance(self.op, Take))

    @property
    def voids(self) -> list[Item]:
        """What takes its facts back."""
        return voids(self.items)

    @property
    def owed(self) -> Sequence[Item]:
        """What must be appended where nobody knows whether its op ran: its facts, or what takes them back."""
        return self.items if self.stands else self.voids

    def tell(self, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)


@dataclass(slots=True)
class Flight:
    """The batch in flight: replays alone, or waiters. ``lost`` counts calls whose fate is unknown; ``kept`` says that
    its replays are in the journal's file."""

    seq: int
    generation: int
    replay: tuple[Item, ...] = ()
    waiters: list[Waiter] = field(default_factory=list)
    lost: int = 0
    kept: bool = False

    @property
    def ops(self) -> tuple[Op, ...]:
        return (Append(self.replay),) if self.replay else tuple([waiter.op for waiter in self.waiters])


def granted(op: Op, result: Taken) -> Item | None:
    """The line of a take as it stands in the stream: a hold's begins with what was granted. None if it only looked."""
    if not isinstance(op, Take) or not op.payloads:
        return None
    payload = op.payloads[result.chosen]
    if op.hold:
        payload = b"%s;%s" % (b",".join(b"%d" % grant for grant in result.grants), payload)
    return op.tenant, payload


def voids(items: Sequence[Item]) -> list[Item]:
    """The facts that take these back."""
    return [(tenant, b"\n".join(encode(void(decode(line))) for line in lines.split(b"\n"))) for tenant, lines in items]
