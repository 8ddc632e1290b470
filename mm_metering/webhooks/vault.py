"""Endpoints' secrets at rest: AES-256-GCM, bound to the endpoint that they are of.

Stored as ``v1:<key id>:<base64 of nonce and ciphertext>``. The key id is a digest of the key, so that of several keys
the right one is found, and a missing one can be named.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets as randomness
from hashlib import sha256
from typing import Final, Self

from mm_metering.errors import InvalidInput, MissingExtra

VARIABLE: Final = "MM_METERING_SECRET_KEY"
FORM: Final = "v1"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
MAKE_ONE: Final = "make one with `openssl rand -base64 32`"


class Vault:
    """``keys``: the first seals, all open. None: what is sealed cannot be kept, and asking for it raises."""

    def __init__(self, *keys: bytes) -> None:
        self._keys = {sha256(key).hexdigest()[:8]: key for key in keys}

    @classmethod
    def of(cls, text: str | None, *, ephemeral: bool) -> Self:
        """Of one key, or of several with commas between, the newest first. Without any, and where nothing outlives this
        process (``ephemeral``), of one that is made up."""
        if text:
            return cls(*map(_key, text.split(",")))
        return cls(randomness.token_bytes(KEY_BYTES)) if ephemeral else cls()

    def derived(self, purpose: str) -> dict[str, bytes]:
        """A key of each, for this purpose alone, by a key id of its own; the newest first."""
        keys = [hmac.digest(key, f"mm-metering {purpose}".encode(), "sha256") for key in self._keys.values()]
        return {sha256(key).hexdigest()[:8]: key for key in keys}

    def seal(self, secret: str, endpoint: str) -> str:
        if not self._keys:
            raise InvalidInput(
                "secret_key",
                f"is not set, and endpoints' secrets are stored encrypted; {MAKE_ONE}, then set {VARIABLE} or "
                "Metering(secret_key=...)",
            )
        kid, key = next(iter(self._keys.items()))
        nonce = os.urandom(NONCE_BYTES)
        sealed = _cipher(key).encrypt(nonce, secret.encode(), endpoint.encode())
        return f"{FORM}:{kid}:{base64.b64encode(nonce + sealed).decode()}"

    def open(self, text: str, endpoint: str) -> str:
        """InvalidInput where the key is not here, or the text was changed or is another endpoint's."""
        form, _, rest = text.partition(":")
        kid, _, packed = rest.partition(":")
        if form != FORM or kid not in self._keys:
            raise InvalidInput("secret_key", f"the key {kid[:16]!r} of endpoint {endpoint} is not among {VARIABLE}")
        from cryptography.exceptions import InvalidTag

        try:
            sealed = base64.b64decode(packed, validate=True)
            nonce, sealed = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
            return bytes(_cipher(self._keys[kid]).decrypt(nonce, sealed, endpoint.encode())).decode()
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise InvalidInput("secret", f"the stored secret of endpoint {endpoint} was changed; rotate it") from error


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidInput("secret_key", f"must be the base64 of {KEY_BYTES} bytes; {MAKE_ONE}")
    return key


def _cipher(key: bytes):  # type: ignore[no-untyped-def]  # of an extra
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingExtra("server", "encrypted webhook secrets") from error
    return AESGCM(key)
