"""The ledger's contract on memory, a SQLite file and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.sql import open_ledger
from mm_metering.testing.ledger_contract import LedgerContract


class TestMemory(LedgerContract):
    @pytest_asyncio.fixture
    async def ledger(self) -> AsyncIterator[Ledger]:
        yield open_ledger("memory://")


class TestSqlite(LedgerContract):
    @pytest_asyncio.fixture
    async def ledger(self, sqlite_url: str) -> AsyncIterator[Ledger]:
        ledger = open_ledger(sqlite_url)
        await ledger.setup(apply=True)
        yield ledger
        await ledger.aclose()


class TestPostgres(LedgerContract):
    @pytest_asyncio.fixture
    async def ledger(self, postgres_url: str) -> AsyncIterator[Ledger]:
        ledger = open_ledger(postgres_url)
        await ledger.setup(apply=True)
        yield ledger
        await ledger.aclose()
