"""What workers leave each other in the ledger: dead letters, alerts, leases, and the runs of periodic jobs.

No clock is compared here. A lease and a run carry a ``beat`` that its owner raises: who has watched it stand still for
long enough by its own monotonic clock takes it over, by a compare-and-set on what was seen. So neither the machines'
clocks nor the database's need agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from mm_metering.core.audit import Act

LetterKey: TypeAlias = tuple[int, int, str, int]
FIRST_LETTER: Final[LetterKey] = (-1, 0, "", 0)
"""Before every dead letter."""


class DeadLetter(NamedTuple):
    """A line of the stream that is no fact, or one that the ledger cannot hold. It is kept as it came.

    The first four say where it stood: shard, generation, entry, and line in the entry, counted from 0.
    """

    shard: int
    generation: int
    position: str
    number: int
    line: bytes
    reason: str
    stored_us: int

    @property
    def key(self) -> LetterKey:
        return self[:4]


class Alert(NamedTuple):
    """Something that somebody must look at. At most one of a (kind, subject) is open."""

    kind: str
    subject: str
    opened_us: int
    closed_us: int | None
    detail: str


DEAD_LETTERS: Final = "dead_letters"
"""The kind of alert that stays open while a shard (its subject) has dead letters."""
JOB_FAILED: Final = "job_failed"
"""The kind of alert for a job (its subject) that was given up for a period."""


SHADOW_BLOCKS: Final = "shadow_blocks"
"""The kind of alert for what a shadow plan would refuse. Its subject: shadow plan, meter, window and tenant."""


USAGE_REPORT: Final = "usage_report"
"""The kind of alert for usage that a payment provider refuses, or that cannot be told. Its subject: tenant, month and
meter, or tenant and month."""


class Lease(NamedTuple):
    """Who holds what a name stands for. ``beat`` rises while the owner lives; 0: the lease is not there."""

    name: str
    owner: str
    beat: int


class Run(NamedTuple):
    """One job's work for the period that starts at ``period_us``. ``fence`` rises with each owner; 0 stands for a run
    that is not there."""

    job: str
    period_us: int
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    fence: int = 0
    owner: str = ""
    beat: int = 0
    tries: int = 0
    started_us: int | None = None
    finished_us: int | None = None
    error: str | None = None


class Work(Protocol):
    """A part of the ``Ledger`` law. Each method is one transaction."""

    async def dead_letters(self, *, after: LetterKey = FIRST_LETTER, limit: int = 1000) -> list[DeadLetter]:
        """One page, by key."""
        ...

    async def count_dead_letters(self) -> int: ...

    async def remove_dead_letters(self, keys: Sequence[LetterKey], *, now_us: int, act: Act | None = None) -> None:
        """Removes those that are there, and closes the alert of each shard that has none left."""
        ...

    async def raise_alert(self, kind: str, subject: str, *, detail: str, now_us: int) -> bool:
        """Opens an alert; False, and nothing is changed, if one of this kind and subject is open."""
        ...

    async def close_alert(self, kind: str, subject: str, *, now_us: int) -> bool:
        """False if none is open."""
        ...

    async def open_alerts(self, *, after: tuple[str, str] = ("", ""), limit: int = 1000) -> list[Alert]:
        """One page, by (kind, subject)."""
        ...

    async def hold(self, owner: str, *, take: Sequence[Lease] = (), drop: Sequence[Lease] = ()) -> list[Lease]:
        """Drops and takes the leases that still stand as they were seen, whoever holds them, raises the beat of all
        that ``owner`` has then, and answers all that stand afterwards, by name."""
        ...

    async def runs(self, job: str, *, until_us: int, limit: int) -> list[Run]:
        """The newest runs of a job whose periods start by then, newest first."""
        ...

    async def put_run(self, run: Run, *, instead_of: Run) -> bool:
        """Stores the run if it still has the fence and the beat of ``instead_of`` (fence 0: if it is not there), with
        a beat one above that. False, and nothing is written, otherwise."""
        ...

    async def forget_runs(self, *, before_us: int) -> int:
        """Deletes the runs of periods that start before then, but for each job's newest; how many."""
        ...
