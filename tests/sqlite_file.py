"""A file per test that SQLite's migrations have run on once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import pytest_asyncio

from mm_metering.backends.sql.ledger import SqlLedger


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "ledger.db"
    ledger = SqlLedger(f"sqlite:///{file}")
    await ledger.setup(apply=True)
    await ledger.aclose()
    return file


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """A file of its own for each test, with the newest schema."""
    return f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'ledger.db')}"
