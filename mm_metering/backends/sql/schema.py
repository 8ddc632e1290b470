"""Bringing a database to the newest migration, or saying what is missing. Alembic is loaded only to migrate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Text, column, inspect, select, table

from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import plan_version
from mm_metering.errors import NotApplied

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE: Final = "mm_alembic_version"
"""Not Alembic's own default: the host may migrate the same database with it."""
MIGRATING: Final = 0x6D6D_6D69_6772_6174
"""The advisory lock's number: "mmmigrat"."""

COMMAND: Final = "mm-metering migrate"

_MIGRATIONS: Final = files("mm_metering.backends.migrations")
_STANDS: Final = select(column("version_num", Text)).select_from(table(VERSION_TABLE))

_ONE_AT_A_TIME: Final = threading.Lock()
"""Alembic's context is one per process, so two ledgers of a process are not migrated at once."""
LOOK_S: Final = 0.01


async def migrate(tx: Transaction) -> None:
    """All missing migrations in one transaction; a second process waits, then finds nothing to do."""
    await tx.lock(MIGRATING)
    if _is_behind(await _stands(tx)):
        async with _alone():
            await tx.connection.run_sync(_upgrade)


async def check(tx: Transaction, where: str) -> None:
    """NotApplied unless the schema is this release's, or a newer one (which keeps working with this release)."""
    stands = await _stands(tx)
    if _is_behind(stands):
        has = f"revision {stands}" if stands else "no schema yet"
        raise NotApplied(f"the ledger at {where} has {has}, this release needs {revisions()[-1]}; run: {COMMAND}")


def revisions() -> list[str]:
    """This release's, oldest first: the number that each migration's file begins with."""
    names = (each.name for each in (_MIGRATIONS / "versions").iterdir())
    return sorted(name.partition("_")[0] for name in names if name[0].isdigit())


def _is_behind(stands: str | None) -> bool:
    """False of a newer release's revision, which is none of ours."""
    return stands is None or stands in revisions()[:-1]


async def is_empty(tx: Transaction) -> bool:
    """Whether nothing is here that a migration or a plan could harm: no tables at all, or ours without a plan."""
    tables = await tx.connection.run_sync(lambda connection: inspect(connection).get_table_names())
    if plan_version.name in tables:
        return await tx.first(select(plan_version.c.plan).limit(1)) is None
    return not tables


@asynccontextmanager
async def _alone() -> AsyncIterator[None]:
    """Over all threads and event loops of the process, without blocking any of them."""
    while not _ONE_AT_A_TIME.acquire(blocking=False):  # noqa: ASYNC110 - an event belongs to one loop
        await asyncio.sleep(LOOK_S)
    try:
        yield
    finally:
        _ONE_AT_A_TIME.release()


async def _stands(tx: Transaction) -> str | None:
    """The revision that the database has."""
    if not await tx.connection.run_sync(lambda connection: inspect(connection).has_table(VERSION_TABLE)):
        return None
    row = await tx.first(_STANDS)
    return str(row[0]) if row else None


def _upgrade(connection: Connection) -> None:
    from alembic import command

    with _config() as config:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _config() -> Iterator[Config]:
    """Without a file: the host's logging and its own Alembic stay as they are."""
    from alembic.config import Config

    with as_file(_MIGRATIONS) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        yield config
