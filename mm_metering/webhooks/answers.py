"""What a receiver has answered, as far as it was read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final

from mm_metering.core.cards import masked

MAX_EXCERPT_BYTES: Final = 1024
MAX_RETRY_AFTER_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt. The webhook was received if ``error`` is None: a 2xx, read to its end or to 64 KiB.

    status         None if there was none
    retry_after_s  what the receiver asks for, at most 24 hours
    excerpt        the first KiB of the body, printable, card numbers masked
    error          a word and a sentence, such as "status: it answered 503; only 2xx counts as received". The words:
                   url, dns, connection, certificate, tls, timeout, protocol, redirect, status, request
    """

    status: int | None
    retry_after_s: int | None
    excerpt: str
    error: str | None
    took_ms: int


@dataclass(slots=True)
class Heard:
    """An answer on its way. ``headers`` have lower-case names."""

    status: int | None = None
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    def verdict(self) -> str | None:
        """An error, unless it is a 2xx: for what is read of it, nothing being wrong with that."""
        if self.status is None:
            return "protocol: no answer stands in the first 16 KiB"
        if 200 <= self.status < 300:
            return None
        if 300 <= self.status < 400:
            return (
                f"redirect: it answered {self.status}, which is not followed; set the endpoint to the URL it leads to"
            )
        return f"status: it answered {self.status}; only 2xx counts as received"

    def answer(self, error: str | None, *, took_ms: int) -> Answer:
        return Answer(self.status, retry_after_s(self.headers), self._excerpt(), error, took_ms)

    def _excerpt(self) -> str:
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return ""  # it was asked not to
        text = self.body[:MAX_EXCERPT_BYTES].decode("utf-8", "replace")
        return masked("".join(each if each.isprintable() else " " for each in text).strip())


def retry_after_s(headers: Mapping[bytes, bytes]) -> int | None:
    """Retry-After in seconds from the answer, at most 24 hours. A date is counted from the answer's own Date."""
    value = headers.get(b"retry-after", b"").strip()
    if value.isdigit():
        return min(int(value[:10]), MAX_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(value.decode("ascii"))
        wait = until - parsedate_to_datetime(headers.get(b"date", b"").decode("ascii"))
    except (ValueError, TypeError, OverflowError):  # no date, or one with a zone and one without
        return None
    return min(max(0, int(wait.total_seconds())), MAX_RETRY_AFTER_S)
