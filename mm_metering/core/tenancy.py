"""Tenants and their plans over time, as every ledger keeps them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Final

from mm_metering.core.cells import Segment
from mm_metering.errors import InvalidInput

ACTIVE: Final = "active"
SUSPENDED: Final = "suspended"
"""A tenant's status while its subscription is paused: each of its requests is refused."""


OVERRIDE: Final = "~"
"""Between a plan's name and the tenant whose own version of it this is: "pro~acme". No plan of a catalogue has it."""


def plan_name(plan: str) -> str:
    """The name to show: "pro" for "pro~acme" too."""
    return plan.partition(OVERRIDE)[0]


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant. ``segments`` are in order of their start; ``revision`` rises with every change that decisions
    depend on."""

    id: str
    timezone: str
    subscribed_us: int
    status: str
    revision: int
    tax_rate: str | None
    segments: tuple[Segment, ...]

    def segment_at(self, moment_us: int) -> Segment:
        """The plan in force; the instant of a change belongs to the new plan."""
        return self.segments[self.segment_index(moment_us)]

    def next_change_us(self, moment_us: int) -> int | None:
        """When a later segment begins, if one is planned."""
        following = self.segment_index(moment_us) + 1
        return self.segments[following].starts_us if following < len(self.segments) else None

    def segment_index(self, moment_us: int) -> int:
        """Which segment is in force, counted from 0."""
        return max(0, bisect_right(self.segments, moment_us, key=lambda segment: segment.starts_us) - 1)


@dataclass(frozen=True, slots=True)
class NewTenant:
    """What ``put_tenant`` writes. None leaves a known tenant's value as it is, and gives a new one the default."""

    id: str
    plan: str | None = None
    version: int | None = None
    timezone: str | None = None
    subscribed_us: int | None = None
    tax_rate: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class TenantDefaults:
    """What a tenant gets that was never put: the catalogue's default plan ("" for none), its version and zone."""

    plan: str
    version: int
    timezone: str


def changed_tenant(before: TenantRow | None, new: NewTenant, defaults: TenantDefaults, now_us: int) -> TenantRow:
    """The row after ``put_tenant``; the same object if nothing changes."""
    if before is None:
        return _new_tenant(new, defaults, now_us)
    after = before if new.subscribed_us is None else _moved_start(before, new.subscribed_us)
    if new.plan and not _is_on(after.segment_at(now_us), new):
        after = with_plan(after, new.plan, new.version or 0, now_us)
    after = replace(
        after,
        timezone=new.timezone or after.timezone,
        tax_rate=new.tax_rate or after.tax_rate,
        status=new.status or after.status,
    )
    return before if after == before else replace(after, revision=before.revision + 1)


def _is_on(segment: Segment, new: NewTenant) -> bool:
    """A tenant with a version of its own keeps it until it changes plans."""
    own = OVERRIDE in segment.plan and plan_name(segment.plan) == new.plan
    return own or (new.plan, new.version) == (segment.plan, segment.version)


def _new_tenant(new: NewTenant, defaults: TenantDefaults, now_us: int) -> TenantRow:
    plan, version = (new.plan, new.version or 0) if new.plan else (defaults.plan, defaults.version)
    start = now_us if new.subscribed_us is None else new.subscribed_us
    zone = new.timezone or defaults.timezone
    status = new.status or ACTIVE
    return TenantRow(new.id, zone, start, status, 1, new.tax_rate, (Segment(start, plan, version),))


def _moved_start(row: TenantRow, subscribed_us: int) -> TenantRow:
    first, *later = row.segments
    if later and later[0].starts_us <= subscribed_us:
        raise InvalidInput("subscribed_at", "lies past the tenant's first change of plan")
    return replace(row, subscribed_us=subscribed_us, segments=(first._replace(starts_us=subscribed_us), *later))


def with_plan(row: TenantRow, plan: str, version: int, at_us: int) -> TenantRow:
    """The row with a plan segment from ``at_us`` on, in place of those that begin there or later."""
    if at_us < row.subscribed_us:
        raise InvalidInput("at", "lies before the tenant's sign-up")
    kept = tuple(segment for segment in row.segments if segment.starts_us < at_us)
    return replace(row, segments=(*kept, Segment(at_us, plan, version)), revision=row.revision + 1)
