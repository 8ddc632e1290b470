"""Why a request would be allowed or refused: each limit that it meets, in numbers and in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from mm_metering.core.decision import Decision
from mm_metering.core.refusals import sentence, standing
from mm_metering.gate.admission import Admission


class ConsideredLimit(BaseModel):
    """One limit: its numbers, and why it allows or refuses."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    decision: Decision
    words: str


class RequestExplanation(BaseModel):
    """``asked``: what the request would use of each meter. ``limits``: those that were looked at, refused ones first,
    then the closest; a meter of ``asked`` without one is unlimited."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    tenant: str
    plan: str
    as_of: datetime
    route: str | None
    allowed: bool
    asked: Mapping[str, int]
    limits: tuple[ConsideredLimit, ...]
    words: str

    def __bool__(self) -> bool:
        return self.allowed


class Place(Protocol):
    """A route as far as an explanation is concerned: its name, and why it is not metered, "" if it is."""

    @property
    def route(self) -> str: ...

    @property
    def exempt(self) -> str: ...


def explained(
    tenant: str, looks: Sequence[Admission], *, now: datetime, asked: Mapping[str, int], at: Place | None
) -> RequestExplanation:
    """What these looks come to."""
    found = sorted((each for look in looks for each in look.decisions), key=lambda each: each.allowed)
    allowed = all(look.allowed for look in looks)
    return RequestExplanation(
        tenant=tenant,
        plan=next((look.plan for look in looks), ""),
        as_of=now,
        route=at.route if at else None,
        allowed=allowed,
        asked=asked,
        limits=tuple(ConsideredLimit(decision=each, words=_words(each, now)) for each in found),
        words=_verdict(found, asked, now, exempt=at.exempt if at else "", allowed=allowed),
    )


def _words(decision: Decision, now: datetime) -> str:
    return standing(decision, now) if decision.allowed else sentence(decision, now)


def _verdict(found: Sequence[Decision], asked: Mapping[str, int], now: datetime, *, exempt: str, allowed: bool) -> str:
    if exempt:
        return f"allowed: {exempt}, so nothing is counted"
    if not allowed:
        return f"refused: {sentence(next(each for each in found if not each), now)}"
    if not asked:
        return "allowed: it uses nothing that is counted"
    return "allowed: each limit has room for it" if found else "allowed: no limit of the plan concerns it"
