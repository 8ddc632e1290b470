"""Tenants' own keys, as far as they are known here. What callers write into a fact's metadata is sealed with the key of
its tenant before it leaves the process, so that all copies of it, wherever they lie, are noise once that key is gone.

The nonce follows from the fact's id and its text: a fact that is posted again is the same line again, which digests and
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
from mm_metering.core.facts import Fact
from mm_metering.errors import WrongState
from mm_metering.vault import NONCE_BYTES, Vault, cipher

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
    """``is_on`` False leaves metadata as it is: for a house that has no key of its own."""

    def __init__(self, ledger: Ledger, vault: Vault, *, is_on: bool) -> None:
        self._ledger = ledger
        self._vault = vault
        self._is_on = is_on
        self._keys: OrderedDict[str, TenantKey] = OrderedDict()

    async def sealed(self, fact: Fact) -> Fact:
        """The fact as it may be stored; the first of a tenant in this process asks the ledger for its key. WrongState
        for a tenant that was forgotten."""
        if fact.metadata is None or not self._is_on:
            return fact
        key = self._keys.get(fact.tenant) or self._known(fact.tenant, await self._find_or_make(fact.tenant))
        return fact._replace(metadata=key.seal(fact.metadata, _about(fact)))

    async def opened(self, fact: Fact) -> Fact:
        """The fact as its caller stated it; without metadata where its key is gone."""
        if fact.metadata is None or not fact.metadata.startswith(SEALED):
            return fact
        key = self._keys.get(fact.tenant)
        if key is None and (stored := await self._ledger.tenant_key(fact.tenant)) is not None:
            key = self._known(fact.tenant, stored)
        return fact._replace(metadata=key.open(fact.metadata, _about(fact)) if key else None)

    def drop(self, tenant: str) -> None:
        self._keys.pop(tenant, None)

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


def _about(fact: Fact) -> bytes:
    return json.dumps(["mm_usage_fact", "metadata", fact.tenant, fact.id]).encode()
