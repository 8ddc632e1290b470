"""How often a payment that failed is tried again, and what its tenant loses meanwhile: a table, as data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from mm_metering.errors import InvalidInput

MAX_DAYS = 365


@dataclass(frozen=True, slots=True)
class Dunning:
    """Days are counted from the first failure.

    retries      the days on which it is tried again; () leaves that to the provider's own schedule
    suspends     the day on which the tenant's requests are refused (``payment-required``); until then it is served
    gives_up     the day on which the invoice becomes uncollectible; None: never by itself
    """

    retries: tuple[int, ...] = (1, 3, 5, 7)
    suspends: int = 14
    gives_up: int | None = 60

    def __post_init__(self) -> None:
        days = [*self.retries, self.suspends, *([] if self.gives_up is None else [self.gives_up])]
        if any(type(day) is not int or not 0 <= day <= MAX_DAYS for day in days):
            raise InvalidInput("dunning", f"{days} are not whole days from 0 to {MAX_DAYS}")
        if list(self.retries) != sorted(set(self.retries)) or self.retries[:1] == (0,):
            raise InvalidInput("dunning", f"retries on the days {self.retries} do not rise from 1 on")
        if self.gives_up is not None and self.gives_up < self.suspends:
            raise InvalidInput("dunning", f"it gives up on day {self.gives_up}, before it suspends on {self.suspends}")

    def retry_at(self, failed_at: datetime, now: datetime) -> datetime | None:
        """The next of its days after now; None if there is none left."""
        days = (failed_at + timedelta(days=day) for day in self.retries)
        return next((each for each in days if each > now), None)

    def suspends_at(self, failed_at: datetime) -> datetime:
        return failed_at + timedelta(days=self.suspends)

    def gives_up_at(self, failed_at: datetime) -> datetime | None:
        return None if self.gives_up is None else failed_at + timedelta(days=self.gives_up)
