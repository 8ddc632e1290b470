"""``MeteringRecorder``: what a Metering metered while a test ran, and failures in words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Self

from mm_metering.core.decision import Decision
from mm_metering.core.facts import Fact
from mm_metering.core.money import from_nanos
from mm_metering.core.periods import from_micros
from mm_metering.gate.admission import Admission, Candidate, Wish
from mm_metering.gate.holds import Held
from mm_metering.gate.overrides import watching
from mm_metering.metering import Metering

SHOWN: Final = 10
"""Most events that one failure lists."""


@dataclass(frozen=True, slots=True)
class MeteredEvent:
    """One fact that counts. ``meters``: what it adds to each, units or nano-units of money."""

    tenant: str
    event_type: str
    resource: str
    quantity: int
    meters: Mapping[str, int]
    occurred_at: datetime
    cost: Decimal | None = None

    def of(self, what: str) -> int:
        """How much of an event type or of a meter it is; 0 for another."""
        return self.quantity if what == self.event_type else self.meters.get(what, 0)

    def __str__(self) -> str:
        where = f" on {self.resource}" if self.resource else ""
        return f"{self.quantity:,} {self.event_type or next(iter(self.meters), 'fact')} of {self.tenant!r}{where}"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a test expects; None leaves it open."""

    what: str | None
    tenant: str | None
    resource: str | None

    def wrong(self, each: MeteredEvent) -> list[str]:
        """In which respects an event is another."""
        return [
            name
            for name, is_wrong in (
                ("another event", self.what is not None and not each.of(self.what)),
                ("another tenant", self.tenant not in (None, each.tenant)),
                ("another resource", self.resource not in (None, each.resource)),
            )
            if is_wrong
        ]

    def __str__(self) -> str:
        of = f" of {self.tenant!r}" if self.tenant is not None else ""
        return f"{self.what or 'event'}{of}{f' on {self.resource}' if self.resource is not None else ''}"


