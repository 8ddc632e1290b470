"""What workers leave each other: dead letters and alerts, leases, the runs of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import ColumnElement, and_, delete, func, select, tuple_, update

from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import alert, dead_letter, job_run, lease
from mm_metering.backends.work import DEAD_LETTERS, Alert, DeadLetter, Lease, LetterKey, Run
from mm_metering.core.audit import Act
from mm_metering.core.audited import letters_posted
from mm_metering.core.cards import masked

_KEY: Final = tuple(dead_letter.primary_key)


# -- dead letters -----------------------------------------------------------------------------------------------------


async def bury(tx: Transaction, dead: Iterable[DeadLetter]) -> None:
    """Writes those that are not there, and raises their shards' alerts."""
    letters = list(dead)
    if letters:
        await tx.run_each(tx.insert(dead_letter).on_conflict_do_nothing(), [each._asdict() for each in letters])
    for subject, first in {str(each.shard): each for each in reversed(letters)}.items():
        await raise_alert(tx, DEAD_LETTERS, subject, first.reason, first.stored_us)


async def letters(tx: Transaction, after: LetterKey, limit: int) -> list[DeadLetter]:
    statement = select(dead_letter).where(tuple_(*_KEY) > after).order_by(*_KEY).limit(limit)
    return [DeadLetter(*row) for row in await tx.all(statement)]


async def count_letters(tx: Transaction) -> int:
    row = await tx.first(select(func.count()).select_from(dead_letter))
    return row[0] if row else 0


async def remove_letters(tx: Transaction, keys: Sequence[LetterKey], now_us: int, act: Act | None = None) -> None:
    gone = sum([await tx.run(delete(dead_letter).where(tuple_(*_KEY) == key)) for key in sorted(keys)])
    tx.note(letters_posted(gone, act))
    for shard in sorted({key[0] for key in keys}):
        if await tx.first(select(dead_letter.c.number).where(dead_letter.c.shard == shard).limit(1)) is None:
            await close_alert(tx, DEAD_LETTERS, str(shard), now_us)


# -- alerts -----------------------------------------------------------------------------------------------------------


def _is_open(kind: str, subject: str) -> ColumnElement[bool]:
    return and_(alert.c.kind == kind, alert.c.subject == subject, alert.c.closed_us.is_(None))


async def raise_alert(tx: Transaction, kind: str, subject: str, detail: str, now_us: int) -> bool:
    if await tx.first(select(alert.c.opened_us).where(_is_open(kind, subject))):
        return False
    before = select(func.max(alert.c.opened_us)).where(alert.c.kind == kind, alert.c.subject == subject)
    last = await tx.first(before)
    opened_us = now_us if last is None or last[0] is None else max(now_us, last[0] + 1)  # a clock may stand still
    row = {"kind": kind, "subject": subject, "opened_us": opened_us, "closed_us": None, "detail": masked(detail)}
    return bool(await tx.run(tx.insert(alert).on_conflict_do_nothing(), row))


async def close_alert(tx: Transaction, kind: str, subject: str, now_us: int) -> bool:
    return bool(await tx.run(update(alert).where(_is_open(kind, subject)).values(closed_us=now_us)))


async def open_alerts(tx: Transaction, after: tuple[str, str], limit: int) -> list[Alert]:
    key = (alert.c.kind, alert.c.subject)
    statement = select(alert).where(alert.c.closed_us.is_(None), tuple_(*key) > after).order_by(*key).limit(limit)
    return [Alert(*row) for row in await tx.all(statement)]


# -- leases -----------------------------------------------------------------------------------------------------------


async def hold(tx: Transaction, owner: str, take: Iterable[Lease], drop: Iterable[Lease]) -> list[Lease]:
    for seen in sorted(drop):
        await tx.run(delete(lease).where(_stands(seen)))
    for seen in sorted(take):
        if seen.beat:
            await tx.run(update(lease).where(_stands(seen)).values(owner=owner))
        else:
            row = {"name": seen.name, "owner": owner, "beat": 0}
            await tx.run(tx.insert(lease).on_conflict_do_nothing(), row)
    await tx.run(update(lease).where(lease.c.owner == owner).values(beat=lease.c.beat + 1))
    return [Lease(*row) for row in await tx.all(select(lease).order_by(lease.c.name))]


def _stands(seen: Lease) -> ColumnElement[bool]:
    return and_(lease.c.name == seen.name, lease.c.owner == seen.owner, lease.c.beat == seen.beat)


# -- runs of jobs -----------------------------------------------------------------------------------------------------


async def runs(tx: Transaction, job: str, until_us: int, limit: int) -> list[Run]:
    theirs = select(job_run).where(job_run.c.job == job, job_run.c.period_us <= until_us)
    return [Run(*row) for row in await tx.all(theirs.order_by(job_run.c.period_us.desc()).limit(limit))]


async def put_run(tx: Transaction, run: Run, instead_of: Run) -> bool:
    row = run._replace(beat=instead_of.beat + 1)._asdict()
    if not instead_of.fence:
        return bool(await tx.run(tx.insert(job_run).on_conflict_do_nothing(), row))
    stands = and_(
        job_run.c.job == run.job,
        job_run.c.period_us == run.period_us,
        job_run.c.fence == instead_of.fence,
        job_run.c.beat == instead_of.beat,
    )
    return bool(await tx.run(update(job_run).where(stands).values(row)))


async def forget_runs(tx: Transaction, before_us: int) -> int:
    later = job_run.alias("mm_later")
    newest = select(func.max(later.c.period_us)).where(later.c.job == job_run.c.job).scalar_subquery()
    return await tx.run(delete(job_run).where(job_run.c.period_us < before_us, job_run.c.period_us < newest))
