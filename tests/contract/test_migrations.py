"""The migrations, on both databases: what they leave is what the tables module says."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from mm_metering.backends.sql import open_ledger
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.backends.sql.schema import COMMAND, VERSION_TABLE, revisions
from mm_metering.backends.sql.tables import metadata
from mm_metering.errors import InvalidInput, MissingExtra, NotApplied

PARTITIONS = "mm_usage_fact_"
"""Tables of their own for PostgreSQL, parts of one for everybody else."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest_asyncio.fixture
async def ledger(url: str) -> AsyncIterator[SqlLedger]:
    ledger = SqlLedger(url)
    yield ledger
    await ledger.aclose()


async def differences(ledger: SqlLedger) -> list[Any]:
    def compare(connection: Connection) -> list[Any]:
        options = {
            "version_table": VERSION_TABLE,
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, kind, _: not (kind == "table" and name.startswith(PARTITIONS)),
        }
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async def work(tx: Transaction) -> list[Any]:
        return await tx.connection.run_sync(compare)

    return await ledger._store.read(work)


async def execute(ledger: SqlLedger, statement: str) -> None:
    async def work(tx: Transaction) -> None:
        await tx.run(text(statement))

    await ledger._store.write(work)


async def test_the_newest_migration_leaves_the_tables_as_they_are_declared(ledger: SqlLedger) -> None:
    await ledger.setup(apply=True)
    assert await differences(ledger) == []


async def test_the_comparison_sees_a_column_that_no_migration_made(ledger: SqlLedger) -> None:
    await ledger.setup(apply=True)
    await execute(ledger, "ALTER TABLE mm_tenant ADD COLUMN surprise TEXT")
    assert [kind for kind, *_ in await differences(ledger)] == ["remove_column"]


async def test_two_processes_may_migrate_at_once(ledger: SqlLedger, url: str) -> None:
    other = SqlLedger(url)
    await asyncio.gather(ledger.setup(apply=True), other.setup(apply=True))
    await other.aclose()
    assert await differences(ledger) == []


async def test_one_process_may_migrate_several_databases_at_once(tmp_path: Path) -> None:
    ledgers = [SqlLedger(f"sqlite:///{tmp_path}/{number}.db") for number in range(4)]
    await asyncio.gather(*(each.setup(apply=True) for each in ledgers))
    for each in ledgers:
        assert await differences(each) == []
        await each.aclose()


async def test_a_database_without_a_schema_is_refused_with_the_command(ledger: SqlLedger) -> None:
    with pytest.raises(NotApplied, match=f"has no schema yet, this release needs .* run: {COMMAND}"):
        await ledger.setup(apply=False)


async def test_an_older_schema_is_refused_with_its_revision(ledger: SqlLedger) -> None:
    await ledger.setup(apply=True)
    stands = revisions()[-2]
    await execute(ledger, f"UPDATE {VERSION_TABLE} SET version_num = '{stands}'")
    with pytest.raises(NotApplied, match=f"has revision {stands}, this release needs .* run: {COMMAND}"):
        await ledger.setup(apply=False)


def test_the_files_are_named_by_the_revisions_that_alembic_walks() -> None:
    script = ScriptDirectory("mm_metering/backends/migrations")
    assert revisions() == [each.revision for each in script.walk_revisions()][::-1]


async def test_only_migrating_needs_alembic(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    await ledger.setup(apply=True)
    monkeypatch.setitem(sys.modules, "alembic", None)
    await ledger.setup(apply=False)
    await ledger.setup(apply=True)


def test_a_ledger_that_could_not_migrate_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    with pytest.raises(MissingExtra, match=r'pip install "mm-metering\[ledger\]"'):
        open_ledger("sqlite:///never.db")


async def test_a_newer_schema_is_left_alone(ledger: SqlLedger) -> None:
    await ledger.setup(apply=True)
    await execute(ledger, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    await ledger.setup(apply=False)
    await ledger.setup(apply=True)
    assert await differences(ledger) == []


async def test_an_option_of_a_url_is_known_or_said(postgres_url: str) -> None:
    joint = "&" if "?" in postgres_url else "?"
    with pytest.raises(InvalidInput, match="its URL has the option 'connect_timeout'; known: application_name, host"):
        await open_ledger(f"{postgres_url}{joint}connect_timeout=3").setup(apply=True)
    ledger = open_ledger(f"{postgres_url}{joint}application_name=billing")
    await ledger.setup(apply=True)
    names = await ledger._store.read(  # type: ignore[attr-defined]
        lambda tx: tx.all(text("SELECT current_setting('application_name')"))
    )
    assert names[0][0] == "billing"
    await ledger.aclose()
