"""``FakeStripe``: a Stripe on loopback that keeps what it is told, for tests.

Every request and every answer is checked against Stripe's official OpenAPI document. It is no Stripe: it knows what our
adapter asks, test cards by their tokens, and no money.
"""

from __future__ import annotations

import json
import random
import threading
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mm_metering.billing.signatures import sign
from mm_metering.clock import Clock, SystemClock
from mm_metering.core.periods import from_micros
from mm_metering.testing.fake_stripe import invoices, subscriptions
from mm_metering.testing.fake_stripe.server import Asked, Desk, Fault, listening
from mm_metering.testing.fake_stripe.state import Account, Thing

if TYPE_CHECKING:
    from mm_metering.billing.stripe import StripeBillingAdapter

__all__ = ["Asked", "FakeStripe", "Fault"]


class FakeStripe:
    """A context manager: ``with FakeStripe() as fake: StripeBillingAdapter(api_key=fake.api_key, base_url=fake.url)``.

    Leaving it raises AssertionError with all ``problems``: what a request or an answer had against the official
    document. ``clock`` is what periods, keys' lives and signatures go by. Without ``keep_alive`` each answer ends its
    connection, so that clients on event loops that end leave none open.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        api_key: str = "sk_test_fake",
        webhook_secret: str = "whsec_fake",
        keep_alive: bool = True,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.api_key = api_key
        self.webhook_secret = webhook_secret
        self.account: Account = Account(self.clock)
        self._desk = Desk(self.account, api_key)
        self._keep_alive = keep_alive
        self._server: ThreadingHTTPServer | None = None
        self._told = 0

    def __enter__(self) -> Self:
        self._server = listening(self._desk, keep_alive=self._keep_alive)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self.problems and error is None:
            raise AssertionError("not as Stripe's document says:\n" + "\n".join(self.problems))

    @property
    def url(self) -> str:
        assert self._server is not None, "use it as a context manager"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def adapter(self, **options: Any) -> StripeBillingAdapter:
        """What ``Metering(billing=...)`` takes. It asks at once again, and as often as it likes."""
        from mm_metering.billing.stripe import Retries, StripeBillingAdapter

        given: dict[str, Any] = {
            "api_key": self.api_key,
            "webhook_secret": self.webhook_secret,
            "base_url": self.url,
            "retries": Retries(first_s=0, most_s=0),
            "calls_per_s": 1000,
        }
        return StripeBillingAdapter(**given | options)

    @property
    def requests(self) -> list[Asked]:
        return self._desk.asked

    @property
    def problems(self) -> list[str]:
        return self._desk.problems

    def fail(self, pattern: str, kind: Fault, *, times: int = 1) -> None:
        """The next ``times`` requests whose path has the pattern (a regular expression) go wrong; 0 ends that.

        lost: done, and the answer never comes. refused: not done. 500-before: not done. 500-after: done, and the
        failure is kept under the key. 429, 409, html, text-error: not done.
        """
        self._desk.fail(pattern, kind, times)

    # -- what happens without a request -------------------------------------------------------------------------------

    def authenticate(self, invoice_id: str) -> None:
        """The customer confirms the payment of an invoice, or a bank that took its time has paid it."""
        with self._desk.lock:
            invoices.settled(self.account, self.account.get("invoice", invoice_id))

    def decline(self, invoice_id: str, decline_code: str = "insufficient_funds") -> None:
        """A payment on its way has failed after all."""
        with self._desk.lock:
            invoices.failed(self.account, self.account.get("invoice", invoice_id), decline_code)

    def roll(self) -> list[Thing]:
        """Bills subscriptions whose period is over by the clock, with the usage of their meters."""
        with self._desk.lock:
            return subscriptions.roll(self.account)

    # -- webhooks -----------------------------------------------------------------------------------------------------

    def events(self) -> list[Thing]:
        """All that has happened, the oldest first."""
        return list(self.account.events)

    def undelivered(self) -> list[Thing]:
        """What has happened since this was asked last."""
        fresh = self.account.events[self._told :]
        self._told += len(fresh)
        return fresh

    def delivery(
        self, event: Thing, *, secret: str | None = None, at_us: int | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """The raw body and the headers of a webhook, signed now unless ``at_us`` says when."""
        body = json.dumps(event).encode()
        at = self.clock.now() if at_us is None else from_micros(at_us)
        return body, {"stripe-signature": sign(body, secret or self.webhook_secret, at)}

    def deliveries(
        self, *, chance: random.Random | None = None, duplicates: float = 0.0
    ) -> list[tuple[bytes, dict[str, str]]]:
        """Of all events so far; with ``chance`` in any order, and each once more with that probability."""
        told = self.events()
        if chance is not None:
            told += [each for each in told if chance.random() < duplicates]
            chance.shuffle(told)
        return [self.delivery(each) for each in told]
