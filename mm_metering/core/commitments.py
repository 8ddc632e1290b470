"""Minimum commitments: the least that a month's fees and usage come to, by the plans that were in force."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext
from itertools import groupby
from typing import NamedTuple

from mm_metering.core.invoices import Share
from mm_metering.core.money import EXACT
from mm_metering.core.schema import money_text


class Stay(NamedTuple):
    """How many of a month's seconds a plan was in force, and its minimum."""

    plan: str
    minimum: Decimal
    seconds: int


class Commitment(NamedTuple):
    """A month's minimum. ``terms`` are its amounts, each with the seconds for which it held."""

    terms: tuple[tuple[Decimal, int], ...]
    of_seconds: int
    plans: tuple[str, ...]

    @classmethod
    def of(cls, stays: Iterable[Stay], of_seconds: int) -> Commitment | None:
        """None where no plan has a minimum."""
        found = [stay for stay in stays if stay.minimum]
        found.sort(key=lambda stay: stay.minimum)
        terms = tuple(
            (minimum, sum(stay.seconds for stay in same))
            for minimum, same in groupby(found, key=lambda stay: stay.minimum)
        )
        plans = tuple(sorted({stay.plan for stay in found}))
        return cls(terms, of_seconds, plans) if terms else None

    @property
    def amount(self) -> Decimal:
        """Exact, up to the 60 digits of a division: the sum over its terms of amount x seconds / seconds of the
        month."""
        with localcontext(EXACT):
            return sum((minimum * seconds for minimum, seconds in self.terms), Decimal(0)) / self.of_seconds

    @property
    def share(self) -> Share | None:
        """The part of the month for which the one minimum held; None where there were several."""
        seconds = [seconds for _, seconds in self.terms]
        return Share(seconds=seconds[0], of_seconds=self.of_seconds) if len(seconds) == 1 else None

    @property
    def words(self) -> str:
        """ "500.00", or "300.00 x 1,296,000/2,678,400 + 500.00 x 1,382,400/2,678,400"."""
        return " + ".join(
            money_text(minimum) + ("" if seconds == self.of_seconds else f" x {seconds:,}/{self.of_seconds:,}")
            for minimum, seconds in self.terms
        )
