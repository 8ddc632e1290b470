"""The law of ``Collecting`` as tests: a part of ``LedgerContract``."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.collecting import Hint, Mute
from mm_metering.backends.ledger import Ledger
from mm_metering.core import collecting
from mm_metering.core.audit import AuditEntry
from mm_metering.core.books import Account, Entries
from mm_metering.core.collecting import Collection, Notice
from mm_metering.core.dunning import Dunning
from mm_metering.core.periods import micros
from mm_metering.core.timeline import StateChange
from mm_metering.testing.accounts_contract import THEN, an_invoice, book, open_accounts

ALL = Wanted(collections=True)


def a_collection(name: str = "inv_1", **changes: Any) -> Collection:
    return collecting.begin(an_invoice(name, status="finalized"), THEN).model_copy(update=changes)


def a_notice(name: str, tenant: str = "acme", at: datetime = THEN) -> Notice:
    return Notice(name, tenant, "payment.failed", {"invoice": "inv_1", "attempt": 1, "next_attempt_at": None}, at)


def a_hint(name: str, next_us: int | None = 5) -> Hint:
    return Hint(name, "invoice.paid", "invoice", "in_1", happened_us=1, stored_us=2, next_us=next_us)


class CollectingContract:
    """Each test quotes one law."""

    async def test_only_finalized_invoices_of_payers_that_are_not_collected_yet_are_uncollected(
        self, ledger: Ledger
    ) -> None:
        await open_accounts(ledger)
        drafts = (an_invoice("inv_1"), an_invoice("inv_2", period="2024-02", status="paid"))
        due = (
            an_invoice("inv_3", period="2023-12", status="finalized"),
            an_invoice("inv_4", tenant="beta", status="finalized"),
        )
        await book(ledger, Entries(invoices=(*drafts, *due)))
        assert await ledger.uncollected(limit=9) == []
        await ledger.link_payer("acme", "cus_1")
        assert await ledger.uncollected(limit=9) == [due[0]]
        await ledger.link_payer("beta", "cus_2")
        assert await ledger.uncollected(limit=9) == list(due)
        await book(ledger, Entries(collections=(a_collection("inv_3"),)))
        assert await ledger.uncollected(limit=9) == [due[1]]

    async def test_collections_are_found_as_they_were_written(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        first = a_collection()
        assert await ledger.collection("inv_1") is None
        issued = collecting.issued(first, "in_1", THEN).collection
        tried = collecting.attempting(issued, THEN).collection
        failed = collecting.declined(tried, "insufficient_funds", THEN, Dunning()).collection
        other = a_collection("inv_2", due_at=None)
        for each in (first, issued, tried, failed, other):
            await book(ledger, Entries(collections=(each,)))
            assert await ledger.collection(each.invoice) == each
        assert (await ledger.collection_at("in_1"), await ledger.collection_at("in_2")) == (failed, None)
        assert await ledger.collections() == [failed, other]
        assert await ledger.collections(after="inv_1") == [other]
        assert await ledger.collections(tenant="beta") == await ledger.collections(period="2024-02") == []
        assert await ledger.collections(state="failing", tenant="acme", period="2024-01") == [failed]
        account = await ledger.account("acme", ALL)
        assert account is not None
        assert list(account.collections) == [failed, other]

    async def test_the_longest_due_come_first(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        late, soon = a_collection("inv_2"), a_collection("inv_1", due_at=THEN + timedelta(seconds=1))
        done = a_collection("inv_3", due_at=None)
        await book(ledger, Entries(collections=(soon, late, done)))
        assert await ledger.collections_due(micros(THEN), limit=9) == [late]
        assert await ledger.collections_due(micros(THEN) + 1_000_000, limit=9) == [late, soon]
        assert await ledger.collections_due(micros(THEN) + 1_000_000, limit=1) == [late]

    async def test_what_is_booked_together_is_there_together_or_not_at_all(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        entry = AuditEntry("a1", "acme", THEN, "worker", "collection failing", "inv_1", "é")
        whole = Entries(
            collections=(a_collection(),),
            notices=(a_notice("n1"),),
            audit=(entry,),
            change=StateChange(micros(THEN), "suspend"),
        )

        def fails(_: Account) -> Entries:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            await ledger.book(
                ["acme", "beta"], ALL, lambda account: whole if account.tenant.id == "acme" else fails(account)
            )
        assert (await ledger.collections(), await ledger.notices(), list(await ledger.audit())) == ([], [], [])
        await book(ledger, whole)
        assert (await ledger.notices(), list(await ledger.audit(tenant="acme"))) == ([a_notice("n1")], [entry])
        assert list(await ledger.audit(tenant="beta")) == []
        row = await ledger.tenant("acme")
        assert row is not None
        assert row.segment_at(micros(THEN)).status == "unpaid"

    async def test_a_hint_comes_once_and_waits_until_it_is_done(self, ledger: Ledger) -> None:
        assert [await ledger.put_hint(each) for each in (a_hint("evt_2"), a_hint("evt_1"), a_hint("evt_1", 9))] == [
            True,
            True,
            False,
        ]
        assert await ledger.hints_due(4, limit=9) == []
        assert await ledger.hints_due(5, limit=9) == [a_hint("evt_1"), a_hint("evt_2")]
        await ledger.move_hint(a_hint("evt_1", 7)._replace(tries=1, note="later"))
        await ledger.move_hint(a_hint("evt_2", None))
        assert await ledger.hints_due(7, limit=9) == [a_hint("evt_1", 7)._replace(tries=1, note="later")]
        assert [await ledger.forget_hints(before_us=each) for each in (2, 3, 3)] == [0, 1, 0]
        assert not await ledger.put_hint(a_hint("evt_1"))
        assert await ledger.put_hint(a_hint("evt_2"))

    async def test_a_notice_goes_out_in_order_and_once(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        later = a_notice("n0", "beta", THEN + timedelta(seconds=1))
        await book(ledger, Entries(notices=(later, a_notice("n2"))), Entries(notices=(a_notice("n2"), a_notice("n1"))))
        now_us = micros(THEN)
        assert [each.notice.id for each in await ledger.notices_due(now_us, limit=9)] == ["n1", "n2", "n0"]
        assert [each.notice.id for each in await ledger.notices_due(now_us, limit=2)] == ["n1", "n2"]
        await ledger.move_notice("n1", next_us=now_us + 5_000_000, tries=1)
        await ledger.move_notice("n2", next_us=None, tries=0)
        due = await ledger.notices_due(now_us + 5_000_000, limit=9)
        assert [(each.notice.id, each.tries) for each in due] == [("n0", 0), ("n1", 1)]
        assert await ledger.notices(limit=2) == [later, a_notice("n2")]
        assert await ledger.notices(tenant="beta") == [later]
        assert await ledger.forget_notices(before_us=now_us + 1) == 2
        assert await ledger.notices() == [later]

    async def test_a_notice_is_added_once_by_its_id_whoever_adds_it(self, ledger: Ledger) -> None:
        one, two = a_notice("n1"), a_notice("n2", tenant="")
        assert await ledger.add_notices([]) == []
        assert await ledger.add_notices([one, one]) == [one]
        assert await ledger.add_notices([one._replace(data={"other": 1}), two]) == [two]
        assert [each.notice for each in await ledger.notices_due(micros(THEN), limit=9)] == [one, two]
        assert await ledger.notices(tenant="") == [two]

    async def test_a_mute_holds_until_its_end_and_the_last_word_counts(self, ledger: Ledger) -> None:
        await ledger.put_mute(Mute("quota", "acme", 10))
        await ledger.put_mute(Mute("*", "*", 30))
        await ledger.put_mute(Mute("quota", "acme", 20))
        assert await ledger.mutes(19) == [Mute("*", "*", 30), Mute("quota", "acme", 20)]
        assert await ledger.mutes(20) == [Mute("*", "*", 30)]
