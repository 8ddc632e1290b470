"""Tenants' own keys, and forgetting a tenant, in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mm_metering.backends.collecting import AT_ONCE, Mute, Waiting
from mm_metering.backends.privacy import SEALED, Forgotten, KeyRow
from mm_metering.backends.work import Alert
from mm_metering.core.audit import AuditEntry
from mm_metering.core.collecting import FINAL, Collection, changed_notice
from mm_metering.core.deliveries import Delivery, EndpointRow
from mm_metering.core.facts import Fact
from mm_metering.core.tenancy import TenantRow


class MemoryPrivacy:
    """A part of a ledger with a lock, and all that it forgets."""

    _lock: threading.RLock
    _endpoints: dict[str, EndpointRow]
    _deliveries: dict[str, Delivery]
    _outbox: dict[str, Waiting]
    _note: Callable[[Iterable[AuditEntry]], None]
    _mutes: dict[tuple[str, str], Mute]
    _alerts: dict[tuple[str, str], Alert]
    _closed: list[Alert]
    _payers: dict[str, str]
    _collections: dict[str, Collection]
    _claims: dict[tuple[str, str], Any]

    def __init__(self) -> None:
        super().__init__()
        self._keys: dict[str, str] = {}

    def _row_of(self, tenant: str) -> TenantRow | None:
        raise NotImplementedError

    def _set_forgotten(self, tenant: str, now_us: int) -> TenantRow:
        """As it stands then; UnknownTenant."""
        raise NotImplementedError

    def _blank(self, tenant: str, shard: int, wanted: Callable[[Fact], bool]) -> int:
        """Takes the metadata off facts, and changes every digest alike; how many."""
        raise NotImplementedError

    async def tenant_key(self, tenant: str) -> str | None:
        with self._lock:
            return self._keys.get(tenant)

    async def put_tenant_key(self, new: KeyRow, *, instead_of: str | None) -> bool:
        with self._lock:
            row = self._row_of(new.tenant)
            if self._keys.get(new.tenant) != instead_of or (row is not None and row.forgotten_us):
                return False
            self._keys[new.tenant] = new.sealed
            return True

    async def tenant_keys(self, *, after: str = "", limit: int = 1000) -> list[KeyRow]:
        with self._lock:
            return [KeyRow(*each) for each in sorted(self._keys.items()) if each[0] > after][:limit]

    async def every_endpoint(self, *, after: str = "", limit: int = 1000) -> list[EndpointRow]:
        with self._lock:
            return [self._endpoints[name] for name in sorted(self._endpoints) if name > after][:limit]

    async def forget_tenant(
        self, tenant: str, *, now_us: int, shard: int, audit: Sequence[AuditEntry] = ()
    ) -> Forgotten:
        with self._lock:
            before = self._row_of(tenant)
            after = self._set_forgotten(tenant, now_us)
            facts = self._blank(tenant, shard, _is_stated)
            told = changed_notice(after, now_us, now_us)
            notices = _gone(self._outbox, lambda name, each: each.notice.tenant == tenant and name != told.id)
            endpoints = _gone(self._endpoints, lambda _, each: each.tenant == tenant)
            deliveries = _gone(self._deliveries, lambda _, each: each.tenant == tenant)
            event_ids = _gone(self._claims, lambda key, _: key[0] == tenant)
            _gone(self._mutes, lambda key, _: key[1] == tenant)
            subjects = {tenant, *notices, *endpoints}
            _gone(self._alerts, lambda key, _: key[1] in subjects)
            self._closed = [each for each in self._closed if each.subject not in subjects]
            self._keys.pop(tenant, None)
            if all(each.state in FINAL for each in self._collections.values() if each.tenant == tenant):
                self._payers.pop(tenant, None)
            if after != before:
                self._outbox[told.id] = Waiting(told, AT_ONCE)
            self._note(audit)
            return Forgotten(after, facts, len(endpoints), len(deliveries), len(notices), len(event_ids))


def _is_stated(fact: Fact) -> bool:
    """Others' metadata is the house's own: numbers and states."""
    return fact.kind in ("use", "set") and fact.metadata is not None and not fact.metadata.startswith(SEALED)


def _gone(values: dict[Any, Any], is_theirs: Callable[[Any, Any], bool]) -> list[Any]:
    """The keys that are taken out."""
    found = [key for key, value in values.items() if is_theirs(key, value)]
    for key in found:
        del values[key]
    return found
