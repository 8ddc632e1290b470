"""Tenants, as every ledger keeps them: a zone, and a subscription as a timeline of plans and states (``timeline``)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Final

from mm_metering.core.cells import Segment
from mm_metering.core.periods import Window, from_micros, micros, window_span, zone
from mm_metering.core.timeline import Change, PlanChange, StateChange, changed_timeline, settled
from mm_metering.core.zones import moved_zone
from mm_metering.errors import ChangedMeanwhile, InvalidInput, WrongState

OVERRIDE: Final = "~"
"""Between a plan's name and the tenant whose own version of it this is: "pro~acme". No plan of a catalogue has it."""


def plan_name(plan: str) -> str:
    """The name to show: "pro" for "pro~acme" too."""
    return plan.partition(OVERRIDE)[0]


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant. ``timezone`` is a name for ``core.zones.zone``. ``segments`` are in order of their start;
    ``trial_us`` is how long the trial lasts that begins with the sign-up; ``anchor_day``, 1 to 31, the day on which its
    months begin; ``revision`` rises with every change that
    decisions depend on; ``forgotten_us`` is when it was forgotten, 0 for never."""

    id: str
    timezone: str
    subscribed_us: int
    revision: int
    tax_rate: str | None
    segments: tuple[Segment, ...]
    trial_us: int = 0
    anchor_day: int = 1
    forgotten_us: int = 0

    @property
    def trial_ends_us(self) -> int:
        """When the trial is over: at the sign-up where there is none."""
        return self.subscribed_us + self.trial_us

    def segment_at(self, moment_us: int) -> Segment:
        """The plan in force; the instant of a change belongs to the new plan."""
        return self.segments[self.segment_index(moment_us)]

    def next_change_us(self, moment_us: int) -> int | None:
        """When a later segment begins, if one is planned."""
        following = self.segment_index(moment_us) + 1
        return self.segments[following].starts_us if following < len(self.segments) else None

    def segments_in(self, start_us: int, end_us: int) -> tuple[Segment, ...]:
        """Those in force at some time of [start, end); the first one covers what lies before it, too."""
        return self.segments[self.segment_index(start_us) : self.segment_index(end_us - 1) + 1]

    def segment_index(self, moment_us: int) -> int:
        """Which segment is in force, counted from 0."""
        return max(0, bisect_right(self.segments, moment_us, key=lambda segment: segment.starts_us) - 1)


@dataclass(frozen=True, slots=True)
class NewTenant:
    """What ``put_tenant`` writes. None leaves a known tenant's value as it is, and gives a new one the default.
    ``of_revision`` as in ``PlanChange``."""

    id: str
    plan: str | None = None
    version: int | None = None
    timezone: str | None = None
    subscribed_us: int | None = None
    tax_rate: str | None = None
    trial_us: int | None = None
    anchor_day: int | None = None
    of_revision: int | None = None


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
    refuse_forgotten(before)
    _check_revision(before, new.of_revision)
    after = before if new.subscribed_us is None else _moved_start(before, new.subscribed_us)
    if new.plan and not _is_on(after.segment_at(now_us), new):
        after = with_change(after, PlanChange(now_us, new.plan, new.version or 0))
    trial_us = after.trial_us if new.trial_us is None else new.trial_us
    after = replace(
        after,
        timezone=_zone_after(before, new.timezone, now_us),
        tax_rate=new.tax_rate or after.tax_rate,
        trial_us=trial_us,
        anchor_day=_anchor_after(before, new.anchor_day, now_us),
        segments=settled(after.segments, after.subscribed_us + trial_us),
    )
    return before if after == before else replace(after, revision=before.revision + 1)


def _is_on(segment: Segment, new: NewTenant) -> bool:
    """A tenant with a version of its own keeps it until it changes plans."""
    own = OVERRIDE in segment.plan and plan_name(segment.plan) == new.plan
    return own or (new.plan, new.version) == (segment.plan, segment.version)


def _zone_after(before: TenantRow, timezone: str | None, now_us: int) -> str:
    """Days that have begun keep their zone; a tenant's first day has it from the start."""
    if timezone is None:
        return before.timezone
    return moved_zone(before.timezone, timezone, now_us, since_us=before.subscribed_us)


