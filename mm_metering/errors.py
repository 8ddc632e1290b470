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
    │   └── InvalidEvent
    ├── EventConflict            an event id was used before for another payload
    ├── NotBound                 no tenant is bound to this context
    ├── PeriodNotOver            the period is still running
    ├── WrongState               that cannot happen to an invoice in its state; carries it as ``.state``
    ├── NotFound                 no invoice, line or other thing of that id
    ├── CatalogueError           plans.toml is wrong; carries ``.file`` and ``.line``
    │   └── NotApplied           the file or the schema is newer than the ledger's
    ├── UnknownTenant            no such tenant, and the catalogue has no default plan
    ├── MissingExtra             an optional part is not installed; says the install line
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
        self.decisions = decisions or (decision,)


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


class StoreUnavailable(MeteringError):
    """The counters or the ledger cannot be reached. Nothing was counted unless the message says so."""


class Unstorable(MeteringError):
    """The ledger cannot hold some of the facts it was given, and has written nothing. ``facts`` says why, by their
    place among those given, counted from 0."""

    def __init__(self, facts: Mapping[int, str]) -> None:
        super().__init__(f"the ledger cannot hold {len(facts)} of the facts, such as: {next(iter(facts.values()))}")
        self.facts = facts
