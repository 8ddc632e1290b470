"""A plans file against the plans of a ledger: what differs, whom it touches, and storing it as new versions.

Owns: reading the tenants for that, page by page. Does not own: what a difference is (``core.plan_changes``), moving
tenants (``subscriptions``). What tenants used is what the ledger has folded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from mm_metering.backends.ledger import MAX_SNAPSHOTS, Ledger, Snapshot, tenant_pages
from mm_metering.core.audit import Act
from mm_metering.core.catalogue import Catalogue, Plan
from mm_metering.core.periods import local_day, micros, zone
from mm_metering.core.plan_changes import (
    OWN,
    Audience,
    Census,
    Dropped,
    PlanDifference,
    Stored,
    Use,
    differences,
    dropped,
)
from mm_metering.core.tenancy import TenantDefaults, TenantRow, plan_name
from mm_metering.errors import CatalogueError

PAGE: Final = 1000
"""Tenants read at a time."""
SAID: Final = 5
"""How many dropped meters an error tells of; the others are counted."""
_NO_DEFAULT: Final = TenantDefaults("", 0, "UTC")

Progress: TypeAlias = Callable[[int], None]
"""Told how many tenants are done."""


@dataclass(frozen=True, slots=True)
class Review:
    """``audiences`` by plan: those that have tenants. ``dropped``: why the file may not be applied."""

    differences: tuple[PlanDifference, ...]
    audiences: Mapping[str, Audience]
    dropped: tuple[Dropped, ...]

    @property
    def to_store(self) -> Mapping[str, Plan]:
        """The plans that are new or changed, in the file's order."""
        return {each.plan: each.after for each in self.differences if each.after is not None}

    @property
    def next_versions(self) -> Mapping[str, int]:
        """What storing them makes of these."""
        return {each.plan: each.version + 1 for each in self.differences if each.after is not None}


async def stored_plans(ledger: Ledger) -> Stored:
    """Every version of every plan, tenants' own among them."""
    versions = await ledger.plan_versions()
    return {key: Plan.from_definition(plan_name(key[0]), definition) for key, definition in versions.items()}


async def review(ledger: Ledger, catalogue: Catalogue, *, now: datetime, progress: Progress) -> Review:
    """Reads every tenant once, and the usage of those that a new limit could touch. Writes nothing."""
    stored = await stored_plans(ledger)
    found = differences(stored, catalogue.plans)
    moved = {each.plan: each.after for each in found if each.after is not None}
    census = Census(stored, moved, now=now, addons=catalogue.addons)
    recorded: Counter[str] = Counter()

    async for page in _pages(ledger, progress):
        for row in page:
            census.add(row)
        recorded.update(await ledger.meters_used([row.id for row in page]))
        await _weigh(ledger, census, [row for row in page if census.new_limits(row)], now)
    gone = dropped(stored, census.in_use, recorded, catalogue.meters)
    return Review(found, census.audiences, gone)


async def count(ledger: Ledger, stored: Stored, *, now: datetime, progress: Progress) -> Mapping[str, Audience]:
    """Who is on which version of which plan."""
    census = Census(stored, {}, now=now)
    async for page in _pages(ledger, progress):
        for row in page:
            census.add(row)
    return census.audiences


async def store(
    ledger: Ledger, found: Review, *, file: str, now: datetime, act: Act | None = None
) -> Mapping[str, int]:
    """Stores what is new or changed: the version of each. CatalogueError for a file that drops what is in use."""
    refuse_dropped(found, file)
    definitions = {name: plan.definition() for name, plan in found.to_store.items()}
    return await ledger.put_plans(definitions, now_us=micros(now), act=act) if definitions else {}


def refuse_dropped(found: Review, file: str) -> None:
    """CatalogueError that names meter, plan and number of tenants, if there is any."""
    if found.dropped:
        more = len(found.dropped) - SAID
        said = [dropped_words(each) for each in found.dropped[:SAID]] + ([f"and {more:,} more"] if more > 0 else [])
        raise CatalogueError(f"{'; '.join(said)}. Nothing was stored: keep these in [meters]", file=file)


def dropped_words(each: Dropped) -> str:
    """ "the meter reports is gone, but pro@1 has a limit of it and 3 tenants are on that"."""
    tenants = f"{each.tenants:,} tenant{'' if each.tenants == 1 else 's'}"
    if each.plan is None:
        have = "has" if each.tenants == 1 else "have"
        return f"the meter {each.meter} is gone, but {tenants} {have} recorded usage of it"
    version = f"overrides of {each.plan}" if each.version == OWN else f"{each.plan}@{each.version}"
    are = "is" if each.tenants == 1 else "are"
    return f"the meter {each.meter} is gone, but {version} has a limit of it and {tenants} {are} on that"


async def _pages(ledger: Ledger, progress: Progress) -> AsyncIterator[Sequence[TenantRow]]:
    """All tenants. Each page is counted as done when the next one is asked for."""
    done = 0
    async for page in tenant_pages(ledger, PAGE):
        yield page
        done += len(page)
        progress(done)


async def _weigh(ledger: Ledger, census: Census, rows: Sequence[TenantRow], now: datetime) -> None:
    for first in range(0, len(rows), MAX_SNAPSHOTS):
        some = rows[first : first + MAX_SNAPSHOTS]
        since = min(local_day(now, zone(row.timezone)).replace(day=1) for row in some)
        ids = [row.id for row in some]
        seen = await ledger.snapshots(0, ids, since=since, defaults=_NO_DEFAULT, now_us=micros(now))
        for row in some:
            census.weigh(row, _uses(seen[row.id]), {key: end.value for key, end in seen[row.id].levels.items()})


def _uses(snapshot: Snapshot) -> list[Use]:
    return [Use(row.day, row.meter, row.quantity) for row in snapshot.usage if not row.scope]