def _anchor_after(before: TenantRow, anchor_day: int | None, now_us: int) -> int:
    """Months that have ended stay what they were: it can be changed in the first one only."""
    if anchor_day is None or anchor_day == before.anchor_day:
        return before.anchor_day
    tz, signed_up = zone(before.timezone), from_micros(before.subscribed_us)
    ends = min(window_span(Window.MONTH, signed_up, tz, anchor).end for anchor in (before.anchor_day, anchor_day))
    if now_us >= micros(ends):
        raise InvalidInput(
            "anchor", f"can be changed until {ends:%Y-%m-%dT%H:%M:%SZ}, the end of the tenant's first month"
        )
    return anchor_day


def _new_tenant(new: NewTenant, defaults: TenantDefaults, now_us: int) -> TenantRow:
    plan, version = (new.plan, new.version or 0) if new.plan else (defaults.plan, defaults.version)
    start, trial_us = now_us if new.subscribed_us is None else new.subscribed_us, new.trial_us or 0
    segments = settled((Segment(start, plan, version),), start + trial_us)
    return TenantRow(
        new.id, new.timezone or defaults.timezone, start, 1, new.tax_rate, segments, trial_us, new.anchor_day or 1
    )


def _moved_start(row: TenantRow, subscribed_us: int) -> TenantRow:
    """Still to be settled: a trial moves with the sign-up."""
    first, *later = settled(row.segments, row.subscribed_us)
    if later and later[0].starts_us <= subscribed_us:
        raise InvalidInput("subscribed_at", "lies past the tenant's first change of plan")
    return replace(row, subscribed_us=subscribed_us, segments=(first._replace(starts_us=subscribed_us), *later))


def _check_revision(row: TenantRow, of_revision: int | None) -> None:
    if of_revision not in (None, row.revision):
        raise ChangedMeanwhile(
            f"tenant {row.id!r} was changed meanwhile, revision {row.revision} after {of_revision}; try again",
            state=f"revision {row.revision}",
        )


def with_change(row: TenantRow, change: Change) -> TenantRow:
    """The row after a change of its timeline; the same object if nothing changes.

    InvalidInput for an instant before the sign-up, WrongState for what its state then does not allow and for a tenant
    that was forgotten, ChangedMeanwhile where the tenant is not any more what the change was decided for.
    """
    refuse_forgotten(row)
    _check_revision(row, change.of_revision)
    if change.at_us < row.subscribed_us:
        at, sign_up = from_micros(change.at_us), from_micros(row.subscribed_us)
        raise InvalidInput(
            "at", f"{at:%Y-%m-%dT%H:%M:%SZ} lies before the tenant's sign-up, {sign_up:%Y-%m-%dT%H:%M:%SZ}"
        )
    segments = settled(changed_timeline(row.segments, change, name=row.id), row.trial_ends_us)
    return row if segments == row.segments else replace(row, segments=segments, revision=row.revision + 1)


def forgotten(row: TenantRow, now_us: int) -> TenantRow:
    """The row of a tenant that is forgotten: canceled from now on and for good; the same object if it was before."""
    if row.forgotten_us:
        return row
    canceled = with_change(row, StateChange(max(now_us, row.subscribed_us), "cancel"))
    return replace(canceled, forgotten_us=now_us, revision=row.revision + 1)


def refuse_forgotten(row: TenantRow) -> None:
    """WrongState if it was forgotten."""
    if row.forgotten_us:
        raise WrongState(
            f"tenant {row.id!r} was forgotten at {from_micros(row.forgotten_us):%Y-%m-%dT%H:%M:%SZ}, for good; "
            "who comes back is a new tenant, with another id",
            state="forgotten",
        )