class MeteringRecorder:
    """``events`` are the facts that count, without those that were taken back; ``decisions`` what limits said to
    those that asked to use something. Both in order; a look such as ``check_limit`` is neither.

    It sees this process alone, on all of its threads, from the moment it is asked on.
    """

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.taken_back: list[MeteredEvent] = []
        self._events: dict[tuple[str, str], MeteredEvent] = {}

    @classmethod
    @contextmanager
    def of(cls, metering: Metering) -> Iterator[Self]:
        """Records within a block."""
        recorder = cls()
        watches = {
            name: getattr(recorder, f"_{name.strip('_')}") for name in ("take", "hold", "close", "level", "_post")
        }
        with watching(metering.gate, watches):
            yield recorder

    @property
    def events(self) -> list[MeteredEvent]:
        return [*self._events.values()]

    @property
    def refused(self) -> list[Decision]:
        return [each for each in self.decisions if not each]

    # -- what a test expects ------------------------------------------------------------------------------------------

    def quantity(self, what: str, *, tenant: str | None = None, resource: str | None = None) -> int:
        """How much of an event type or of a meter was metered."""
        wanted = _Wanted(what, tenant, resource)
        return sum(each.of(what) for each in self.events if not wanted.wrong(each))

    def assert_metered(
        self, what: str, *, quantity: int | None = None, tenant: str | None = None, resource: str | None = None
    ) -> None:
        """So much of an event type or of a meter was metered, all events together; anything at all for None."""
        wanted, found = _Wanted(what, tenant, resource), self.quantity(what, tenant=tenant, resource=resource)
        if found == quantity or (quantity is None and found):
            return
        expected = f"{quantity:,}" if quantity is not None else "some"
        self._fail(f"expected {expected} {wanted}, and there was {f'{found:,}' if found else 'none'}", wanted)

    def assert_nothing(
        self, what: str | None = None, *, tenant: str | None = None, resource: str | None = None
    ) -> None:
        """Nothing of it was metered; nothing at all without a name."""
        wanted = _Wanted(what, tenant, resource)
        if found := [each for each in self.events if not wanted.wrong(each)]:
            self._fail(f"expected no {wanted}, and there {_are(len(found))}", wanted)

    def assert_refused(self, meter: str | None = None, *, reason: str | None = None) -> None:
        """Some request was refused, by this meter and for this reason if they are given."""
        if not any(meter in (None, each.meter) and reason in (None, each.reason) for each in self.refused):
            by, why = f" of {meter}" if meter else "", f" as {reason}" if reason else ""
            self._fail(f"expected a refusal{by}{why}, and there was none", None)

    def _fail(self, headline: str, wanted: _Wanted | None) -> None:
        lines = [headline]
        matching = [each for each in self.events if wanted and not wanted.wrong(each)]
        lines += _listed("these count", matching)
        others = [each for each in self.events if each not in matching]
        if wanted and not matching and others:
            nearest = min(others, key=lambda each: len(wanted.wrong(each)))
            lines.append(f"nearest: {nearest} ({' and '.join(wanted.wrong(nearest))})")
        else:
            nearest = None
        lines += _listed(
            "metered besides" if matching or nearest else "metered", (e for e in others if e is not nearest)
        )
        lines += _listed("taken back, since its request ended in an error", self.taken_back)
        lines += _listed("refused", map(_refusal, self.refused))
        if not (self.events or self.taken_back or self.decisions):
            lines.append(
                "nothing asked this Metering for anything: is it the one that the app has installed, and is the route "
                "one that costs something?"
            )
        raise AssertionError("\n  ".join(lines))

    # -- what it sees -------------------------------------------------------------------------------------------------

    async def _take(
        self,
        take: Callable[..., Awaitable[Admission]],
        tenant: str,
        wishes: Sequence[Wish],
        *,
        look: bool = False,
    ) -> Admission:
        admission = await take(tenant, wishes, look=look)
        if not look:
            self.decisions += admission.decisions
            self._add(admission.facts)
        return admission

    async def _hold(
        self,
        hold: Callable[..., Awaitable[Held | Admission]],
        tenant: str,
        candidates: Sequence[Candidate],
        **rest: Any,
    ) -> Held | Admission:
        held = await hold(tenant, candidates, **rest)
        if isinstance(held, Admission):
            self.decisions += held.decisions
        return held

    async def _close(
        self,
        close: Callable[..., Awaitable[bool]],
        held: Held,
        facts: Sequence[Fact],
        *,
        instead_of: Sequence[Fact] = (),
    ) -> bool:
        done = await close(held, facts, instead_of=instead_of)
        self._forget(instead_of)
        self._add(facts)
        return done

    async def _level(self, level: Callable[..., Awaitable[bool]], tenant: str, fact: Fact) -> bool:
        done = await level(tenant, fact)
        self._add((fact,))
        return done

    async def _post(
        self,
        post: Callable[..., Awaitable[bool]],
        tenant: str,
        moved: Sequence[Fact],
        written: Sequence[Fact],
        **rest: Any,
    ) -> bool:
        done = await post(tenant, moved, written, **rest)
        for fact in written:
            if fact.kind == "void" and (gone := self._events.pop((tenant, fact.target or ""), None)):
                self.taken_back.append(gone)
        self._add(written)
        return done

    def _forget(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            self._events.pop((fact.tenant, fact.id), None)

    def _add(self, facts: Iterable[Fact]) -> None:
        for fact in facts:
            if fact.counts and fact.kind not in ("void", "hold"):
                self._events[fact.tenant, fact.id] = _event(fact)


def _event(fact: Fact) -> MeteredEvent:
    return MeteredEvent(
        tenant=fact.tenant,
        event_type=fact.event_type,
        resource=fact.resource,
        quantity=fact.quantity,
        meters={count.meter: count.amount for count in fact.counts if not count.scope},
        occurred_at=from_micros(fact.occurred_us),
        cost=None if fact.cost_nanos is None else from_nanos(fact.cost_nanos),
    )


def _listed(title: str, values: Iterable[object]) -> list[str]:
    found = [str(each) for each in values]
    more = f"; and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return [f"{title}: {'; '.join(found[:SHOWN])}{more}"] if found else []


def _refusal(each: Decision) -> str:
    numbers = f", {each.used:,} of {each.limit:,} used" if each.limit is not None else ""
    return f"{each.requested:,} {each.meter} ({each.reason}{numbers})"


def _are(count: int) -> str:
    return "was 1" if count == 1 else f"were {count:,}"
