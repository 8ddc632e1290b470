"""What is sealed with a tenant's key: the same twice, readable by who has the key, noise once that is gone."""

from __future__ import annotations

import base64

import pytest

from mm_metering.backends.memory_ledger import MemoryLedger
from mm_metering.backends.privacy import SEALED
from mm_metering.core.facts import Fact
from mm_metering.core.tenancy import NewTenant, TenantDefaults
from mm_metering.errors import WrongState
from mm_metering.gate.keyring import Keyring
from mm_metering.vault import Vault

VAULT = Vault.of(base64.b64encode(bytes(32)).decode(), ephemeral=False)
TEXT = '{"name":"Ada"}'
FACT = Fact("f1", 1, "use", "acme", "api_call", "/v1", 1, None, (), metadata=TEXT)


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


async def test_a_fact_that_is_stated_again_elsewhere_is_the_same_line(ledger: MemoryLedger) -> None:
    here, there = (Keyring(ledger, VAULT, is_on=True) for _ in range(2))
    sealed = await here.sealed(FACT)
    assert sealed == await there.sealed(FACT) == await here.sealed(FACT)
    assert str(sealed.metadata).startswith(SEALED)
    assert TEXT not in str(sealed.metadata)
    assert await there.opened(sealed) == FACT
    others = [FACT._replace(id="f2"), FACT._replace(tenant="beta"), FACT._replace(metadata=TEXT + " ")]
    assert len({(await here.sealed(each)).metadata for each in (FACT, *others)}) == 4


async def test_what_is_moved_or_changed_does_not_open(ledger: MemoryLedger) -> None:
    keyring = Keyring(ledger, VAULT, is_on=True)
    sealed = await keyring.sealed(FACT)
    for each in (sealed._replace(id="f2"), sealed._replace(tenant="beta"), sealed._replace(metadata=SEALED + "AAAA")):
        assert (await keyring.opened(each)).metadata is None
    assert (await keyring.opened(FACT)).metadata == TEXT


async def test_once_a_tenant_is_forgotten_its_texts_are_noise(ledger: MemoryLedger) -> None:
    await ledger.put_tenant(NewTenant("acme", plan="free", version=1), defaults=TenantDefaults("", 0, "UTC"), now_us=1)
    keyring, other = (Keyring(ledger, VAULT, is_on=True) for _ in range(2))
    sealed = await keyring.sealed(FACT)
    await ledger.forget_tenant("acme", now_us=2, shard=0)
    assert (await other.opened(sealed)).metadata is None
    keyring.drop("acme")
    assert (await keyring.opened(sealed)).metadata is None
    with pytest.raises(WrongState, match="nothing is kept of it any more"):
        await keyring.sealed(FACT)


async def test_a_house_without_a_key_leaves_texts_as_they_are(ledger: MemoryLedger) -> None:
    keyring = Keyring(ledger, Vault(), is_on=False)
    assert await keyring.sealed(FACT) == await keyring.opened(FACT) == FACT
