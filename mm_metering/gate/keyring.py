"""Tenants' own keys, as far as they are known here. What others write into our texts is sealed with its tenant's key
before it leaves the process, so that all copies of it, wherever they lie, are noise once that key is gone.

The nonce follows from the place and its text: a fact that is posted again is the same line again, which digests and
journals rely on. Two texts under one nonce would take a collision of HMAC-SHA256 in 96 bits.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
from collections import OrderedDict
from typing import Any, Final

from mm_metering.backends.ledger import Ledger
from mm_metering.backends.privacy import SEALED, KeyRow, key_place
from mm_metering.core.collecting import Notice
from mm_metering.core.deliveries import Attempt, Delivery
from mm_metering.core.facts import Fact
from mm_metering.errors import WrongState
from mm_metering.vault import NONCE_BYTES, Place, Vault, cipher

HALF: Final = 32
"""Bytes of a key that encrypt; as many more make nonces."""
MAX_KEYS: Final = 10_000


class TenantKey:
    """One tenant's."""

    __slots__ = ("_cipher", "_nonces")

    def __init__(self, key: bytes) -> None:
        self._cipher: Any = cipher(key[:HALF])
        self._nonces = key[HALF:]

    def seal(self, text: str, about: bytes) -> str:
        plain = text.encode()
        nonce = hmac.digest(self._nonces, about + plain, "sha256")[:NONCE_BYTES]
        return SEALED + base64.b64encode(nonce + self._cipher.encrypt(nonce, plain, about)).decode()

    def open(self, sealed: str, about: bytes) -> str | None:
        """None for what this key has not sealed."""
        from cryptography.exceptions import InvalidTag

        try:
            raw = base64.b64decode(sealed.removeprefix(SEALED), validate=True)
            return bytes(self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], about)).decode()
        except (InvalidTag, ValueError, binascii.Error):
            return None


class Keyring:
    """Seals what callers and receivers wrote: facts' metadata, the data of a host's events, excerpts of answers.
    ``is_on`` False leaves all as it is: for a house that has no key of its own."""

    def __init__(self, ledger: Ledger, vault: Vault, *, is_on: bool) -> None:
        self._ledger = ledger
        self._vault = vault
        self._is_on = is_on
        self._keys: OrderedDict[str, TenantKey] = OrderedDict()

    async def seal(self, text: str, place: Place, tenant: str) -> str:
        """The text as it may be stored: sealed, or itself. The first of a tenant in this process asks the ledger for
        its key. WrongState for a tenant that was forgotten."""
        if not self._is_on:
            return text
        key = self._keys.get(tenant) or self._known(tenant, await self._find_or_make(tenant))
        return key.seal(text, _about(place, tenant))

    async def open(self, text: str, place: Place, tenant: str) -> str | None:
        """The text as it was written; None where its key is gone."""
        if not text.startswith(SEALED):
            return text
        key = self._keys.get(tenant)
        if key is None and (stored := await self._ledger.tenant_key(tenant)) is not None:
            key = self._known(tenant, stored)
        return key.open(text, _about(place, tenant)) if key else None

    def drop(self, tenant: str) -> None:
        self._keys.pop(tenant, None)

    # -- facts --------------------------------------------------------------------------------------------------------

    async def sealed(self, fact: Fact) -> Fact:
        if fact.metadata is None:
            return fact
        return fact._replace(metadata=await self.seal(fact.metadata, _metadata_of(fact), fact.tenant))

    async def opened(self, fact: Fact) -> Fact:
        """Without metadata where its key is gone."""
        if fact.metadata is None:
            return fact
        return fact._replace(metadata=await self.open(fact.metadata, _metadata_of(fact), fact.tenant))

    # -- webhooks -----------------------------------------------------------------------------------------------------

    async def sealed_notice(self, notice: Notice) -> Notice:
        """A host's; what the house tells is none of anybody's writing."""
        if notice.source != "host" or not self._is_on:
            return notice
        text = await self.seal(json.dumps(notice.data, ensure_ascii=False), _data_of(notice), notice.tenant)
        return notice._replace(data={SEALED: text})

    async def opened_notice(self, notice: Notice) -> Notice:
        """Without data where its key is gone."""
        if SEALED not in notice.data:
            return notice
        text = await self.open(str(notice.data[SEALED]), _data_of(notice), notice.tenant)
        return notice._replace(data=json.loads(text or "{}"))

    async def sealed_attempt(self, attempt: Attempt, delivery: Delivery) -> Attempt:
        if not attempt.excerpt:
            return attempt
        text = await self.seal(attempt.excerpt, _excerpt_of(delivery), delivery.tenant)
        return attempt.model_copy(update={"excerpt": text})

    async def opened_delivery(self, delivery: Delivery) -> Delivery:
        place = _excerpt_of(delivery)
        excerpts = [await self.open(each.excerpt, place, delivery.tenant) or "" for each in delivery.attempts]
        both = zip(delivery.attempts, excerpts, strict=True)
        return delivery.model_copy(
            update={"attempts": tuple(each.model_copy(update={"excerpt": text}) for each, text in both)}
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _find_or_make(self, tenant: str) -> str:
        stored = await self._ledger.tenant_key(tenant)
        if stored is None:
            made = base64.b64encode(os.urandom(2 * HALF)).decode()
            new = KeyRow(tenant, self._vault.seal(made, key_place(tenant)))
            if await self._ledger.put_tenant_key(new, instead_of=None):
                return new.sealed
            stored = await self._ledger.tenant_key(tenant)  # another process was first
        if stored is None:
            raise WrongState(f"tenant {tenant!r} was forgotten: nothing is kept of it any more", state="forgotten")
        return stored

    def _known(self, tenant: str, stored: str) -> TenantKey:
        key = self._keys[tenant] = TenantKey(base64.b64decode(self._vault.open(stored, key_place(tenant))))
        while len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)
        return key


def _metadata_of(fact: Fact) -> Place:
    return Place("mm_usage_fact", "metadata", fact.id)


def _data_of(notice: Notice) -> Place:
    return Place("mm_outbox", "data", notice.id)


def _excerpt_of(delivery: Delivery) -> Place:
    return Place("mm_webhook_delivery", "excerpt", delivery.id)


def _about(place: Place, tenant: str) -> bytes:
    return json.dumps([*place, tenant]).encode()
