"""How often one address may ask our own endpoints: sliding windows of the library ``limits``, kept in this process.

Owns: the windows of the addresses seen last, bounded. Does not own: what tenants may use, which ``core.limits``
decides. The library's own memory storage is not taken: it starts a thread at a hit, which walks all keys, and has no
bound.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport
from limits.strategies import SlidingWindowCounterRateLimiter

MAX_ADDRESSES: Final = 10_000
WINDOW_S: Final = 60


class EndpointLimits:
    """``most`` requests a minute of each address; ``now_s`` are seconds of a clock."""

    def __init__(self, most: int, *, now_s: Callable[[], float], addresses: int = MAX_ADDRESSES) -> None:
        self.kept: Kept = Kept(now_s, addresses)
        self._item = RateLimitItemPerMinute(most)
        self._limiter = SlidingWindowCounterRateLimiter(self.kept)

    def wait_s(self, address: str) -> int | None:
        """None where it may ask, which counts; else the seconds after which it may again."""
        if self._limiter.hit(self._item, address):
            return None
        return math.ceil(self.kept.left_s(WINDOW_S))


@dataclass(slots=True)
class _Windows:
    """The requests of the window of that number, and of the one before it."""

    number: int
    before: int = 0
    now: int = 0


class Kept(Storage, SlidingWindowCounterSupport):
    """The windows of the keys that came last; a key that is forgotten begins anew."""

    STORAGE_SCHEME: None = None

    def __init__(self, now_s: Callable[[], float], most: int) -> None:
        super().__init__()
        self._now_s = now_s
        self._most = most
        self._windows: OrderedDict[str, _Windows] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._windows)

    def left_s(self, expiry: int) -> float:
        """Until the running window ends."""
        return expiry - self._now_s() % expiry

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        with self._lock:
            windows = self._of(key, expiry)
            weighted = windows.before * self.left_s(expiry) / expiry + windows.now
            if math.floor(weighted) + amount > limit:
                return False
            windows.now += amount
            return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        with self._lock:
            windows, left_s = self._of(key, expiry), self.left_s(expiry)
        return windows.before, left_s, windows.now, left_s + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        self.clear(key)

    def _of(self, key: str, expiry: int) -> _Windows:
        """Moved on to now, and the most recent one."""
        number = int(self._now_s() // expiry)
        windows = self._windows.setdefault(key, _Windows(number))
        if number > windows.number:
            windows.before = windows.now if number == windows.number + 1 else 0
            windows.number, windows.now = number, 0
        self._windows.move_to_end(key)
        if len(self._windows) > self._most:
            self._windows.popitem(last=False)
        return windows

    # -- what every storage has --------------------------------------------------------------------------------------

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError("sliding windows alone are kept")

    def get(self, key: str) -> int:
        known = self._windows.get(key)
        return known.now if known else 0

    def get_expiry(self, key: str) -> float:
        return self._now_s()

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        count = len(self._windows)
        self._windows.clear()
        return count

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)
