"""Every error the package raises, in one tree.

    MeteringError
    ├── Refused                  a decision said no; carries it as ``.decision``
    │   ├── QuotaExceeded        429  quota-exceeded, rate-limited
    │   ├── BudgetExceeded       402  budget-exceeded (429 budget-busy)
    │   ├── FeatureNotInPlan     403  feature-not-in-plan
    │   └── ModelNotAllowed      403  model-not-allowed, model-unpriced
    ├── InvalidInput             a value the caller passed; carries ``.field``
    │   ├── InvalidMoney
    │   ├── InvalidTenant
    │   ├── InvalidEvent
    │   └── UrlRefused           a webhook's URL that is not called
    ├── EventConflict            an event id was used before for another payload
    ├── NotBound                 no tenant is bound to this context
    ├── PeriodNotOver            the period is still running
    ├── WrongState               that cannot happen to an invoice in its state; carries it as ``.state``
    │   └── ChangedMeanwhile     a tenant that others keep changing; nothing was written
    ├── NotFound                 no invoice, line or other thing of that id
    ├── CatalogueError           plans.toml is wrong; carries ``.file`` and ``.line``
    │   └── NotApplied           the file or the schema is newer than the ledger's
    ├── UnknownTenant            no such tenant, and the catalogue has no default plan
    ├── MissingExtra             an optional part is not installed; says the install line
    ├── BillingError             the payment provider said no, or did not answer
    │   ├── CardDeclined         carries ``.decline_code`` and whether trying again makes sense
    │   ├── ActionRequired       the customer must confirm; carries ``.client_secret``
    │   ├── ProviderRateLimited  too many calls at once; ``.retry_after_s``
    │   ├── ProviderUnavailable  no answer; ``.outcome_unknown`` says whether it may have happened
    │   └── InvalidRequest       asked for something that cannot be, or with a wrong key
    ├── StoreUnavailable         the counters or the ledger did not answer in time
    └── Unstorable               facts whose values the ledger cannot hold; carries them as ``.facts``

A message says what happened, the number, and the way out. It never holds a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mm_metering.core.decision import Decision


class MeteringError(Exception):
    """The root: ``except MeteringError`` catches everything this package raises on purpose."""


class Refused(MeteringError):
    """A limit said no. Nothing was counted. ``decision`` holds the numbers; ``decisions`` all that were asked with it,
    refused ones first."""

    def __init__(self, message: str, *, decision: Decision, decisions: tuple[Decision, ...] = ()) -> None:
        super().__init__(message)
        self.decision = decision
        self.decisions: tuple[Decision, ...] = decisions or (decision,)


class QuotaExceeded(Refused):
    """A quota or a burst rate is used up: HTTP 429."""


class BudgetExceeded(Refused):
    """A money limit is used up or reserved: HTTP 402, or 429 while others hold the rest."""


class FeatureNotInPlan(Refused):
    """The plan's limit for this meter is 0: HTTP 403."""


class ModelNotAllowed(Refused):
    """The model is not on the tenant's allowlist, or has no price under a money budget: HTTP 403."""


