"""What a failed call to Stripe means: which of our errors it is, whether to ask again, whether it may have happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from mm_metering.billing.adapter import looks_like_a_card
from mm_metering.errors import (
    HARD_DECLINES,
    ActionRequired,
    BillingError,
    CardDeclined,
    InvalidRequest,
    ProviderRateLimited,
    ProviderRefused,
    ProviderUnavailable,
)

if TYPE_CHECKING:
    import stripe

MAX_TEXT: Final = 300
_NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})
"""Errors of httpx by which no byte of the request had left."""
_CONFIRM: Final = frozenset(
    {
        "authentication_required",
        "invoice_payment_intent_requires_action",
        "subscription_payment_intent_requires_action",
    }
)
_OTHER_MODE: Final = "a similar object exists in"


class NoSuchObject(InvalidRequest):
    """Stripe knows no object of an id that was sent."""


class Failure(NamedTuple):
    """``again``: the same call with the same key may succeed."""

    error: BillingError
    again: bool = False

    @property
    def unknown(self) -> bool:
        """Whether it may have happened."""
        return isinstance(self.error, ProviderUnavailable) and self.error.outcome_unknown


def failure_of(error: Exception, key: str | None) -> Failure:
    """Of whatever a call of the SDK raised. ``key`` is the idempotency key that it was made with."""
    import stripe

    match error:
        case stripe.APIConnectionError():
            sent = type(error.__cause__).__name__ not in _NEVER_SENT
            return Failure(unavailable("did not answer" if sent else "cannot be reached", unknown=sent), again=True)
        case stripe.RateLimitError():
            return Failure(ProviderRateLimited(1.0), again=_may_try_again(error))
        case stripe.IdempotencyError() | stripe.AuthenticationError() | stripe.PermissionError():
            return Failure(_wrong_key(error, key))
        case stripe.CardError():
            return Failure(_card(error))
        case stripe.InvalidRequestError():
            return Failure(_request(error))
        case stripe.StripeError():
            return _by_status(error)
    # A body such as {"error": "text"}, as gateways write, makes the SDK itself fail.
    return Failure(unavailable("was answered for by something else"), again=True)


def _by_status(error: stripe.StripeError) -> Failure:
    status, again = error.http_status or 0, _may_try_again(error)
    if status == 409:
        return Failure(unavailable("is at work on the same object or key"), again=again)
    if status >= 500 or status < 300:
        return Failure(unavailable(f"answered HTTP {status}"), again=again)
    message = f"answered HTTP {status}, and not as Stripe's API does; is base_url right?"
    return Failure(unavailable(message, unknown=False))


def _wrong_key(error: stripe.StripeError, key: str | None) -> InvalidRequest:
    """Of either kind: that of the account, or that of the request."""
    import stripe

    match error:
        case stripe.IdempotencyError():
            return InvalidRequest(
                f"the idempotency key {key!r} was used before for another request; take a new one for a new request"
            )
        case stripe.AuthenticationError():
            return ProviderRefused("Stripe does not take the api_key: it is wrong, revoked or expired")
    return ProviderRefused(f"the api_key may not do this; give it the permission: {_text(error)}")


def unavailable(what: str = "did not answer", *, unknown: bool = True) -> ProviderUnavailable:
    way = "it may have happened: ask again with the same idempotency key" if unknown else "nothing happened"
    return ProviderUnavailable(f"the payment provider {what}; {way}", outcome_unknown=unknown)


def _may_try_again(error: stripe.StripeError) -> bool:
    return (error.headers or {}).get("stripe-should-retry") != "false"


def _card(error: stripe.CardError) -> BillingError:
    """HTTP 402 is a decline, a payment to be confirmed, or (by its type) a request with a raw card number."""
    details, decline = error.error, ""
    if details is not None:
        decline = details.decline_code or ""
        if _CONFIRM & {error.code, decline}:
            intent = details.payment_intent
            return ActionRequired((intent.client_secret if intent is not None else None) or "")
        if details.type != "card_error":
            return InvalidRequest(_text(error))
        if details.advice_code == "do_not_try_again" and decline not in HARD_DECLINES:
            decline = details.advice_code
    if not decline:
        decline = "generic_decline" if error.code in (None, "card_declined") else str(error.code)
    return CardDeclined(decline)


def _request(error: stripe.InvalidRequestError) -> InvalidRequest:
    if _OTHER_MODE in (error.user_message or ""):
        return InvalidRequest("that id is of live data and the api_key of test data, or the other way round")
    return (NoSuchObject if error.code == "resource_missing" else InvalidRequest)(_text(error))


def _text(error: stripe.StripeError) -> str:
    """What Stripe says, which names the parameter; without what nobody should read."""
    text = error.user_message or "Stripe gave no reason"
    if looks_like_a_card(text):
        text = "Stripe refused a card number"
    request = f" ({error.request_id})" if error.request_id else ""
    return f"{text[:MAX_TEXT]}{request}"
