"""What is encrypted at rest, under which key; and a tenant's data, handed out or destroyed.

Owns: the order in which a tenant is forgotten, what an export holds, sealing anew under a newer key.
Does not own: what the ledger deletes (``backends/privacy``), how a text is sealed (``vault``, ``gate/keyring``).
Invariants: each step may be repeated; a row is sealed anew only as it was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.counters import Counters
from mm_metering.backends.ledger import Ledger
from mm_metering.backends.privacy import Forgotten, KeyRow, key_place, secret_place
from mm_metering.backends.work import FIRST_LETTER
from mm_metering.clock import Clock
from mm_metering.core.audit import Act
from mm_metering.core.cards import refuse_card
from mm_metering.core.collecting import FINAL
from mm_metering.core.deliveries import EndpointRow
from mm_metering.core.facts import Fact, tenant_of_line
from mm_metering.core.identity import tenant_id
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import TenantDefaults, TenantRow
from mm_metering.errors import ChangedMeanwhile, InvalidInput, UnknownTenant
from mm_metering.gate.gate import Gate
from mm_metering.gate.keyring import Keyring
from mm_metering.vault import Vault, key_id_of

PAGE: Final = 500
MAX_REASON: Final = 500
MOST_TRIES: Final = 5
Progress = Callable[[int], None]


class KeyUse(NamedTuple):
    """How many stored values one key has sealed. ``is_here`` False: it is not among the house's keys, and they cannot
    be read; ``is_newest``: it is the one that seals now."""

    key_id: str
    values: int
    is_here: bool
    is_newest: bool


class Rotated(NamedTuple):
    """``values`` were sealed anew; ``missing`` has the ids of keys that were not here, and how many values need
    each."""

    values: int
    missing: Mapping[str, int]


class SealedValues:
    """All that the vault has sealed in a ledger."""

    def __init__(self, ledger: Ledger, vault: Vault) -> None:
        self._ledger = ledger
        self._vault = vault

    async def keys(self) -> list[KeyUse]:
        """The newest key first, then the older ones, then those that are missing."""
        uses = Counter[str]()
        async for row in self._tenant_keys():
            uses[key_id_of(row.sealed)] += 1
        async for endpoint in self._endpoints():
            uses.update(key_id_of(each.text) for each in endpoint.secrets)
        here = self._vault.key_ids
        names = (*here, *sorted(uses.keys() - set(here)))
        return [KeyUse(each, uses[each], each in here, each in here[:1]) for each in names]

    async def rotate(self, progress: Progress) -> Rotated:
        """Seals anew, under the newest key, what an older one has sealed: one row at a time, only where nobody else has
        changed it meanwhile, so that apps go on and a run that was ended is simply run again."""
        if not self._vault.key_ids:
            raise InvalidInput("secret_key", "is not set: there is no key to seal with")
        done, missing = 0, Counter[str]()
        async for row in self._tenant_keys():
            done += await self._tenant_key_anew(row, missing)
            progress(done)
        async for endpoint in self._endpoints():
            done += await self._endpoint_anew(endpoint, missing)
            progress(done)
        return Rotated(done, dict(missing))

    async def _tenant_key_anew(self, row: KeyRow, missing: Counter[str]) -> int:
        if self._is_done([row.sealed], missing):
            return 0
        new = row._replace(sealed=self._anew(row.sealed, key_place(row.tenant)))
        return int(await self._ledger.put_tenant_key(new, instead_of=row.sealed))

    async def _endpoint_anew(self, row: EndpointRow, missing: Counter[str]) -> int:
        """Where it changes meanwhile it is read again: its secrets may be the same still."""
        stands: EndpointRow | None = row
        for _ in range(MOST_TRIES):
            if stands is None or self._is_done([each.text for each in stands.secrets], missing):
                return 0
            place = secret_place(stands.id)
            secrets = tuple(each.model_copy(update={"text": self._anew(each.text, place)}) for each in stands.secrets)
            if await self._ledger.put_endpoint(stands.changed(secrets=secrets), instead_of=stands):
                return len(secrets)
            stands = await self._ledger.endpoint(stands.id)
        raise ChangedMeanwhile(f"endpoint {row.id} keeps changing; rotate again", state="changing")

    def _is_done(self, sealed: Sequence[str], missing: Counter[str]) -> bool:
        """Whether nothing of it can or need be sealed anew."""
        unknown = [name for each in sealed if (name := key_id_of(each)) not in self._vault.key_ids]
        missing.update(unknown)
        return bool(unknown) or all(map(self._vault.is_newest, sealed))

    def _anew(self, sealed: str, place: Any) -> str:
        return self._vault.seal(self._vault.open(sealed, place), place)

    async def _tenant_keys(self) -> AsyncIterator[KeyRow]:
        after = ""
        while page := await self._ledger.tenant_keys(after=after, limit=PAGE):
            for row in page:
                yield row
            after = page[-1].tenant

    async def _endpoints(self) -> AsyncIterator[EndpointRow]:
        after = ""
        while page := await self._ledger.every_endpoint(after=after, limit=PAGE):
            for row in page:
                yield row
            after = page[-1].id


class TenantData:
    """All that is kept of a tenant."""

    def __init__(
        self,
        ledger: Ledger,
        counters: Counters,
        gate: Gate,
        *,
        keyring: Keyring,
        clock: Clock,
        flush: Callable[[str], Awaitable[None]],
        end_holds: Callable[[Iterable[Fact]], Awaitable[None]],
        delete_customer: Callable[[str], Awaitable[None]],
        act: Callable[[], Act],
    ) -> None:
        self._ledger = ledger
        self._counters = counters
        self._gate = gate
        self._keyring = keyring
        self._clock = clock
        self._flush = flush
        self._end_holds = end_holds
        self._delete_customer = delete_customer
        self._act = act

    # -- forgetting ---------------------------------------------------------------------------------------------------

    async def forget(self, tenant: str, reason: str) -> Forgotten:
        """What was admitted while it went on is destroyed by the second pass: by then every process refuses it."""
        row, why = await self._row(tenant), _reason(reason)
        shard = self._gate.shard_of(row.id)
        await self._flush(row.id)
        await self._close_holds(row, shard)
        if all(each.state in FINAL for each in await self._ledger.collections(tenant=row.id)):
            await self._forget_customer(row.id)
        now = self._clock.now()
        entry = self._act().did("tenant forgotten", row.id, row.id, reason=why)
        first = await self._ledger.forget_tenant(row.id, now_us=micros(now), shard=shard, audit=[entry])
        self._keyring.drop(row.id)
        await self._gate.changed(first.tenant, keep=False)
        await self._flush(row.id)
        late = await self._ledger.forget_tenant(row.id, now_us=micros(now), shard=shard)
        await self._remove_letters(row.id)
        await self._counters.forget(shard, row.id)
        return Forgotten(late.tenant, *(before + after for before, after in zip(first[1:], late[1:], strict=True)))

    async def _close_holds(self, row: TenantRow, shard: int) -> None:
        nobody, today = TenantDefaults("", 0, row.timezone), self._clock.now().date()
        seen = await self._ledger.snapshots(
            shard, [row.id], since=today, defaults=nobody, now_us=micros(self._clock.now())
        )
        if holds := seen[row.id].holds:
            await self._end_holds(holds)
            await self._flush(row.id)

    async def _forget_customer(self, tenant: str) -> None:
        customer = await self._ledger.payer(tenant)
        if customer is not None:
            await self._delete_customer(customer)

    async def _remove_letters(self, tenant: str) -> None:
        after = FIRST_LETTER
        while page := await self._ledger.dead_letters(after=after, limit=PAGE):
            after = page[-1].key
            theirs = [each.key for each in page if tenant_of_line(each.line) == tenant]
            if theirs:
                await self._ledger.remove_dead_letters(theirs, now_us=micros(self._clock.now()))

    # -- handing out --------------------------------------------------------------------------------------------------

    async def export(self, tenant: str) -> AsyncIterator[Mapping[str, Any]]:
        """One mapping of plain values for each thing, which its "kind" names."""
        row = await self._row(tenant)
        await self._flush(row.id)
        yield _thing("tenant", row)
        yield {"kind": "customer", "tenant": row.id, "id": await self._ledger.payer(row.id)}
        for cell in await self._ledger.cells(row.id, first=date.min, last=date.max):
            yield {"kind": "usage", **_plain(cell.key), **_plain(cell.total)}
        async for fact in self._facts(row.id):
            yield _thing("fact", fact)
        async for kind, each in self._account(row.id):
            yield _thing(kind, each)
        for endpoint in await self._ledger.endpoints(row.id):
            yield {name: value for name, value in _thing("endpoint", endpoint).items() if name != "secrets"}
        async for kind, each in self._told(row.id):
            yield _thing(kind, each)

    async def _facts(self, tenant: str) -> AsyncIterator[Fact]:
        after = (-(2**62), "")
        while page := await self._ledger.facts(tenant, after=after, limit=PAGE):
            for fact in page:
                yield await self._keyring.opened(fact)
            after = (page[-1].occurred_us, page[-1].id)

    async def _account(self, tenant: str) -> AsyncIterator[tuple[str, Any]]:
        periods, after = dict[str, None](), ("", "", 0)
        while page := await self._ledger.invoices(tenant=tenant, after=after, limit=PAGE):
            for invoice in page:
                periods[invoice.period] = None
                yield "invoice", invoice
            after = (page[-1].period, page[-1].tenant, page[-1].issue)
        account = await self._ledger.account(tenant, Wanted(periods=tuple(periods), collections=True))
        if account is not None:
            of_kinds: tuple[tuple[str, Sequence[Any]], ...] = (
                ("credit_note", account.notes),
                ("credit", account.grants),
                ("discount", account.discounts),
                ("adjustment", account.adjustments),
                ("payment", account.collections),
            )
            for kind, values in of_kinds:
                for each in values:
                    yield kind, each

    async def _told(self, tenant: str) -> AsyncIterator[tuple[str, Any]]:
        before: tuple[int, str] | None = None
        while page := await self._ledger.deliveries(tenant, before=before, limit=PAGE):
            for each in page:
                yield "delivery", await self._keyring.opened_delivery(each)
            before = (micros(page[-1].occurred_at), page[-1].id)
        after, end_us = None, 2**62
        while notices := await self._ledger.notices_of(tenant, start_us=0, end_us=end_us, after=after, limit=PAGE):
            for notice in notices:
                yield "notice", await self._keyring.opened_notice(notice)
            after = (micros(notices[-1].made_at), notices[-1].id)
        for entry in await self._ledger.audit(tenant=tenant, limit=2**31 - 1):
            yield "audit", entry

    async def _row(self, tenant: str) -> TenantRow:
        row = await self._ledger.tenant(tenant_id(tenant))
        if row is None:
            raise UnknownTenant(f"tenant {tenant!r} is not known: nothing is kept of it")
        return row


def _reason(reason: object) -> str:
    if not isinstance(reason, str) or not reason.strip() or not reason.isprintable() or len(reason) > MAX_REASON:
        raise InvalidInput(
            "reason", f"is not 1 to {MAX_REASON} printable characters, such as the number of the request"
        )
    return refuse_card(reason.strip(), "reason")


def _thing(kind: str, value: Any) -> dict[str, Any]:
    return {"kind": kind, **{name if name != "kind" else "what": each for name, each in _plain(value).items()}}


def _plain(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return dict(value._asdict())
