"""What must be readable again, encrypted at rest: AES-256-GCM, bound to the place where it is stored.

Stored as ``v2:<key id>:<base64 of nonce and ciphertext>``. The key id is a digest of the key, so that of several keys
the right one is found, and a missing one can be named. Sealed text that is moved to another table, column or row, or to
another key, does not open. ``v1`` was bound to its owner alone, and opens still.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import secrets as randomness
from hashlib import sha256
from typing import Any, Final, NamedTuple, Self

from mm_metering.errors import InvalidInput, MissingExtra

VARIABLE: Final = "MM_METERING_SECRET_KEY"
FORM, OLD_FORM = "v2", "v1"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
MAKE_ONE: Final = "make one with `openssl rand -base64 32`"


class Place(NamedTuple):
    """Where a sealed text is stored: in the row of ``owner``."""

    table: str
    column: str
    owner: str

    def __str__(self) -> str:
        return f"{self.column} of {self.owner}"


class Vault:
    """``keys``: the first seals, all open. None: what is sealed cannot be kept, and asking for it raises."""

    def __init__(self, *keys: bytes) -> None:
        self._keys = {sha256(key).hexdigest()[:8]: key for key in keys}
        self._ciphers: dict[str, Any] = {}

    @classmethod
    def of(cls, text: str | None, *, ephemeral: bool) -> Self:
        """Of one key, or of several with commas between, the newest first. Without any, and where nothing outlives this
        process (``ephemeral``), of one that is made up."""
        if text:
            made = cls(*map(_key, text.split(",")))
            made._cipher(made.key_ids[0])  # MissingExtra now, not at the first secret
            return made
        return cls(randomness.token_bytes(KEY_BYTES)) if ephemeral else cls()

    def derived(self, purpose: str) -> dict[str, bytes]:
        """A key of each, for this purpose alone, by a key id of its own; the newest first."""
        keys = [hmac.digest(key, f"mm-metering {purpose}".encode(), "sha256") for key in self._keys.values()]
        return {sha256(key).hexdigest()[:8]: key for key in keys}

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The newest first."""
        return tuple(self._keys)

    def seal(self, text: str, place: Place) -> str:
        """InvalidInput without a key."""
        if not self._keys:
            raise InvalidInput(
                "secret_key",
                f"is not set, and {place.column} is stored encrypted; {MAKE_ONE}, then set {VARIABLE} or "
                "Metering(secret_key=...)",
            )
        key_id, nonce = next(iter(self._keys)), os.urandom(NONCE_BYTES)
        sealed = self._cipher(key_id).encrypt(nonce, text.encode(), _bound_to(place, key_id))
        return f"{FORM}:{key_id}:{base64.b64encode(nonce + sealed).decode()}"

    def open(self, sealed: str, place: Place) -> str:
        """InvalidInput where the key is not here, or the text was changed or is of another place."""
        form, key_id, packed = _parts(sealed)
        if form not in (FORM, OLD_FORM) or key_id not in self._keys:
            raise InvalidInput("secret_key", f"the key {key_id[:16]!r} of the {place} is not among {VARIABLE}")
        from cryptography.exceptions import InvalidTag

        bound = _bound_to(place, key_id) if form == FORM else place.owner.encode()
        try:
            raw = base64.b64decode(packed, validate=True)
            return bytes(self._cipher(key_id).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound)).decode()
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise InvalidInput("secret", f"the stored {place} was changed; rotate it") from error

    def is_newest(self, sealed: str) -> bool:
        """Whether it would be sealed with the same key, in the same form."""
        form, key_id, _ = _parts(sealed)
        return form == FORM and key_id in self.key_ids[:1]

    def _cipher(self, key_id: str) -> Any:
        if key_id not in self._ciphers:
            self._ciphers[key_id] = cipher(self._keys[key_id])
        return self._ciphers[key_id]


def key_id_of(sealed: str) -> str:
    """Of the key that sealed it."""
    return _parts(sealed)[1]


def cipher(key: bytes) -> Any:
    """AES-GCM under a key; MissingExtra where nothing here can do that."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtra("server", "encryption at rest") from error
    return AESGCM(key)


def _bound_to(place: Place, key_id: str) -> bytes:
    return json.dumps([*place, key_id]).encode()


def _parts(sealed: str) -> tuple[str, str, str]:
    form, _, rest = sealed.partition(":")
    key_id, _, packed = rest.partition(":")
    return form, key_id, packed


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidInput("secret_key", f"must be the base64 of {KEY_BYTES} bytes; {MAKE_ONE}")
    return key
