"""Who owns a key: asked once, then kept for a while.

Here lives the cache of ``from_header(name, lookup)``. It holds hashes instead of keys, each event loop has its own
part of it, and requests that bring the same key at once wait for one lookup.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TypeAlias

from mm_metering.backends.per_loop import PerLoop
from mm_metering.errors import InvalidInput, UnknownTenant

LookUp: TypeAlias = Callable[[str], Awaitable[str | None]]


class Owners:
    """The tenants that own keys, as a lookup names them.

    An answer counts for ``ttl_s`` from when it was asked; 0 keeps nothing. Per event loop the ``most`` recently used
    keys are kept. Neither keys that nobody owns nor errors are.
    """

    def __init__(self, look_up: LookUp, *, ttl_s: float, most: int) -> None:
        if not 0 <= ttl_s < math.inf:
            raise InvalidInput("ttl_s", f"{ttl_s} is not a number of seconds; 0 keeps nothing")
        if most < 1:
            raise InvalidInput("most", f"{most} keys cannot be kept; with ttl_s=0 none are")
        self._per_loop = PerLoop(partial(_InLoop, look_up, ttl_s=ttl_s, most=most))
        self._secret = secrets.token_bytes(32)

    def owner_of(self, key: str) -> str | Awaitable[str]:
        """The key's owner, at once if it is kept; UnknownTenant if there is none."""
        digest = blake2b(key.encode(), key=self._secret, digest_size=32).digest()
        here = self._per_loop.here()
        return here.kept(digest) or here.ask(digest, key)


@dataclass(slots=True, eq=False)
class _Flight:
    """A lookup under way, and how many requests wait for it."""

    task: asyncio.Task[str | None]
    waiting: int = 0


class _InLoop:
    """The owners that one event loop knows of: it alone touches this."""

    def __init__(self, look_up: LookUp, *, ttl_s: float, most: int) -> None:
        self._look_up = look_up
        self._ttl_s = ttl_s
        self._most = most
        self._kept: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._flights: dict[bytes, _Flight] = {}

    def kept(self, digest: bytes) -> str | None:
        """The owner that an earlier lookup named, while it counts."""
        tenant, ends_at_s = self._kept.get(digest, (None, 0.0))
        if tenant is None:
            return None
        if _loop_time_s() >= ends_at_s:
            del self._kept[digest]
            return None
        self._kept.move_to_end(digest)
        return tenant

    async def ask(self, digest: bytes, key: str) -> str:
        """The owner by a lookup, shared with all who wait for the same; UnknownTenant if there is none.

        The lookup has a task of its own, which goes on when one waiter is cancelled and ends with the last.
        """
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._flights[digest] = _Flight(asyncio.create_task(self._asked(digest, key)))
        flight.waiting += 1
        try:
            tenant = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                del self._flights[digest]
                flight.task.cancel()
        if tenant is None:
            raise UnknownTenant("nobody owns the key")
        return tenant

    async def _asked(self, digest: bytes, key: str) -> str | None:
        ends_at_s = _loop_time_s() + self._ttl_s
        tenant = await self._look_up(key)
        if tenant is not None and _loop_time_s() < ends_at_s:
            self._kept[digest] = (tenant, ends_at_s)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return tenant


def _loop_time_s() -> float:
    return asyncio.get_running_loop().time()
