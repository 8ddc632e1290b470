"""The law of ``Privacy`` as tests: a part of ``LedgerContract``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import pytest

from mm_metering.backends.accounts import Wanted
from mm_metering.backends.collecting import Mute
from mm_metering.backends.counters import START
from mm_metering.backends.ledger import ClaimRequest, Ledger
from mm_metering.backends.privacy import SEALED, KeyRow
from mm_metering.core.audit import AuditEntry
from mm_metering.core.books import Account, Entries
from mm_metering.core.collecting import Collection
from mm_metering.core.digest import Digest, hash_of, total
from mm_metering.core.facts import Count, Fact, encode
from mm_metering.core.periods import micros
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.core.timeline import PlanChange
from mm_metering.errors import UnknownTenant, WrongState
from mm_metering.testing.webhooks_contract import an_endpoint, an_event, told

NOW: Final = datetime(2024, 1, 20, 12, tzinfo=UTC)
NOW_US: Final = micros(NOW)
DEFAULTS: Final = TenantDefaults("free", 1, "UTC")
PERSONAL: Final = '{"name":"Ada"}'


def a_fact(name: str, *, tenant: str = "acme", metadata: str | None = None, **changes: Any) -> Fact:
    counts = (Count("api_calls", "", 1),)
    fact = Fact(name, NOW_US - 1_000_000, "use", tenant, "api_call", "/v1", 1, None, counts, metadata=metadata)
    return fact._replace(**changes)


def digest_of(facts: Iterable[Fact]) -> Digest:
    return total(Digest(1, hash_of(encode(fact))) for fact in facts)


async def used(ledger: Ledger, *facts: Fact) -> None:
    assert await ledger.fold(0, generation=1, before=START, after="1-0", facts=facts, defaults=DEFAULTS)


async def subscribed(ledger: Ledger, *tenants: str) -> None:
    for each in tenants:
        new = NewTenant(each, plan="free", version=1, subscribed_us=NOW_US - 10_000_000)
        await ledger.put_tenant(new, defaults=DEFAULTS, now_us=NOW_US - 10_000_000)


class PrivacyContract:
    """What every ledger does when it keeps a tenant's key, and when it forgets a tenant."""

    async def test_a_tenants_key_is_written_once_and_changed_only_by_who_has_seen_it(self, ledger: Ledger) -> None:
        await subscribed(ledger, "acme")
        assert await ledger.tenant_key("acme") is None
        assert await ledger.put_tenant_key(KeyRow("acme", "one"), instead_of=None)
        assert not await ledger.put_tenant_key(KeyRow("acme", "two"), instead_of=None)
        assert not await ledger.put_tenant_key(KeyRow("acme", "two"), instead_of="other")
        assert await ledger.put_tenant_key(KeyRow("acme", "two"), instead_of="one")
        assert await ledger.put_tenant_key(KeyRow("nobody yet", "three"), instead_of=None)
        assert await ledger.tenant_keys() == [KeyRow("acme", "two"), KeyRow("nobody yet", "three")]
        assert await ledger.tenant_keys(after="acme", limit=1) == [KeyRow("nobody yet", "three")]

    async def test_all_endpoints_are_listed_by_id(self, ledger: Ledger) -> None:
        rows = [an_endpoint("ep_2"), an_endpoint("ep_1", tenant="beta"), an_endpoint("ep_3")]
        await told(ledger, endpoints=rows)
        assert [each.id for each in await ledger.every_endpoint(limit=2)] == ["ep_1", "ep_2"]
        assert [each.id for each in await ledger.every_endpoint(after="ep_2")] == ["ep_3"]

    async def test_nothing_personal_of_a_forgotten_tenant_is_left(self, ledger: Ledger) -> None:
        await subscribed(ledger, "acme", "beta")
        await told(
            ledger,
            an_event("evt_1"),
            an_event("evt_2", tenant="beta"),
            endpoints=[an_endpoint(), an_endpoint("ep_2", tenant="beta")],
        )
        for each in ("acme", "beta"):
            await ledger.put_tenant_key(KeyRow(each, f"key of {each}"), instead_of=None)
            await ledger.link_payer(each, f"cus_{each}")
            await ledger.put_mute(Mute("quota", each, NOW_US * 2))
            await ledger.raise_alert("webhook", {"acme": "ep_1"}.get(each, each), detail="x", now_us=1)
            await ledger.claim([ClaimRequest(each, "ada@example.com", b"d", NOW_US, "x1")])
        entry = AuditEntry("a1", "acme", NOW, "host", "tenant forgotten", "acme", "asked for")
        done = await ledger.forget_tenant("acme", now_us=NOW_US, shard=0, audit=[entry])
        assert done[1:] == (0, 1, 1, 1, 1)
        assert await ledger.tenant("acme") == done.tenant
        assert (done.tenant.segments[-1].status, done.tenant.forgotten_us) == ("canceled", NOW_US)
        assert [row.tenant for row in await ledger.tenant_keys()] == ["beta"]
        assert [each.tenant for each in await ledger.every_endpoint()] == ["beta"]
        assert [each.type for each in await ledger.notices(tenant="acme")] == ["subscription.updated"]
        assert (await ledger.deliveries("acme"), len(await ledger.deliveries("beta"))) == ([], 1)
        assert (await ledger.payer("acme"), await ledger.payer("beta")) == (None, "cus_beta")
        assert [each.tenant for each in await ledger.mutes(NOW_US)] == ["beta"]
        assert [each.subject for each in await ledger.open_alerts()] == ["beta"]
        assert await ledger.audit(tenant="acme") == [entry]
        known = [ClaimRequest(each, "ada@example.com", b"other", NOW_US, "x1") for each in ("acme", "beta")]
        assert [each.outcome for each in await ledger.claim(known)] == ["new", "conflict"]

    async def test_facts_lose_what_callers_wrote_and_every_digest_follows(self, ledger: Ledger) -> None:
        await subscribed(ledger, "acme", "beta")
        stated = [a_fact("f1", metadata=PERSONAL), a_fact("f2", metadata=SEALED + "x"), a_fact("f3")]
        level = a_fact("f4", metadata=PERSONAL, kind="set", event_type="storage", resource="disk", quantity=5)
        level = level._replace(counts=(Count("storage_mb", "", 5),))
        others = [a_fact("f5", tenant="beta", metadata=PERSONAL), a_fact("f6", kind="close", target="h", metadata="{}")]
        facts = [*stated, level, *others]
        await used(ledger, *facts)
        await ledger.report("p1", acknowledged={0: digest_of(facts)}, refused={}, now_us=NOW_US)
        assert (await ledger.forget_tenant("acme", now_us=NOW_US, shard=0)).facts == 2
        kept = {each.id: each for each in await ledger.facts("acme", after=(0, ""), limit=10)}
        blank = {"f1": stated[0]._replace(metadata=None), "f4": level._replace(metadata=None)}
        assert kept == {each.id: each for each in facts if each.tenant == "acme"} | blank
        left = digest_of([*kept.values(), others[0]])
        assert await ledger.folded() == {0: left}
        assert total(each for _, each in await ledger.cell_digests()) == left
        assert total(each.digest for each in await ledger.acknowledged()) == left
        assert await ledger.rebuild_cells("acme") == 0

    async def test_a_forgotten_tenant_is_that_for_good_and_may_be_forgotten_again(self, ledger: Ledger) -> None:
        await subscribed(ledger, "acme")
        first = await ledger.forget_tenant("acme", now_us=NOW_US, shard=0)
        assert not await ledger.put_tenant_key(KeyRow("acme", "new"), instead_of=None)
        with pytest.raises(WrongState, match="was forgotten at 2024-01-20T12:00:00Z"):
            await ledger.change_subscription("acme", PlanChange(NOW_US, "free", 1))
        with pytest.raises(WrongState, match="with another id"):
            await ledger.put_tenant(NewTenant("acme", plan="free", version=1), defaults=DEFAULTS, now_us=NOW_US)
        await used(ledger, a_fact("f1", metadata=PERSONAL))
        again = await ledger.forget_tenant("acme", now_us=NOW_US + 5, shard=0)
        assert (again.tenant, again.facts) == (first.tenant, 1)
        with pytest.raises(UnknownTenant, match="nothing to forget"):
            await ledger.forget_tenant("nobody", now_us=NOW_US, shard=0)

    async def test_the_payer_stays_while_an_invoice_is_on_its_way(self, ledger: Ledger) -> None:
        await subscribed(ledger, "acme")
        await ledger.link_payer("acme", "cus_1")
        open_one = Collection(invoice="inv_1", tenant="acme", period="2024-01", currency="usd", amount=Decimal(10))

        def begun(_: Account) -> Entries:
            return Entries(collections=(open_one,))

        await ledger.book(["acme"], Wanted(), begun)
        await ledger.forget_tenant("acme", now_us=NOW_US, shard=0)
        assert await ledger.payer("acme") == "cus_1"
