"""The law of ``overview`` as tests: a part of ``LedgerContract``."""

from __future__ import annotations

from datetime import timedelta

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.overview import Overview, Queue
from mm_metering.backends.work import DEAD_LETTERS, Alert, Lease, Run
from mm_metering.core.books import Entries
from mm_metering.core.facts import Fact
from mm_metering.core.periods import micros
from mm_metering.testing.accounts_contract import an_invoice, book, open_accounts
from mm_metering.testing.collecting_contract import a_hint, a_notice
from mm_metering.testing.webhooks_contract import NOW, an_endpoint, an_event, told
from mm_metering.testing.work_contract import LETTER, fold, use

TAKEN_US = 1_705_320_000_000_000
NOTHING = Overview((), {}, (), 0, (), {}, Queue(), Queue(), Queue(), Queue(), 0)


class OverviewContract:
    """Each test quotes one law."""

    async def test_an_empty_house_shows_nothing(self, ledger: Ledger) -> None:
        assert await ledger.overview() == NOTHING

    async def test_what_workers_leave_is_seen(self, ledger: Ledger) -> None:
        await fold(ledger, after="5-0", facts=[use("a")], dead=[LETTER])
        await fold(ledger, shard=2, after="7-1")
        await ledger.hold("w", take=[Lease("worker:w", "", 0), Lease("shard:0", "", 0)])
        for job, period, state in (("j", 60, "done"), ("j", 120, "waiting"), ("i", 60, "failed")):
            run = Run(job, period, state, 1, tries=2, error="why")  # type: ignore[arg-type]
            assert await ledger.put_run(run, instead_of=Run(job, period))
        seen = await ledger.overview()
        assert [(each.name, each.owner) for each in seen.leases] == [("shard:0", "w"), ("worker:w", "w")]
        assert seen.positions == {0: (1, "5-0"), 2: (1, "7-1")}
        assert [(run.job, run.period_us, run.state) for run in seen.runs] == [
            ("i", 60, "failed"),
            ("j", 120, "waiting"),
        ]
        assert seen.dead_letters == 1
        assert seen.alerts == (Alert(DEAD_LETTERS, "0", LETTER.stored_us, None, LETTER.reason),)

    async def test_invoices_of_the_newest_months_are_counted_by_status(self, ledger: Ledger) -> None:
        await open_accounts(ledger)
        months = ("2023-11", "2023-12", "2024-01")
        made = [an_invoice(f"inv_{month}", period=month) for month in months]
        paid = an_invoice("inv_paid", period="2024-01", issue=2, status="paid")
        await book(ledger, Entries(invoices=(*made, paid)))
        assert (await ledger.overview()).invoices == {"2024-01": {"draft": 1, "paid": 1}, "2023-12": {"draft": 1}}

    async def test_endpoints_that_the_house_has_switched_off_are_counted(self, ledger: Ledger) -> None:
        for number, why in enumerate(("by hand", "gone", "failing", "")):
            row = an_endpoint(f"ep_{number}", enabled=not why, why_disabled=why)
            assert await ledger.put_endpoint(row, instead_of=None)
        assert (await ledger.overview()).endpoints_off == 2

    async def test_what_waits_is_counted_from_its_oldest_on(self, ledger: Ledger) -> None:
        hold = Fact("h", TAKEN_US, "hold", "acme", "ai_hold", "gpt", 1, 5, (), target=None)
        close = Fact("c", TAKEN_US + 9, "close", "acme", "ai_call", "gpt", 1, 5, (), target="h")
        await fold(ledger, facts=[hold, hold._replace(id="h2", occurred_us=TAKEN_US + 1), close])
        await told(ledger, an_event(), an_event("evt_2", at=NOW + timedelta(seconds=1)))
        await ledger.add_notices([a_notice("n")])
        await ledger.put_hint(a_hint("done", None))
        await ledger.put_hint(a_hint("due", 7))
        seen = await ledger.overview()
        assert seen.holds == Queue(1, TAKEN_US + 1)
        assert (seen.deliveries.waiting, seen.hints) == (2, Queue(1, 7))
        assert seen.deliveries.oldest_us == micros(NOW)
        assert seen.notices.waiting == 1
