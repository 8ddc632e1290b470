"""What a Stripe account holds, and what has happened in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, Final, TypeAlias

from mm_metering.clock import Clock
from mm_metering.testing.fake_stripe.params import Params
from mm_metering.testing.fake_stripe.spec import blank

Thing: TypeAlias = dict[str, Any]
API_VERSION: Final = "2026-10-28.endive"
PREFIX: Final[Mapping[str, str]] = {
    "customer": "cus",
    "payment_method": "pm",
    "setup_intent": "seti",
    "product": "prod",
    "price": "price",
    "subscription": "sub",
    "subscription_item": "si",
    "invoice": "in",
    "invoiceitem": "ii",
    "line_item": "il",
    "invoice_payment": "inpay",
    "payment_intent": "pi",
    "billing.meter": "mtr",
    "event": "evt",
}


class Refusal(Exception):
    """An answer that is an error, in Stripe's form."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        kind = {402: "card_error"}.get(status, "invalid_request_error")
        self.body: Thing = {"error": {"type": kind, "message": message, **details}}
        self.headers: dict[str, str] = dict(headers or {})


class Account:
    """Objects by kind and id. What is made or changed is told as an event."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.kept: dict[str, dict[str, Thing]] = defaultdict(dict)
        self.events: list[Thing] = []
        self.meter_events: list[Thing] = []
        self._numbers: dict[str, int] = defaultdict(int)

    @property
    def now(self) -> int:
        return int(self.clock.now().timestamp())

    def new(self, kind: str, **fields: Any) -> Thing:
        """An object with an id and a time, kept."""
        self._numbers[kind] += 1
        made = blank(kind)
        made |= {"id": f"{PREFIX[kind]}_fake{self._numbers[kind]:06}", "created": self.now, **fields}
        if "created" not in blank(kind):
            del made["created"]
        self.kept[kind][made["id"]] = made
        return made

    def get(self, kind: str, id_: str) -> Thing:
        """Refusal (404) for one that there is not."""
        if id_ in self.kept[kind]:
            return self.kept[kind][id_]
        if "_live_" in id_:
            raise Refusal(
                404,
                f"No such {kind}: '{id_}'; a similar object exists in live mode, but a test mode key was used",
                code="resource_missing",
            )
        raise Refusal(404, f"No such {kind}: '{id_}'", code="resource_missing", param="id")

    def every(self, kind: str, wanted: Callable[[Thing], bool] = lambda _: True) -> list[Thing]:
        """The newest first, as Stripe lists."""
        return [each for each in reversed(self.kept[kind].values()) if wanted(each)]

    def tell(self, type_: str, thing: Thing) -> None:
        event = self.new("event", type=type_, api_version=API_VERSION, data={"object": deepcopy(thing)})
        event["pending_webhooks"] = 1
        self.events.append(event)


def page(things: Iterable[Thing], params: Params, url: str) -> Thing:
    """A page of a list, after ``starting_after``."""
    found = list(things)
    if after := params.get("starting_after"):
        places = [place for place, each in enumerate(found) if each["id"] == after]
        found = found[places[0] + 1 :] if places else []
    limit = int(params.get("limit", 10))
    return {"object": "list", "data": found[:limit], "has_more": len(found) > limit, "url": url}
