"""Third parties' counters, ledger and provider, each held to its law by a subclass."""

from __future__ import annotations

import pytest

from mm_metering.backends.counters import Counters
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.memory import MemoryCounters
from mm_metering.backends.sql import open_ledger
from mm_metering.billing.adapter import BillingAdapter
from mm_metering.billing.mock import MockBillingAdapter
from mm_metering.testing import BillingAdapterContract, CountersContract, LedgerContract


class MyCounters(MemoryCounters):
    """Somebody's own."""


class MyProvider(MockBillingAdapter):
    """Somebody's own."""


class TestMyCounters(CountersContract):
    @pytest.fixture
    async def counters(self) -> Counters:
        return MyCounters()


class TestMyLedger(LedgerContract):
    @pytest.fixture
    async def ledger(self) -> Ledger:
        return open_ledger("memory://")


class TestMyProvider(BillingAdapterContract):
    @pytest.fixture
    def adapter(self) -> BillingAdapter:
        return MyProvider()