class InvalidInput(MeteringError):
    """A value breaks a bound. ``field`` names it; nothing was recorded."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class InvalidMoney(InvalidInput):
    """Not an exact amount: a float, a NaN, too many digits, or out of range."""


class InvalidTenant(InvalidInput):
    """A tenant id that is empty, longer than 256 UTF-8 bytes, or holds control characters or lone surrogates."""


class InvalidEvent(InvalidInput):
    """A usage event with a field out of its bounds, or a meter the catalogue does not have."""


class UrlRefused(InvalidInput):
    """A URL that no webhook is sent to: it breaks the rules, or leads to an address that is not public: HTTP 422."""

    def __init__(self, message: str) -> None:
        super().__init__("url", message)


class EventConflict(MeteringError):
    """This event id was recorded before with another payload. The first one stays."""


class NotBound(MeteringError):
    """No tenant is bound here: use ``with metering.bind(tenant)`` outside a request."""


class PeriodNotOver(MeteringError):
    """The billing period has not ended yet, so it cannot be closed."""


class WrongState(MeteringError):
    """What was asked cannot happen in the state that the invoice, or whatever it is, has. Nothing changed."""

    def __init__(self, message: str, *, state: str) -> None:
        super().__init__(message)
        self.state = state


class ChangedMeanwhile(WrongState):
    """A tenant changed between reading it and writing what was decided for it. Nothing changed; asking again helps."""


class NotFound(MeteringError):
    """There is no such invoice, line, credit or discount."""


class CatalogueError(MeteringError):
    """The catalogue is wrong. ``file`` and ``line`` point at it; ``line`` is None for Python forms."""

    def __init__(self, message: str, *, file: str | None = None, line: int | None = None) -> None:
        where = ":".join(str(part) for part in (file, line) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)
        self.file = file
        self.line = line


class NotApplied(CatalogueError):
    """Production refuses a plans file or a schema that was not applied; the message shows the command."""


class UnknownTenant(MeteringError):
    """The tenant does not exist, and without ``default_plan`` none is made for it."""


class MissingExtra(MeteringError, ImportError):
    """An optional dependency is missing; the message is the exact install line."""

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f'{needed_for} needs an extra: pip install "mm-metering[{extra}]"')
        self.extra = extra


class BillingError(MeteringError):
    """What a payment provider's adapter raises. Nothing of it holds a key or a card number."""


class CardDeclined(BillingError):
    """The bank said no. ``decline_code`` is the provider's word; ``is_final``: asking again with the same card is of no
    use, and may be fined."""

    def __init__(self, decline_code: str) -> None:
        way = "ask for another card" if decline_code in HARD_DECLINES else "try again later, or ask for another card"
        super().__init__(f"the card was declined ({decline_code}); {way}")
        self.decline_code = decline_code
        self.is_final: bool = decline_code in HARD_DECLINES


HARD_DECLINES = frozenset({"lost_card", "stolen_card", "pickup_card", "fraudulent", "expired_card", "do_not_try_again"})
"""After which the same card is not asked again."""


class ActionRequired(BillingError):
    """The customer must confirm the payment; ``client_secret`` is for the provider's own page or script, and not for a
    log: it is not in the message."""

    def __init__(self, client_secret: str) -> None:
        super().__init__("the customer must confirm this payment; send them to it with the client_secret")
        self.client_secret = client_secret


class ProviderRateLimited(BillingError):
    """Too many calls. Nothing happened; ask again after ``retry_after_s`` with the same key."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the payment provider asks for fewer calls; try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


class ProviderUnavailable(BillingError):
    """No usable answer. With ``outcome_unknown`` it may have happened: ask again with the same key, or look first."""

    def __init__(self, message: str, *, outcome_unknown: bool) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class InvalidRequest(BillingError):
    """It cannot be done as asked: an unknown id, a state that does not allow it, a wrong key, a key used twice."""


class NoPaymentMethod(InvalidRequest):
    """The customer has no default way to pay."""

    def __init__(self) -> None:
        super().__init__("the customer has no default way to pay; ask for one")


class ProviderRefused(InvalidRequest):
    """The provider takes no call of ours: a key is wrong, revoked, or may not do this. It concerns every tenant."""


class WebhookRefused(BillingError):
    """A webhook that is not the provider's, or not for us. The message is for a log: the sender is told nothing."""


class StoreUnavailable(MeteringError):
    """The counters or the ledger cannot be reached. Nothing was counted unless the message says so."""


class Unstorable(MeteringError):
    """The ledger cannot hold some of the facts it was given, and has written nothing. ``facts`` says why, by their
    place among those given, counted from 0."""

    def __init__(self, facts: Mapping[int, str]) -> None:
        super().__init__(f"the ledger cannot hold {len(facts)} of the facts, such as: {next(iter(facts.values()))}")
        self.facts = facts
