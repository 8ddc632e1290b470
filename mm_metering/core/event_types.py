"""What a webhook may tell: every event type, its version, what its data holds, and which notices become it; pure.

A host's own types are added to a copy of this table (``webhooks.endpoints``); those of the house stand here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from mm_metering.core.schema import suggestion
from mm_metering.errors import InvalidInput

ANY: Final = "*"
MAX_FILTERS: Final = 100
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}(\.[a-z][a-z0-9_]{0,62}){1,3}")
Fields: TypeAlias = Mapping[str, Mapping[str, Any]]
_TEXT: Final = {"type": "string"}
_WHOLE: Final = {"type": "integer"}
_AMOUNT: Final = {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"}
_INSTANT: Final = {"type": ["string", "null"], "format": "date-time"}
_MONTH: Final = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}
_INVOICE: Final[dict[str, Mapping[str, Any]]] = {"invoice": _TEXT, "period": _MONTH}
_MONEY: Final[dict[str, Mapping[str, Any]]] = {"amount": _AMOUNT, "currency": _TEXT}
_COUNT: Final = {"type": ["integer", "string"], "description": "Units; an amount of money is a decimal string."}
_USE: Final[Fields] = {"meter": _TEXT, "threshold": _WHOLE, "used": _COUNT, "limit": _COUNT}
_ENDPOINT: Final[dict[str, Mapping[str, Any]]] = {"endpoint": _TEXT, "url": _TEXT, "failing_since": _INSTANT}


@dataclass(frozen=True, slots=True)
class EventType:
    """``fields`` are those of its data, each with its JSON Schema; all are required, and more may come in the same
    ``version``. ``of_host``: a delivery counts as the tenant's usage where the host sent the event."""

    name: str
    doc: str
    fields: Fields = field(default_factory=dict)
    version: int = 1
    of_host: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the body that is sent."""
        data = {"type": "object", "properties": dict(self.fields), "required": [*self.fields]}
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": self.name,
            "description": self.doc,
            "type": "object",
            "properties": {
                "type": {"const": self.name},
                "version": {"const": self.version},
                "timestamp": {"type": "string", "format": "date-time"},
                "data": data,
            },
            "required": ["type", "version", "timestamp", "data"],
        }


EVENT_TYPES: Final[Mapping[str, EventType]] = {
    each.name: each
    for each in (
        EventType(
            "billing.invoice_created",
            "An invoice is there, a draft or not. Also for a host to send, with data of its own.",
            of_host=True,
        ),
        EventType("invoice.finalized", "An invoice has its number and changes no more.", _INVOICE | _MONEY),
        EventType("invoice.paid", "An invoice was paid through the provider.", _INVOICE | _MONEY),
        EventType(
            "invoice.payment_failed",
            "A payment failed; when it is tried again, and when the tenant is refused.",
            _INVOICE
            | {
                "attempt": _WHOLE,
                "decline_code": _TEXT,
                "next_attempt_at": _INSTANT,
                "suspends_at": _INSTANT,
            },
        ),
        EventType(
            "invoice.payment_action_required",
            "The customer must confirm a payment.",
            _INVOICE | {"attempt": _WHOLE, "suspends_at": _INSTANT},
        ),
        EventType("invoice.uncollectible", "An invoice is given up.", _INVOICE | _MONEY),
        EventType(
            "subscription.updated",
            "A tenant's plan or state changed; `because` names what made it so.",
            {"status": _TEXT, "because": _TEXT},
        ),
        EventType("quota.warning", "Most of a quota is used.", _USE),
        EventType("quota.exceeded", "A quota is used up.", _USE),
        EventType("overage.started", "A quota is used up, and what comes now is charged.", _USE),
        EventType(
            "budget.warning", "Most of an AI budget is used; `scope` names the part of it, if it is one's.", _USE
        ),
        EventType("budget.exceeded", "An AI budget is used up.", _USE),
        EventType(
            "budget.forecast",
            "The month will more likely than not pass its AI budget.",
            {"period": _MONTH, "budget": _AMOUNT, "spent": _AMOUNT, "expected": _AMOUNT, "probability": _AMOUNT},
        ),
        EventType(
            "usage.spike",
            "An hour's AI cost is far above what is usual for that hour.",
            {"hour": _INSTANT, "cost": _AMOUNT, "usual": _AMOUNT, "most": _AMOUNT},
        ),
        EventType("model.unpriced", "A model was used that has no price.", {"model": _TEXT, "day": _TEXT}),
        EventType("alert.test", "Sent by `mm-metering alerts test`.", {"what": _TEXT}),
        EventType("endpoint.failing", "Nothing but failures at an endpoint for a day.", _ENDPOINT),
        EventType("endpoint.disabled", "An endpoint is sent nothing any more.", _ENDPOINT | {"reason": _TEXT}),
        EventType("endpoint.test", "Sent by `test_endpoint`.", {"endpoint": _TEXT}),
    )
}

_BECOMES: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "payment.succeeded": ("invoice.paid", {}),
    "payment.failed": ("invoice.payment_failed", {}),
    "payment.action_required": ("invoice.payment_action_required", {}),
    "subscription.past_due": ("subscription.updated", {"status": "past_due"}),
    "subscription.suspended": ("subscription.updated", {"status": "unpaid"}),
    "subscription.recovered": ("subscription.updated", {"status": "active"}),
}


class Told(NamedTuple):
    """A notice as an event."""

    type: str
    data: Mapping[str, Any]


def told(notice_type: str, data: Mapping[str, Any]) -> Told:
    """Which event a notice becomes. A notice has the name of its event, but where an older name stays for hooks."""
    name, more = _BECOMES.get(notice_type, (notice_type, {}))
    return Told(name, {**more, **data})


def is_wanted(events: Iterable[str], name: str) -> bool:
    """Whether one of an endpoint's filters takes it: its name, ``*``, or a group such as ``invoice.*``."""
    return any(each in (name, ANY) or (each.endswith(".*") and name.startswith(each[:-1])) for each in events)


def event_name(value: object) -> str:
    """A name for a host's own type: ``report.finished``."""
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise InvalidInput("type", f"{str(value)[:60]!r} is not a name such as report.finished")


def known_type(value: object, known: Mapping[str, EventType]) -> EventType:
    """InvalidInput, with what it may have been, for a type that there is not."""
    if isinstance(value, str) and value in known:
        return known[value]
    hint = suggestion(value, known) or f"; known: {', '.join(known)}"
    raise InvalidInput("type", f"{str(value)[:60]!r} is no event type{hint}")


def filters(values: object, known: Mapping[str, EventType]) -> tuple[str, ...]:
    """An endpoint's filters, each of which some event can pass."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidInput("events", 'expected a list, such as ["invoice.*", "quota.exceeded"], or ["*"]')
    given = tuple(values)[: MAX_FILTERS + 1]
    if not 1 <= len(given) <= MAX_FILTERS:
        raise InvalidInput("events", f"takes 1 to {MAX_FILTERS} filters; all events are " + '["*"]')
    for each in given:
        if not isinstance(each, str) or not any(is_wanted((each,), name) for name in known):
            hint = suggestion(each, known) or f"; known: *, {', '.join(known)}"
            raise InvalidInput("events", f"{str(each)[:60]!r} is no event type{hint}")
    return tuple(dict.fromkeys(given))
