"""The verdict: what callers were told, beside what the ledger and the counters hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from typing import Final

from mm_metering import Metering
from mm_metering.core.facts import Fact
from mm_metering.core.periods import Window, from_micros, local_day, micros, window_span, zone
from mm_metering.gate.windows import field as field_of
from tests.chaos.app import LIMIT
from tests.chaos.truth import DEGRADED, RECORD, YES, Truth, call_of, recorded_id

PAGE: Final = 5_000
METERS: Final = ("strict", "soft")
LOOK_S: Final = 5.0
"""How long after a loss a stretch without an admission is put down to it."""


@dataclass(slots=True)
class Verdict:
    """All but the first three, and the pause, must be 0."""

    asked: int = 0
    acknowledged: int = 0
    in_ledger: int = 0
    lost: list[str] = field(default_factory=list)
    """Acknowledged, and not in the ledger."""
    duplicated: list[str] = field(default_factory=list)
    """In the ledger more than once."""
    unowed: list[str] = field(default_factory=list)
    """In the ledger, though it was refused, taken back, or never asked for."""
    over: list[str] = field(default_factory=list)
    """Tenants that were admitted more than their limit."""
    drift: list[str] = field(default_factory=list)
    """Counters and cells that are not the sum of the ledger's facts."""
    pauses_s: list[float] = field(default_factory=list)
    """The longest stretch around each loss in which nobody was admitted."""

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.duplicated or self.unowed or self.over or self.drift)

    def problems(self) -> list[str]:
        kinds = ("lost", "duplicated", "unowed", "over", "drift")
        return [f"{kind}: {each}" for kind in kinds for each in getattr(self, kind)[:10]]


async def judge(truth: Truth, metering: Metering, losses: Iterable[float]) -> Verdict:
    """Everything must be folded, and nothing under way."""
    recorded = {recorded_id(call): call for call in truth.sent if call[0] == RECORD}
    times, verdict = Counter[str](), Verdict(asked=len(truth.sent))
    for tenant in await _tenants(metering):
        facts = [fact for fact in await _facts(metering, tenant) if fact.counts]  # a request is an uncounted event, too
        verdict.in_ledger += len(facts)
        times.update(recorded.get(fact.id) or call_of(fact.id) for fact in facts)
        sums = _sums(facts)
        verdict.over += [f"{tenant}: {sums['strict']} of {LIMIT}"] if sums["strict"] > LIMIT else []
        verdict.drift += await _drift(metering, tenant, sums, {_day(fact) for fact in facts})
    yes = {call for call, mark in truth.told.items() if mark in (YES, DEGRADED)}
    verdict.acknowledged = len(yes)
    verdict.lost = [f"{call} of {truth.sent[call]}" for call in sorted(yes - times.keys())]
    verdict.duplicated = [f"{call}: {count} times" for call, count in times.items() if count > 1]
    owed = yes | (truth.sent.keys() - truth.told.keys())
    verdict.unowed = [f"{call}, told {truth.told.get(call, 'nothing')!r}" for call in sorted(times.keys() - owed)]
    verdict.pauses_s = pauses(sorted(seconds for seconds, _ in truth.admitted_at), losses)
    return verdict


def pauses(admitted_at: list[float], losses: Iterable[float]) -> list[float]:
    found = []
    for lost_at in losses:
        near = [each for each in admitted_at if lost_at - 1 < each < lost_at + LOOK_S]
        steps = [after - before for before, after in pairwise(near) if after > lost_at]
        found.append(max(steps, default=LOOK_S))
    return found


async def _tenants(metering: Metering) -> list[str]:
    found: list[str] = []
    while page := await metering.ledger.tenants(after=found[-1] if found else ""):
        found += [row.id for row in page]
    return found


async def _facts(metering: Metering, tenant: str) -> list[Fact]:
    found: list[Fact] = []
    after = (-1, "")
    while page := await metering.ledger.facts(tenant, after=after, limit=PAGE):
        found += page
        after = (page[-1].occurred_us, page[-1].id)
    return found


def _sums(facts: Iterable[Fact]) -> Counter[str]:
    found = Counter[str]()
    for fact in facts:
        for count in fact.counts:
            found[count.meter] += count.amount
    return found


def _day(fact: Fact) -> date:
    return local_day(from_micros(fact.occurred_us), zone("UTC"))


async def _drift(metering: Metering, tenant: str, sums: Counter[str], days: Collection[date]) -> list[str]:
    """Where the tenant's cells or counters say something else. Counters that are not loaded say nothing."""
    cells = Counter[str]()
    for cell in await metering.ledger.cells(tenant, first=min(days), last=max(days)) if days else ():
        cells[cell.key.meter] += cell.total.quantity
    month = window_span(Window.MONTH, from_micros(micros(metering.clock.now())), zone("UTC"))
    fields = {meter: field_of(meter, Window.MONTH, month) for meter in METERS}
    counted = await _counted(metering, tenant)
    if any(counted.get(fields[meter], sums[meter]) != sums[meter] for meter in METERS):
        # What is appended uncounted leaves the fields as they are and takes the tag: the next take loads them anew.
        await metering.check_limit(tenant, METERS[0])
        counted = await _counted(metering, tenant)
    return [
        f"{tenant} {meter}: facts {sums[meter]}, cells {cells[meter]}, counters {counted.get(fields[meter])}"
        for meter in METERS
        if not sums[meter] == cells[meter] == counted.get(fields[meter], sums[meter])
    ]


async def _counted(metering: Metering, tenant: str) -> Mapping[str, int]:
    return await metering.counters.counters(metering.gate.shard_of(tenant), tenant)
