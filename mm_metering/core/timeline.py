"""A subscription's timeline: its plan and its state from each instant on. What changes it is decided here, purely.

A change holds from its instant on. Of plans, those that were planned for later end with it; of states, what was planned
stays: a tenant whose cancellation is planned may change plans until then, and a pause ends where it would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from mm_metering.core.cells import Segment
from mm_metering.core.lifecycles import ACTIVE, CANCELED, PAUSED, SUBSCRIPTION, TRIAL

RUNNING: Final = frozenset({TRIAL, ACTIVE})


@dataclass(frozen=True, slots=True)
class PlanChange:
    """Another plan from ``at_us`` on. It subscribes again who is canceled then. ``of_revision`` is the tenant's as
    which it was decided; None holds for any."""

    at_us: int
    plan: str
    version: int
    event: str = "change plan"
    of_revision: int | None = None


@dataclass(frozen=True, slots=True)
class StateChange:
    """What happens to the subscription at ``at_us``: an event of ``lifecycles.SUBSCRIPTION``."""

    at_us: int
    event: str
    of_revision: int | None = None


@dataclass(frozen=True, slots=True)
class VersionChange:
    """Other versions of the plans that hold from ``at_us`` on, by (plan, version). What is planned stays: plans that
    are not named, and every state. ``of_revision`` as in ``PlanChange``."""

    at_us: int
    versions: Mapping[tuple[str, int], tuple[str, int]]
    of_revision: int | None = None


Change: TypeAlias = PlanChange | StateChange | VersionChange


def changed_timeline(segments: Sequence[Segment], change: Change, *, name: str) -> tuple[Segment, ...]:
    """The segments after the change, still to be ``settled``. WrongState where the state then does not allow it."""
    earlier = [each for each in segments if each.starts_us < change.at_us]
    at = [each for each in segments if each.starts_us <= change.at_us][-1:] or segments[:1]
    later = [each for each in segments if each.starts_us > change.at_us]
    changed = [at[0]._replace(starts_us=change.at_us), *later]
    if isinstance(change, VersionChange):
        return (*earlier, *(_in_version(each, change.versions) for each in changed))
    status = SUBSCRIPTION.after(at[0].status, change.event, name=name)
    if isinstance(change, PlanChange):
        changed = [each._replace(plan=change.plan, version=change.version) for each in changed]
    moved = [each._replace(status=_after(each.status, change.event, at[0].status, status)) for each in changed]
    return (*earlier, *moved)


def _in_version(segment: Segment, versions: Mapping[tuple[str, int], tuple[str, int]]) -> Segment:
    key = (segment.plan, segment.version)
    plan, version = versions.get(key, key)
    return segment._replace(plan=plan, version=version)


def _after(planned: str, event: str, was: str, becomes: str) -> str:
    """What becomes of a planned state by an event that leads from ``was`` to another."""
    match event:
        case "resume":
            return becomes if planned in (PAUSED, CANCELED) else planned
        case "change plan":
            return becomes if planned == was == CANCELED else planned
        case _:
            return SUBSCRIPTION.moves[planned].get(event, planned)


def settled(segments: Sequence[Segment], trial_ends_us: int) -> tuple[Segment, ...]:
    """The same timeline with each running segment in trial or active as of its time, and nothing that changes
    nothing."""
    cut: list[Segment] = []
    for number, each in enumerate(segments):
        is_last = number + 1 == len(segments)
        if each.status not in RUNNING:
            cut.append(each)
            continue
        in_trial = each.starts_us < trial_ends_us
        cut.append(each._replace(status=TRIAL if in_trial else ACTIVE))
        if in_trial and (is_last or trial_ends_us < segments[number + 1].starts_us):
            cut.append(each._replace(starts_us=trial_ends_us, status=ACTIVE))
    merged = cut[:1]
    merged += [each for each, before in zip(cut[1:], cut, strict=False) if each[1:] != before[1:]]
    return tuple(merged)
