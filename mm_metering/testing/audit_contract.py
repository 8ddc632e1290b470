"""The law of ``Audited`` as tests: a part of ``LedgerContract``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.collecting import Mute
from mm_metering.backends.ledger import Ledger
from mm_metering.core.audit import Act, AuditEntry
from mm_metering.core.audit_chain import Head, Link, Outside, Walk
from mm_metering.core.audited import audited
from mm_metering.core.books import Account, Entries
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import NewTenant
from mm_metering.core.timeline import PlanChange, StateChange
from mm_metering.errors import WrongState
from mm_metering.testing.accounts_contract import FREE, THEN, a_grant, an_invoice, open_accounts

KEYS = {"k1": b"1" * 32}
NOW_US = micros(THEN)
_IDS = count(1)


def an_act(actor: str = "ann", reason: str = "ticket 12") -> Act:
    return Act(actor, THEN, lambda: f"a{next(_IDS):06}", reason)


def an_entry(name: str, second: int = 0) -> AuditEntry:
    at = THEN + timedelta(seconds=second)
    return AuditEntry(name, "acme", at, "ann", "invoice voided", "inv_1", "", '{"a": 1}', '{"a": 2}', "why é")


async def the_chain(ledger: Ledger, size: int = 3) -> list[Link]:
    """All of it, page by page; what is wrong with it is an error."""
    links, after, outside = list[Link](), (0, ""), Outside()
    outside.add(await ledger.audit_outside())
    walk = Walk(KEYS, outside=outside)
    while True:
        page, head = await ledger.audit_links(after=after, limit=size)
        links += page
        wrong = [*walk.page(page)]
        if len(page) < size:
            assert [*wrong, *walk.end(head)] == []
            return links
        assert wrong == []
        after = (page[-1].seq or 0, page[-1].id)


Acts = Callable[[Ledger, Act | None], Awaitable[Any]]

ACTS: dict[str, Acts] = {
    "tenant created": lambda ledger, act: ledger.put_tenant(
        NewTenant("gamma", "pro", 1), defaults=FREE, now_us=NOW_US, act=act
    ),
    "tenant changed": lambda ledger, act: ledger.put_tenant(
        NewTenant("acme", tax_rate="0.19"), defaults=FREE, now_us=NOW_US, act=act
    ),
    "plan changed": lambda ledger, act: ledger.change_subscription("acme", PlanChange(NOW_US, "pro", 3), act=act),
    "subscription: pause": lambda ledger, act: ledger.change_subscription(
        "acme", StateChange(NOW_US, "pause"), act=act
    ),
    "plan stored": lambda ledger, act: ledger.put_plans({"pro": {"price": "9"}}, now_us=NOW_US, act=act),
    "alerts muted": lambda ledger, act: ledger.put_mute(Mute("quota", "acme", 5), act=act),
    "payer linked": lambda ledger, act: ledger.link_payer("acme", "cus_1", act=act),
    "credit granted": lambda ledger, act: ledger.book(["acme"], Wanted(), _granting(act)),
}
"""What changes something the first time, and nothing the second time."""


def _granting(act: Act | None) -> Callable[[Account], Entries]:
    def decide(account: Account) -> Entries:
        return Entries() if account.grants else Entries(grants=(a_grant("cg_1"),))

    return audited(decide, act) if act else decide


class AuditContract:
    """Each test quotes one law."""

    async def test_entries_are_read_newest_first_and_by_tenant(self, ledger: Ledger) -> None:
        entries = [an_entry(f"a{number}", number) for number in range(3)]
        house = an_entry("h")._replace(tenant="")
        await ledger.add_audit([])
        await ledger.add_audit([*entries, house])
        assert list(await ledger.audit(limit=2)) == [entries[2], entries[1]]
        assert list(await ledger.audit(tenant="acme")) == entries[::-1]
        assert list(await ledger.audit(tenant="")) == [house]

    async def test_entries_are_links_of_one_chain_signed_with_the_first_key(self, ledger: Ledger) -> None:
        assert await ledger.audit_links() == ([], Head())
        ledger.use_audit_keys(KEYS)
        for number in range(7):
            await ledger.add_audit([an_entry(f"a{number}"), an_entry(f"b{number}")])
        links = await the_chain(ledger)
        assert [each.seq for each in links] == [*range(1, 15)]
        assert {each.kid for each in links} == {"k1"}
        assert links[2].entry == an_entry("a1")
        assert await ledger.audit_links(after=(9, "a4"), limit=2) == (links[9:11], Head(14, links[-1].mac))
        assert await ledger.audit_links(after=(14, links[-1].id)) == ([], Head(14, links[-1].mac))
        assert await ledger.audit_outside() == []

    async def test_an_act_is_an_entry_where_it_changes_something(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        ledger.use_audit_keys(KEYS)
        for done, (action, act) in enumerate(ACTS.items(), 1):
            for _ in range(2):
                await act(ledger, an_act())
            (entry, *others) = [each.entry for each in reversed(await the_chain(ledger))]
            assert (entry.actor, entry.action, entry.at, entry.reason) == ("ann", action, THEN, "ticket 12")
            before, after = (json.loads(text or "{}") for text in (entry.before, entry.after))
            assert after
            assert all(before[name] != after[name] for name in before)
            assert len(others) == done - 1

    async def test_without_an_act_nothing_is_said(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        for act in ACTS.values():
            await act(ledger, None)
        assert list(await ledger.audit()) == []

    async def test_what_fails_leaves_no_entry(self, ledger: Ledger) -> None:
        await open_accounts(ledger)

        def fails(account: Account) -> Entries:
            if account.tenant.id == "beta":
                raise WrongState("no", state="no")
            return Entries(invoices=(an_invoice(),))

        with pytest.raises(WrongState):
            await ledger.book(["acme", "beta"], Wanted(), audited(fails, an_act()))
        assert list(await ledger.audit()) == []
        assert await ledger.audit_links() == ([], Head())
