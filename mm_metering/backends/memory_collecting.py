"""What a ledger in this process keeps between us and the payment provider."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import islice

from mm_metering.backends.collecting import AT_ONCE, Hint, Mute, Waiting
from mm_metering.backends.memory_audit import MemoryAudit
from mm_metering.core.audit import Act
from mm_metering.core.audited import mute_put
from mm_metering.core.books import Entries
from mm_metering.core.collecting import Collection, Notice
from mm_metering.core.invoices import Invoice
from mm_metering.core.periods import micros


class MemoryCollecting(MemoryAudit):
    """A part of a ledger with a lock, invoices and payers."""

    _lock: threading.RLock
    _invoices: dict[str, Invoice]
    _payers: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        self._collections: dict[str, Collection] = {}
        self._hints: dict[str, Hint] = {}
        self._outbox: dict[str, Waiting] = {}
        self._mutes: dict[tuple[str, str], Mute] = {}

    def _write_collecting(self, entries: Entries) -> None:
        self._collections |= {each.invoice: each for each in entries.collections}
        for each in entries.notices:
            self._outbox.setdefault(each.id, Waiting(each, AT_ONCE))
        self._note(entries.audit)

    async def uncollected(self, *, limit: int) -> list[Invoice]:
        with self._lock:
            found = [
                each
                for each in self._invoices.values()
                if each.status == "finalized" and each.tenant in self._payers and each.id not in self._collections
            ]
            return sorted(found, key=lambda each: (each.tenant, each.period))[:limit]

    async def collections(
        self,
        *,
        tenant: str | None = None,
        period: str | None = None,
        state: str | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[Collection]:
        with self._lock:
            wanted = (
                each
                for _, each in sorted(self._collections.items())
                if each.invoice > after
                and tenant in (None, each.tenant)
                and period in (None, each.period)
                and state in (None, each.state)
            )
            return list(islice(wanted, limit))

    async def collections_due(self, now_us: int, *, limit: int) -> list[Collection]:
        with self._lock:
            found = [
                (micros(each.next_at), each.invoice)
                for each in self._collections.values()
                if each.next_at and micros(each.next_at) <= now_us
            ]
            return [self._collections[invoice] for _, invoice in sorted(found)[:limit]]

    async def collection(self, invoice_id: str) -> Collection | None:
        with self._lock:
            return self._collections.get(invoice_id)

    async def collection_at(self, provider_invoice: str) -> Collection | None:
        with self._lock:
            having = (each for each in self._collections.values() if each.provider_invoice == provider_invoice)
            return next(having, None)

    async def put_hint(self, hint: Hint) -> bool:
        with self._lock:
            return self._hints.setdefault(hint.id, hint) is hint

    async def hints_due(self, now_us: int, *, limit: int) -> list[Hint]:
        with self._lock:
            found = [(each.next_us, each.id) for each in self._hints.values() if each.next_us is not None]
            return [self._hints[name] for next_us, name in sorted(found) if next_us <= now_us][:limit]

    async def move_hint(self, hint: Hint) -> None:
        with self._lock:
            self._hints[hint.id] = self._hints[hint.id]._replace(next_us=hint.next_us, tries=hint.tries, note=hint.note)

    async def forget_hints(self, *, before_us: int) -> int:
        with self._lock:
            old = [each.id for each in self._hints.values() if each.next_us is None and each.stored_us < before_us]
            for name in old:
                del self._hints[name]
            return len(old)

    async def notices_due(self, now_us: int, *, limit: int) -> list[Waiting]:
        with self._lock:
            found = [
                (each.next_us, each.notice.made_at, name)
                for name, each in self._outbox.items()
                if each.next_us is not None and each.next_us <= now_us
            ]
            return [self._outbox[name] for *_, name in sorted(found)[:limit]]

    async def notices(self, *, tenant: str | None = None, limit: int = 1000) -> list[Notice]:
        with self._lock:
            theirs = [each.notice for each in self._outbox.values() if tenant in (None, each.notice.tenant)]
            return sorted(theirs, key=lambda each: (each.made_at, each.id), reverse=True)[:limit]

    async def add_notices(self, notices: Sequence[Notice]) -> list[Notice]:
        with self._lock:
            new = [each for each in {each.id: each for each in notices}.values() if each.id not in self._outbox]
            self._outbox |= {each.id: Waiting(each, AT_ONCE) for each in new}
            return new

    async def put_mute(self, mute: Mute, *, act: Act | None = None) -> None:
        with self._lock:
            before = self._mutes.get((mute.rule, mute.tenant))
            self._mutes[mute.rule, mute.tenant] = mute
            self._note(mute_put(mute.rule, mute.tenant, before and before.until_us, mute.until_us, act))

    async def mutes(self, now_us: int) -> list[Mute]:
        with self._lock:
            return [each for _, each in sorted(self._mutes.items()) if each.until_us > now_us]

    async def move_notice(self, notice_id: str, *, next_us: int | None, tries: int) -> None:
        with self._lock:
            self._outbox[notice_id] = self._outbox[notice_id]._replace(next_us=next_us, tries=tries)

    async def forget_notices(self, *, before_us: int) -> int:
        with self._lock:
            old = [name for name, each in self._outbox.items() if micros(each.notice.made_at) < before_us]
            for name in old:
                del self._outbox[name]
            return len(old)
