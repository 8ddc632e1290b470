"""One AI call: what was held for it, which model and how much output it may use, and what it came to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from mm_metering.ai.prices import Prices
from mm_metering.ai.replies import usage_of
from mm_metering.ai.usage import MAX_TOKENS, Usage
from mm_metering.core.events import whole_quantity
from mm_metering.core.money import Amount, non_negative, to_nanos
from mm_metering.errors import InvalidInput

log = logging.getLogger("mm_metering.ai")

NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "gaierror"})
"""Errors of HTTP clients, anywhere in an error's causes, by which no byte of the request had left."""
MAX_CAUSES: Final = 8


@dataclass(frozen=True, slots=True)
class Settled:
    """What a call is charged: provider cost in nano-units, and tokens. ``status`` is "exact", "estimated" (usage was
    missing or broken off), "unpriced" (what was held is charged) or "unsettled" (nobody said what it used)."""

    nanos: int
    tokens: int
    status: str
    source: str
    usage: Usage | None = None
    detail: Mapping[str, Any] | None = None


class AiCall:
    """``model`` and ``max_output_tokens`` are what the call may use: perhaps the fallback, perhaps less than asked.

    Say once what it was: ``settle(reply)``, ``settle(input_tokens=..., output_tokens=...)`` or ``release()`` if nothing
    was called. A later word changes nothing. It is written when the block ends.
    """

    def __init__(
        self,
        *,
        model: str,
        asked_model: str,
        input_tokens: int,
        max_output_tokens: int,
        granted_nanos: int | None,
        floor_nanos: int,
        began_at: datetime,
        prices: Prices,
    ) -> None:
        self.model = model
        self.is_fallback = model != asked_model
        self.input_tokens = input_tokens
        self.max_output_tokens = max_output_tokens
        self.granted_nanos = granted_nanos
        """What is held of the budget; None where no budget limits it."""
        self.floor_nanos = floor_nanos
        """What its input alone costs: the least that a call costs that was sent."""
        self.settled: Settled | None = None
        self.is_released = False
        self.is_limited = False
        """Whether something limits it, so that it is told its cap."""
        self.left_behind: Callable[[], None] | None = None
        """Settles by what a stream has come to until now, where one is tracked."""
        self._began_at = began_at
        self._prices = prices

    @property
    def is_open(self) -> bool:
        """Whether nobody has said yet what it was."""
        return self.settled is None and not self.is_released

    @property
    def most_written(self) -> int:
        """What it can have written where that is only estimated: its provider keeps to the cap."""
        return self.max_output_tokens if self.is_limited and self.max_output_tokens else MAX_TOKENS

    def settle(
        self,
        reply: object = None,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cached_tokens: int = 0,
        reasoning_tokens: int = 0,
        cost: Amount | None = None,
    ) -> None:
        """By the provider's reply (an SDK's object or a dict), or by counts; ``cost`` is the provider's own, where it
        is known better. InvalidInput for counts that are none."""
        counts = (input_tokens, output_tokens)
        if reply is not None and counts != (None, None):
            raise InvalidInput("reply", "and counts say the same thing; give one of the two")
        nanos = None if cost is None else to_nanos(non_negative(cost, "cost"))
        if counts != (None, None):
            found: Usage | None = self._counted(input_tokens, output_tokens, cached_tokens, reasoning_tokens)
        else:
            found = usage_of(
                reply, model=self.model, input_tokens=self.input_tokens, max_output_tokens=self.most_written
            )
        if self.is_open:
            self.settled = self._charged(found, nanos)

    def settle_usage(self, usage: Usage) -> None:
        """By what a stream came to."""
        if self.is_open:
            self.settled = self._charged(usage, None)

    def release(self) -> None:
        """Nothing was called: nothing is charged."""
        if self.is_open:
            self.is_released = True

    def end(self, error: BaseException | None) -> None:
        """The block is over. Where nobody said what the call was, its error does; else all that is held is charged."""
        if not self.is_open:
            return
        if error is None:
            log.warning(
                "an AI call of %s was not settled: all that was held is charged; call.settle(reply)", self.model
            )
            self.settled = Settled(self.granted_nanos or self.floor_nanos, self.input_tokens, "unsettled", "hold")
        elif _was_not_run(error):
            self.is_released = True
        else:
            self.settled = Settled(self.floor_nanos, self.input_tokens, "estimated", f"input alone: {_name(error)}")

    def _counted(self, read: int | None, written: int | None, cached: int, reasoning: int) -> Usage:
        most: dict[str, int] = {
            name: whole_quantity(value, least=0, field=name)
            for name, value in (
                ("input_tokens", self.input_tokens if read is None else read),
                ("output_tokens", 0 if written is None else written),
                ("cached_tokens", cached),
                ("reasoning_tokens", reasoning),
            )
        }
        for name, value in most.items():
            if value > MAX_TOKENS:
                raise InvalidInput(name, f"{value:,} are more than {MAX_TOKENS:,}")
        return Usage(
            asked_model=self.model,
            input=most["input_tokens"],
            cached=most["cached_tokens"],
            output=most["output_tokens"],
            reasoning=most["reasoning_tokens"],
        )

    def _charged(self, usage: Usage | None, nanos: int | None) -> Settled:
        if usage is None:
            held = self.granted_nanos or self.floor_nanos
            return Settled(held if nanos is None else nanos, self.input_tokens, "estimated", "no usage in the reply")
        usage = usage if usage.asked_model else replace(usage, asked_model=self.model)
        tokens = sum(part.input + part.output for part in usage.parts)
        status = "estimated" if usage.is_estimated or usage.is_contradictory else "exact"
        if nanos is not None:
            return Settled(nanos, tokens, status, "the caller", usage)
        cost = self._prices.cost(usage, self._began_at)
        if cost.status == "unpriced":
            detail = {"missing": list(cost.missing[:8])}
            held = max(cost.nanos, self.granted_nanos or 0, self.floor_nanos)
            return Settled(held, tokens, "unpriced", cost.source, usage, detail)
        dated = {} if cost.dated is None else {"dated": cost.dated.isoformat()}
        return Settled(cost.nanos, tokens, status, cost.source, usage, dated)


def _was_not_run(error: BaseException) -> bool:
    """Whether the provider refused the call, or never got it."""
    each: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if each is None:
            return False
        status = getattr(each, "status_code", None)
        if isinstance(status, int) and status >= 400:
            return True
        if type(each).__name__ in NEVER_SENT:
            return True
        each = each.__cause__ or each.__context__
    return False


def _name(error: BaseException) -> str:
    return type(error).__name__
