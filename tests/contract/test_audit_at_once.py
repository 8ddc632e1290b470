"""Forty writers of the audit log at once: one unbroken chain, and none of them meets a deadlock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.sql import engine
from mm_metering.backends.sql.engine import Transaction
from mm_metering.backends.sql.ledger import SqlLedger
from mm_metering.core.audited import audited
from mm_metering.core.books import Account, Entries
from mm_metering.core.tenancy import NewTenant
from mm_metering.core.timeline import StateChange
from mm_metering.errors import StoreUnavailable
from mm_metering.testing.accounts_contract import FREE, a_grant, open_accounts
from mm_metering.testing.audit_contract import KEYS, NOW_US, an_act, an_entry, the_chain
from mm_metering.testing.webhooks_contract import an_endpoint

WRITERS = 40


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/ledger.db"


async def test_many_at_once_make_one_chain_without_a_deadlock(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncExitStack() as stack:
        ledgers = [SqlLedger(url) for _ in range(2)]
        for each in ledgers:
            stack.push_async_callback(each.aclose)
            await each.setup(apply=True)
            each.use_audit_keys(KEYS)
        await open_accounts(ledgers[0])
        monkeypatch.setattr(engine, "RETRY_PAUSES_S", ())  # whoever loses a race, or a deadlock, fails

        async def one(number: int) -> None:
            ledger, tenant = ledgers[number % 2], ("acme", "beta", f"t{number}")[number % 3]
            new = NewTenant(tenant, tax_rate=f"0.{number + 1:03}")
            change = StateChange(NOW_US + number, ("pause", "resume")[number % 2])
            endpoint = an_endpoint(f"ep_{number}")
            granted = Entries(grants=(a_grant(f"cg_{number}", tenant=tenant),))
            await ledger.put_tenant(new, defaults=FREE, now_us=NOW_US, act=an_act())
            await ledger.change_subscription(tenant, change, now_us=NOW_US, act=an_act())
            await ledger.book(["acme", "beta", tenant], Wanted(), audited(_of(tenant, granted), an_act()))
            assert await ledger.put_endpoint(endpoint, instead_of=None, audit=[an_entry(f"e{number}")])

        await asyncio.gather(*map(one, range(WRITERS)))
        links = await the_chain(ledgers[0], size=50)
        actions = [each.action for each in links]
        assert (actions.count("credit granted"), actions.count("invoice voided")) == (WRITERS, WRITERS)
        assert len({each.id for each in links}) == len(links) > 3 * WRITERS


def _of(tenant: str, entries: Entries) -> Callable[[Account], Entries]:
    return lambda account: entries if account.tenant.id == tenant else Entries()


@pytest.mark.parametrize("statement", ["UPDATE mm_audit_log SET actor = 'x'", "DELETE FROM mm_audit_log"])
async def test_entries_are_neither_changed_nor_deleted(url: str, statement: str) -> None:
    ledger = SqlLedger(url)
    await ledger.setup(apply=True)
    await ledger.add_audit([an_entry("a1")])

    async def work(tx: Transaction) -> None:
        await tx.run(text(statement))

    with pytest.raises(StoreUnavailable, match="entries are neither changed nor deleted"):
        await ledger._store.write(work)
    assert list(await ledger.audit()) == [an_entry("a1")]
    await ledger.aclose()
