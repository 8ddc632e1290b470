"""Prices as whole numbers, so that a cost is exact and one division ends it.

A rate is dollars per million of a unit, times 10^24: prices have at most 24 decimal places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Final

from mm_metering.ai.usage import MAX_TOKENS, Usage
from mm_metering.core.money import EXACT

PLACES: Final = 24
PER_NANO: Final = 10 ** (PLACES + 6 - 9)
"""Sums of counts times rates, in one nano-dollar."""
PER_PICO: Final = 10 ** (PLACES + 6 - 12)
PICOS_PER_NANO: Final = 1_000


@dataclass(frozen=True, slots=True)
class Rate:
    """What a million of a unit costs. ``steps``: from more than so many input tokens on, all of them cost that."""

    base: int
    steps: tuple[tuple[int, int], ...] = ()

    def at(self, input_tokens: int) -> int:
        rate = self.base
        for start, price in self.steps:
            if input_tokens > start:
                rate = price
        return rate


def rate_of(price: Decimal, *, per: int = 1_000_000) -> int:
    """A price per so many units as a whole number, rounded up past 24 places."""
    with localcontext(EXACT):
        scaled = price.scaleb(PLACES + 6) / per
        return int(scaled.to_integral_value(ROUND_CEILING))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRates:
    """What a hold needs to know, in whole pico-dollars (10^-12) per token, rounded up: never below the price.

    ``ceil((input x input_picos + output x output_picos + call_picos) / 1000)`` nano-dollars is the hold, which a script
    can multiply: exact in a double while the sum stays below 2^53 - 1000, that is for ten million tokens at 900 dollars
    a million. ``output_picos`` is None where the model produces no tokens that have a price.
    """

    input_picos: int
    output_picos: int | None
    call_picos: int = 0

    def worst_case(self, input_tokens: int, max_output_tokens: int) -> int | None:
        """Nano-dollars that a call of texts cannot cost more than, unless it reads more than that or fills a cache.
        None if its output has no price."""
        if self.output_picos is None and max_output_tokens > 0:
            return None
        picos = input_tokens * self.input_picos + max_output_tokens * (self.output_picos or 0) + self.call_picos
        return -(-picos // PICOS_PER_NANO)

    def affordable_output(self, input_tokens: int, nanos: int) -> int:
        """The most output tokens for which the worst case is at most ``nanos``; 0 if not even the input is."""
        left = nanos * PICOS_PER_NANO - input_tokens * self.input_picos - self.call_picos
        if left < 0 or self.output_picos is None:
            return 0
        return min(left // self.output_picos, MAX_TOKENS) if self.output_picos else MAX_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """One model's rates by unit. ``source`` and ``dated`` say where they are from and since when they hold; ``unmet``
    what was asked for and has no price, such as a service tier."""

    by_unit: Mapping[str, Rate]
    source: str
    dated: date | None = None
    unmet: tuple[str, ...] = ()

    def sum(self, usage: Usage) -> tuple[int, tuple[str, ...]]:
        """Counts times rates, and the units that have none."""
        total, missing = 0, list(self.unmet)
        for unit, count in billed(usage):
            if count:
                rate = self.by_unit.get(unit)
                if rate is None:
                    missing.append(unit)
                else:
                    total += count * rate.at(usage.input)
        calls = self.by_unit.get("calls")
        return (total if calls is None else total + calls.base), tuple(missing)

    def tokens(self, input_tokens: int) -> TokenRates | None:
        """Of input that is not cached, and of output or reasoning, whichever costs more; None if input has no price."""
        read, calls = self.by_unit.get("input"), self.by_unit.get("calls")
        if read is None or self.unmet:
            return None
        wrote = [self.by_unit[unit].at(input_tokens) for unit in ("output", "reasoning") if unit in self.by_unit]
        return TokenRates(
            input_picos=_up(read.at(input_tokens)),
            output_picos=_up(max(wrote)) if wrote else None,
            call_picos=0 if calls is None else _up(calls.base),
        )


def billed(usage: Usage) -> Iterator[tuple[str, int]]:
    """Every token once, under the unit of its price. Where kinds overlap and nobody says how far (sound out of a
    cache), the overlap is in both."""
    audio = usage.audio_input - usage.cached_audio
    cached = usage.cached + usage.cache_write + usage.cache_write_1h
    yield "input", max(usage.input - cached - audio - usage.image_input, 0)
    yield "cached", usage.cached - usage.cached_audio
    yield "cache_write", usage.cache_write
    yield "cache_write_1h", usage.cache_write_1h
    yield "audio_input", audio
    yield "cached_audio", usage.cached_audio
    yield "image_input", usage.image_input
    yield "output", max(usage.output - usage.reasoning - usage.audio_output - usage.image_output, 0)
    yield "reasoning", usage.reasoning
    yield "audio_output", usage.audio_output
    yield "image_output", usage.image_output
    yield "audio_seconds", usage.audio_seconds
    yield "web_searches", usage.web_searches


def with_fallbacks(rates: Mapping[str, Rate], *, is_one_price_for_all: bool = False) -> dict[str, Rate]:
    """Units that are billed as others where they have no price of their own.

    Reasoning is output, what a cache gives is input, and so is an image. What a cache keeps is input where the list
    prices its reading alone. An image is output where the list has a price for reading images. Searches are in the
    fee of a call, where there is one. Sound is never text, except with a provider that has one price for all.
    """
    found = dict(rates)
    writes_cost_nothing_more = "cached" in found and not found.keys() & {"cache_write", "cache_write_1h"}
    pairs = [("reasoning", "output"), ("cached", "input"), ("image_input", "input")]
    if "image_input" in found:
        pairs.append(("image_output", "output"))
    if "calls" in found:
        found.setdefault("web_searches", Rate(0))
    if writes_cost_nothing_more:
        pairs += [("cache_write", "input"), ("cache_write_1h", "input")]
    if is_one_price_for_all:
        pairs += [("audio_input", "input"), ("audio_output", "output")]
    pairs += [("cached_audio", "audio_input")]
    for unit, other in pairs:
        if unit not in found and other in found:
            found[unit] = found[other]
    return found


def _up(rate: int) -> int:
    return -(-rate // PER_PICO)
