"""Calls to Stripe: one client for each event loop, repeated with the same key where that may help.

The SDK's own repeats are off: they leave out HTTP 429, and cannot be told how to wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from mm_metering.backends.per_loop import PerLoop
from mm_metering.billing.stripe.failures import failure_of, unavailable
from mm_metering.errors import BillingError, InvalidInput, MissingExtra, ProviderRateLimited, ProviderUnavailable

if TYPE_CHECKING:
    import stripe

T = TypeVar("T")
Found = TypeVar("Found", bound="stripe.StripeObject")

MAX_PAGES: Final = 20
"""Of 100 objects each, in one list."""
_SECRET_KEY: Final = re.compile(r"(sk|rk)_[A-Za-z0-9_]{1,250}")
_KEY: Final = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Retries:
    """How a call is repeated: ``attempts`` in all, the waits doubling from ``first_s`` to ``most_s``, each times a
    number between 0.5 and 1 from ``chance`` (0 to 1)."""

    attempts: int = 4
    first_s: float = 0.5
    most_s: float = 8.0
    chance: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 20:
            raise InvalidInput("attempts", f"is {self.attempts}, not 1 to 20")

    def wait_s(self, attempt: int) -> float:
        """After an attempt, counted from 1."""
        return float(min(self.first_s * 2 ** (attempt - 1), self.most_s)) * (0.5 + self.chance() / 2)


class Calls:
    """What the adapter asks Stripe goes through here."""

    def __init__(self, api_key: str, *, base_url: str | None, timeout_s: float, retries: Retries, per_s: float) -> None:
        try:
            import stripe
        except ImportError as error:
            raise MissingExtra("stripe", "StripeBillingAdapter") from error
        if not _SECRET_KEY.fullmatch(str(api_key)):
            raise InvalidInput("api_key", 'is no secret key of Stripe, such as "sk_live_…" or "rk_live_…"')
        if base_url is not None and not base_url.startswith(("https://", "http://")):
            raise InvalidInput("base_url", "is no address such as http://127.0.0.1:12111")
        if not 0 < per_s <= 1000:
            raise InvalidInput("calls_per_s", f"is {per_s}, not above 0 and up to 1,000")
        stripe.enable_telemetry = False
        if (logger := logging.getLogger("stripe")).level == logging.NOTSET:
            logger.setLevel(logging.WARNING)  # at INFO it has lines for each call, at DEBUG names and addresses
        self.is_live: bool = "_live_" in str(api_key)[:8]
        self._api_key = api_key
        self._base_url = base_url and base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._retries = retries
        self._gap_s = 1 / per_s
        self._free: PerLoop[list[float]] = PerLoop(lambda: [0.0])
        """When the next call may begin, by its event loop's clock."""
        self._clients = PerLoop(self._open)

    def _open(self) -> tuple[stripe.StripeClient, stripe.HTTPClient]:
        import stripe

        from mm_metering.billing.stripe.wire import Wire

        base, http = self._base_url, Wire(timeout=self._timeout_s)
        client = stripe.StripeClient(
            self._api_key,
            http_client=http,
            max_network_retries=0,
            base_addresses={"api": base, "connect": base, "files": base, "meter_events": base} if base else {},
        )
        return client, http

    async def aclose(self) -> None:
        """Closes this event loop's connections."""
        if opened := self._clients.pop(asyncio.get_running_loop()):
            await opened[1].close_async()  # type: ignore[no-untyped-call]

    async def read(self, ask: Callable[[stripe.StripeClient], Awaitable[T]]) -> T:
        """Changes nothing, so that nothing is unknown when it fails."""
        try:
            return await self._repeated(ask, None)
        except ProviderUnavailable as error:
            said = str(error).partition(";")[0]
            raise ProviderUnavailable(f"{said}; nothing was changed", outcome_unknown=False) from error.__cause__

    async def write(
        self, ask: Callable[[stripe.StripeClient, stripe.RequestOptions], Awaitable[T]], key: str | None = None
    ) -> T:
        """Every attempt has the same key: the caller's, or one of this call alone."""
        chosen = key or f"mm:{uuid4()}"
        return await self._repeated(lambda client: ask(client, {"idempotency_key": chosen}), chosen)

    async def pages(
        self, first: Callable[[stripe.StripeClient], Awaitable[stripe.ListObject[Found]]]
    ) -> AsyncIterator[Found]:
        """Everything in a list, 20 pages at most."""
        page = await self.read(first)
        for _ in range(MAX_PAGES):
            for each in page.data:
                yield each
            if not page.has_more:
                return
            page = await self.read(lambda _, last=page: last.next_page_async())  # type: ignore[misc]

    async def _repeated(self, ask: Callable[[stripe.StripeClient], Awaitable[T]], key: str | None) -> T:
        import stripe

        unknown, attempt = False, 0
        while True:
            attempt += 1
            await self._turn()
            try:
                return await ask(self._clients.here()[0])
            except (stripe.StripeError, AttributeError, TypeError, ValueError) as error:
                failure, cause = failure_of(error, key), error
            unknown = unknown or failure.unknown
            if not failure.again or attempt >= self._retries.attempts:
                break
            await self._retries.sleep(self._retries.wait_s(attempt))
        raise self._last(failure.error, unknown=unknown) from (cause if failure.again else None)

    async def _turn(self) -> None:
        """Waits until another call may begin."""
        free, now_s = self._free.here(), asyncio.get_running_loop().time()
        begins_s = max(free[0], now_s)
        free[0] = begins_s + self._gap_s
        if begins_s > now_s:
            await asyncio.sleep(begins_s - now_s)

    def _last(self, error: BillingError, *, unknown: bool) -> BillingError:
        """What the last attempt says of itself, unless an earlier one may have happened."""
        if isinstance(error, ProviderRateLimited | ProviderUnavailable) and unknown:
            return error if isinstance(error, ProviderUnavailable) and error.outcome_unknown else unavailable()
        return ProviderRateLimited(self._retries.most_s) if isinstance(error, ProviderRateLimited) else error


@contextmanager
def once_begun() -> Iterator[None]:
    """Around what comes after a first change: where that fails, the whole may have happened."""
    try:
        yield
    except (ProviderRateLimited, ProviderUnavailable) as error:
        raise unavailable() from error.__cause__


def key_of(key: str | None, step: str) -> str | None:
    """A step's own idempotency key, which follows from the caller's; InvalidInput for a key that Stripe cannot hold."""
    if key is None:
        return None
    if not _KEY.fullmatch(str(key)):
        raise InvalidInput("idempotency_key", "is not 1 to 200 printable ASCII characters without spaces")
    return f"{key}:{step}"
