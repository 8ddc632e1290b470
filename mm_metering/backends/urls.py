"""Counters by URL. What a URL needs is imported when it is used."""

from __future__ import annotations

from typing import Final

from mm_metering.backends.counters import Counters
from mm_metering.errors import InvalidInput

CHOICES: Final = (
    "memory://, local://DIR, redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH, "
    "redis+cluster://HOST:PORT,HOST:PORT or rediss+cluster://HOST:PORT,HOST:PORT"
)


def open_counters(url: str, *, frozen: bool = False) -> Counters:
    """The counters at a URL; ``frozen`` says that a test clock is used, so that stored keys get no TTL.

    Only ``local://`` does anything yet: it starts its server, unless another process did. The others connect when
    they are first called.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise InvalidInput("counters", f"expected a URL: {CHOICES}")  # never the text itself: it may be a secret
    match scheme:
        case "memory":
            from mm_metering.backends.memory import MemoryCounters

            return MemoryCounters()
        case "local":
            from mm_metering.backends.local import LocalCounters

            return LocalCounters(rest, frozen=frozen)
        case "redis" | "rediss" | "unix" | "redis+cluster" | "rediss+cluster":
            from mm_metering.backends.redis import RedisCounters

            return RedisCounters(url, frozen=frozen)
    raise InvalidInput("counters", f"{scheme[:40]}:// is not known; use {CHOICES}")
