"""Signed webhooks as Stripe signs them: ``t=<seconds>,v1=<hex of HMAC-SHA256 over "<t>.<body>">``.

More than one v1 stands there while a secret is being rotated, and more than one secret may be live here.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from mm_metering.errors import WebhookRefused

TOLERANCE_S: Final = 300
"""Older than that, or that far ahead of our clock, it is refused: it may be a replay."""
MAX_HEADER: Final = 4096
MAX_SIGNATURES: Final = 16


def sign(body: bytes, secret: str, at: datetime) -> str:
    seconds = int(at.timestamp())
    return f"t={seconds},v1={_mac(body, secret, str(seconds))}"


def verify(body: bytes, header: str, secrets: Sequence[str], now: datetime) -> None:
    """WebhookRefused unless one of the secrets has signed these very bytes within 300 s of now."""
    if not header or len(header) > MAX_HEADER:
        raise WebhookRefused("it has no signature")
    parts = [part.strip().partition("=") for part in header.split(",")]
    times = [value for name, _, value in parts if name == "t"]
    given = [value for name, _, value in parts if name == "v1"]
    if len(times) != 1 or not 1 <= len(given) <= MAX_SIGNATURES:
        raise WebhookRefused("its signature cannot be read")
    said = times[0]
    if not (said.isascii() and said.isdigit() and len(said) <= 12):
        raise WebhookRefused("its signature has no time")
    if not any(_is_one(_mac(body, secret, said), given) for secret in secrets):
        raise WebhookRefused("no live secret has signed it; is the endpoint's secret the one that is set here?")
    if abs(now.timestamp() - int(said)) > TOLERANCE_S:
        raise WebhookRefused(f"it was signed more than {TOLERANCE_S} s from now")


def _mac(body: bytes, secret: str, said: str) -> str:
    return hmac.new(secret.encode(), said.encode() + b"." + body, "sha256").hexdigest()


def _is_one(mac: str, given: Sequence[str]) -> bool:
    return any(hmac.compare_digest(mac.encode(), each.encode("utf-8", "replace")) for each in given)
