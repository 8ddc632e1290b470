"""Bringing a database to the newest migration, or saying what is missing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import as_file, files
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select

from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.tables import plan_version
from mm_metering.errors import NotApplied

VERSION_TABLE: Final = "mm_alembic_version"
"""Not Alembic's own default: the host may migrate the same database with it."""
MIGRATING: Final = 0x6D6D_6D69_6772_6174
"""The advisory lock's number: "mmmigrat"."""

COMMAND: Final = "mm-metering migrate"

_ONE_AT_A_TIME: Final = threading.Lock()
"""Alembic's context is one per process, so two ledgers of a process are not migrated at once."""
LOOK_S: Final = 0.01


async def migrate(tx: Transaction) -> None:
    """All missing migrations in one transaction; a second process waits, then finds nothing to do."""
    await tx.lock(MIGRATING)
    async with _alone():
        await tx.connection.run_sync(_upgrade)


async def check(tx: Transaction, where: str) -> None:
    """NotApplied unless the schema is this release's, or a newer one (which keeps working with this release)."""
    stands = await tx.connection.run_sync(_revision)
    with _config() as config:
        script = ScriptDirectory.from_config(config)
        newest = script.get_current_head()
        known = {each.revision for each in script.walk_revisions()}
    if stands != newest and (stands is None or stands in known):
        has = f"revision {stands}" if stands else "no schema yet"
        raise NotApplied(f"the ledger at {where} has {has}, this release needs {newest}; run: {COMMAND}")


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


def _upgrade(connection: Connection) -> None:
    with _config() as config:
        stands = _revision(connection)
        known = {each.revision for each in ScriptDirectory.from_config(config).walk_revisions()}
        if stands is None or stands in known:  # otherwise a newer release was here: leave its schema alone
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


@contextmanager
def _config() -> Iterator[Config]:
    """Without a file: the host's logging and its own Alembic stay as they are."""
    with as_file(files("mm_metering.backends.migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        yield config
