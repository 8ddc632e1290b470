"""Signed as Standard Webhooks 1.0 says: HMAC-SHA256 over ``id.timestamp.body``, under one or two live secrets."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets as randomness
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from mm_metering.errors import InvalidInput, WebhookRefused

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
LEAST_BYTES, MOST_BYTES = 24, 64
TOLERANCE_S: Final = 300
"""Older than that, or that far ahead of our clock, it is refused: it may be a replay."""
MAX_SIGNATURES: Final = 16
MAX_HEADER: Final = 4096


def new_secret() -> str:
    return PREFIX + base64.b64encode(randomness.token_bytes(SECRET_BYTES)).decode()


def checked_secret(secret: object) -> str:
    """The secret itself, or InvalidInput, which does not repeat it."""
    _key(secret)
    return str(secret)


def sign(message: str, at: datetime, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The three headers of an attempt. ``message`` is the same in each of them, ``at`` is this one's instant."""
    seconds = str(int(at.timestamp()))
    signatures = " ".join(f"v1,{_mac(message, seconds, body, each)}" for each in secrets)
    return {"webhook-id": message, "webhook-timestamp": seconds, "webhook-signature": signatures}


def verify(body: bytes, headers: Mapping[str, str], secrets: Sequence[str], now: datetime) -> str:
    """The ``webhook-id``; WebhookRefused unless one of the secrets has signed these very bytes within 300 s of now.
    ``headers`` are in lower case."""
    message, seconds, given = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not (message and seconds and given) or max(map(len, (message, given))) > MAX_HEADER:
        raise WebhookRefused("it lacks webhook-id, webhook-timestamp or webhook-signature")
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) <= 12):
        raise WebhookRefused("its webhook-timestamp is not whole seconds")
    signatures = [each.removeprefix("v1,") for each in given.split()[:MAX_SIGNATURES] if each.startswith("v1,")]
    macs = [_mac(message, seconds, body, each) for each in secrets]
    if not any(hmac.compare_digest(mac.encode(), each.encode()) for mac in macs for each in signatures):
        raise WebhookRefused("no live secret has signed it; is the endpoint's secret the one that is set here?")
    if abs(now.timestamp() - int(seconds)) > TOLERANCE_S:
        raise WebhookRefused(f"it was signed more than {TOLERANCE_S} s from now")
    return message


def _mac(message: str, seconds: str, body: bytes, secret: str) -> str:
    signed = f"{message}.{seconds}.".encode() + body
    return base64.b64encode(hmac.digest(_key(secret), signed, "sha256")).decode()


def _key(secret: object) -> bytes:
    try:
        if isinstance(secret, str) and secret.startswith(PREFIX):
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
            if LEAST_BYTES <= len(key) <= MOST_BYTES:
                return key
    except (binascii.Error, ValueError):
        pass
    raise InvalidInput("secret", f"must be {PREFIX} and the base64 of {LEAST_BYTES} to {MOST_BYTES} bytes")
