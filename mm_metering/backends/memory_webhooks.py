"""Webhooks that go out, in this process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from mm_metering.backends.collecting import AT_ONCE, Waiting
from mm_metering.backends.memory_audit import MemoryAudit
from mm_metering.backends.webhooks import FAN_OUT_PAGE, SCAN, Claimed, refuse_more
from mm_metering.core.audit import Act, AuditEntry
from mm_metering.core.audited import deliveries_opened, endpoint_disabled
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Delivery, DeliveryState, EndpointRow, Result, deliveries_of, settled
from mm_metering.core.periods import from_micros, micros


class MemoryWebhooks(MemoryAudit):
    """A part of a ledger with a lock and an outbox."""

    _lock: threading.RLock
    _outbox: dict[str, Waiting]

    def __init__(self) -> None:
        super().__init__()
        self._endpoints: dict[str, EndpointRow] = {}
        self._deliveries: dict[str, Delivery] = {}
        self._fanned: set[str] = set()

    async def put_endpoint(
        self, endpoint: EndpointRow, *, instead_of: EndpointRow | None, audit: Sequence[AuditEntry] = ()
    ) -> bool:
        with self._lock:
            stands = self._endpoints.get(endpoint.id)
            if (stands and stands.revision) != (instead_of and instead_of.revision):
                return False
            theirs = [each for each in self._endpoints.values() if each.tenant == endpoint.tenant]
            if stands is None:
                refuse_more(len(theirs))
            self._write_endpoint(endpoint)
            self._note(audit)
            return True

    def _write_endpoint(self, endpoint: EndpointRow) -> None:
        self._endpoints[endpoint.id] = endpoint
        if not endpoint.enabled:
            for each in self._all(lambda each: each.endpoint == endpoint.id and each.state == "pending"):
                changes = {"state": "dead", "next_at": None, "claim": each.claim + 1}
                self._deliveries[each.id] = each.model_copy(update=changes)

    def _all(self, wanted: Callable[[Delivery], bool]) -> list[Delivery]:
        return [each for each in self._deliveries.values() if wanted(each)]

    async def endpoint(self, endpoint_id: str) -> EndpointRow | None:
        with self._lock:
            return self._endpoints.get(endpoint_id)

    async def endpoints(self, tenant: str) -> list[EndpointRow]:
        with self._lock:
            theirs = [each for each in self._endpoints.values() if each.tenant == tenant]
            return sorted(theirs, key=lambda each: (each.created_at, each.id))

    async def put_notice(self, notice: Notice) -> bool:
        with self._lock:
            if notice.id in self._outbox:
                return False
            self._outbox[notice.id] = Waiting(notice, None)
            return True

    async def notice(self, notice_id: str) -> Notice | None:
        with self._lock:
            return self._outbox[notice_id].notice if notice_id in self._outbox else None

    async def fan_out(self, now_us: int) -> int:
        with self._lock:
            fresh = [each.notice for name, each in self._outbox.items() if name not in self._fanned][:FAN_OUT_PAGE]
            for notice in fresh:
                theirs = [each for each in self._endpoints.values() if each.tenant == notice.tenant]
                for each in deliveries_of(notice, theirs, from_micros(now_us)):
                    self._deliveries.setdefault(each.id, each)
                self._fanned.add(notice.id)
            return len(fresh)

    async def claim_deliveries(
        self, now_us: int, *, until_us: int, busy: Sequence[str], per_endpoint: int, limit: int
    ) -> list[Claimed]:
        with self._lock:
            now = from_micros(now_us)
            due = sorted(
                (each.next_at, each.id)
                for each in self._deliveries.values()
                if each.next_at and each.next_at <= now and self._takes(each.endpoint, busy, now_us)
                if each.notice in self._outbox
            )
            taken, found = Counter[str](), list[Claimed]()
            for _, name in due[:SCAN]:
                each = self._deliveries[name]
                endpoint = self._endpoints[each.endpoint]
                most = 1 if endpoint.failing_since else per_endpoint
                if taken[endpoint.id] < most and len(found) < limit:
                    taken[endpoint.id] += 1
                    changes = {"next_at": from_micros(until_us), "claim": each.claim + 1}
                    self._deliveries[name] = each.model_copy(update=changes)
                    found.append(Claimed(self._deliveries[name], endpoint, self._outbox[each.notice].notice))
            return found

    def _takes(self, endpoint_id: str, busy: Sequence[str], now_us: int) -> bool:
        endpoint = self._endpoints[endpoint_id]
        until = endpoint.throttled_until
        return endpoint.enabled and endpoint_id not in busy and (until is None or micros(until) <= now_us)

    async def settle_deliveries(self, results: Sequence[Result], *, act: Act | None = None) -> int:
        with self._lock:
            counted, endpoints = 0, dict(self._endpoints)
            for result in results:
                each = self._deliveries.get(result.delivery)
                if each is None or each.state != "pending" or each.claim != result.claim:
                    continue
                counted += 1
                after = settled(each, endpoints[each.endpoint], result)
                self._deliveries[each.id] = after.delivery
                endpoints[each.endpoint] = after.endpoint
                for notice in after.notices:
                    self._outbox.setdefault(notice.id, Waiting(notice, AT_ONCE))
            for endpoint in endpoints.values():
                if endpoint != self._endpoints[endpoint.id]:
                    self._note(endpoint_disabled(self._endpoints[endpoint.id], endpoint, act))
                    self._write_endpoint(endpoint)
            return counted

    async def open_deliveries(self, deliveries: Sequence[Delivery], *, again: bool, act: Act | None = None) -> int:
        with self._lock:
            opened = list[Delivery]()
            for new in deliveries:
                stands = self._deliveries.get(new.id)
                if stands is None:
                    self._deliveries[new.id] = new
                elif again or stands.state == "dead":
                    changes = {"state": "pending", "next_at": new.next_at, "tries": 0, "claim": stands.claim + 1}
                    self._deliveries[new.id] = stands.model_copy(update=changes)
                else:
                    continue
                opened.append(new)
            self._note(deliveries_opened(sorted(opened, key=lambda each: each.id), act))
            return len(opened)

    async def delivery(self, delivery_id: str) -> Delivery | None:
        with self._lock:
            return self._deliveries.get(delivery_id)

    async def deliveries(
        self,
        tenant: str,
        *,
        endpoint: str | None = None,
        state: DeliveryState | None = None,
        before: tuple[int, str] | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        with self._lock:
            found = {
                (micros(each.occurred_at), each.id): each
                for each in self._deliveries.values()
                if each.tenant == tenant and endpoint in (None, each.endpoint) and state in (None, each.state)
            }
            return [found[key] for key in sorted(found, reverse=True) if before is None or key < before][:limit]

    async def notices_of(
        self, tenant: str, *, start_us: int, end_us: int, after: tuple[int, str] | None = None, limit: int = 500
    ) -> list[Notice]:
        with self._lock:
            found = {
                (micros(each.notice.made_at), name): each.notice
                for name, each in self._outbox.items()
                if each.notice.tenant == tenant and start_us <= micros(each.notice.made_at) < end_us
            }
            return [found[key] for key in sorted(found) if after is None or key > after][:limit]

    async def forget_deliveries(self, *, before_us: int) -> int:
        with self._lock:
            old = self._all(lambda each: micros(each.occurred_at) < before_us)
            for each in old:
                del self._deliveries[each.id]
            self._fanned &= self._outbox.keys()
            return len(old)
