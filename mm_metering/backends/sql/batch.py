"""What one batch of facts changes, given the rows that the ledger has of them already. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from mm_metering.core import cells as folding
from mm_metering.core.cells import LEVEL_KINDS, Calendar, CellKey, CellSum, LevelEnd
from mm_metering.core.facts import Fact


class FactKey(NamedTuple):
    tenant: str
    id: str


_new_key: Final = partial(tuple.__new__, FactKey)
"""Its own constructor is a Python function, and each fact needs one."""


class LevelKey(NamedTuple):
    tenant: str
    meter: str
    resource: str


@dataclass(slots=True)
class LevelChange:
    """The facts that came to a level, and those that were taken from it."""

    came: list[Fact] = field(default_factory=list)
    went: list[Fact] = field(default_factory=list)

    @property
    def earliest_us(self) -> int:
        return min(fact.occurred_us for fact in (*self.came, *self.went))

    def follows(self, end: LevelEnd) -> bool:
        """Whether everything that came lies past all that the level has seen, so that it can go on from there."""
        return not self.went and self.earliest_us > end.stamp // 2


class Known(NamedTuple):
    """A fact that the ledger has a row of; a tombstone is one of kind "void"."""

    fact: Fact
    is_voided: bool


class Batch:
    """Folds facts in memory, each once. What it collects is written afterwards, in one go. A fact from before
    ``since_us`` counts nowhere, as if it was voided."""

    def __init__(self, known: Mapping[FactKey, Known], calendars: Mapping[str, Calendar], *, since_us: int) -> None:
        self._calendars = calendars
        self._since_us = since_us
        self._facts = {key: each.fact for key, each in known.items()}
        self.voided: set[FactKey] = {key for key, each in known.items() if each.is_voided}
        self.new: dict[FactKey, Fact] = {}
        self.marked: list[Fact] = []
        """Facts with a row that must be marked voided."""
        self.holds: set[FactKey] = set()
        """Holds that may have been opened or closed."""
        self.cells: dict[CellKey, CellSum] = {}
        self.levels: dict[LevelKey, LevelChange] = {}

    def fold(self, facts: Iterable[Fact]) -> None:
        known, new, since_us = self._facts, self.new, self._since_us
        plain: list[Fact] = []
        for fact in facts:
            kind = fact.kind
            if kind == "void":
                self._void(fact)
                continue
            key = _new_key((fact.tenant, fact.id))
            if key in known:
                continue
            known[key] = new[key] = fact
            if fact.occurred_us < since_us and kind not in LEVEL_KINDS:
                self.voided.add(key)
            elif kind == "use":
                plain.append(fact)
            else:
                self._count(fact, 1)
        folding.add_all(self.cells, plain, self._calendars.__getitem__)

    def _void(self, fact: Fact) -> None:
        key = FactKey(fact.tenant, fact.target or "")
        if key in self.voided:
            return
        self.voided.add(key)
        target = self._facts.get(key)
        if target is None:
            self._facts[key] = self.new[key] = fact._replace(id=key.id, target=None)  # a tombstone
            return
        self._count(target, -1)
        if key not in self.new:
            self.marked.append(target)

    def _count(self, fact: Fact, sign: int) -> None:
        if fact.kind in LEVEL_KINDS:
            self._move_levels(fact, sign)
        elif fact.kind == "hold":
            self.holds.add(FactKey(fact.tenant, fact.id))
        else:
            folding.add(self.cells, fact, self._calendars[fact.tenant], sign)
            if fact.kind == "close" and fact.target:
                self.holds.add(FactKey(fact.tenant, fact.target))

    def _move_levels(self, fact: Fact, sign: int) -> None:
        for meter in folding.level_meters(fact):
            change = self.levels.setdefault(LevelKey(fact.tenant, meter, fact.resource), LevelChange())
            (change.came if sign > 0 else change.went).append(fact)

    def open_holds(self) -> set[FactKey]:
        """The new holds that no close of this batch ends."""
        return {key for key, fact in self.new.items() if fact.kind == "hold"} - self._closed() - self.voided

    def unsettled_holds(self) -> set[FactKey]:
        """The holds whose state depends on rows of other batches: all but new ones with a close of their own."""
        return self.holds - (self.new.keys() & self._closed())

    def _closed(self) -> set[FactKey]:
        return {
            FactKey(fact.tenant, fact.target or "")
            for key, fact in self.new.items()
            if fact.kind == "close" and key not in self.voided
        }


def row_keys(facts: Iterable[Fact]) -> set[tuple[str, str, int]]:
    """The rows that a batch may meet: those of its facts, and of the facts that its voids take back."""
    return {(fact.tenant, (fact.target or "") if fact.kind == "void" else fact.id, fact.occurred_us) for fact in facts}
