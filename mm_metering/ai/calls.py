"""One AI call: what was held for it, which model and how much output it may use, and what it came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from mm_metering.ai.defects import Kind
from mm_metering.ai.prices import Prices
from mm_metering.ai.reading import get
from mm_metering.ai.replies import is_error, usage_of
from mm_metering.ai.usage import MAX_TOKENS, Usage
from mm_metering.core.events import whole_quantity
from mm_metering.core.money import Amount, non_negative, to_nanos
from mm_metering.errors import InvalidInput

MIN_OUTPUT: Final = 64
USUAL_OUTPUT: Final = 1_024
"""Output tokens that are held for a call which names no maximum."""
NEVER_SENT: Final = frozenset(
    {
        *("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "gaierror"),
        *("ConnectionRefusedError", "ClientConnectorError", "EndpointConnectionError"),
    }
)
"""Errors of HTTP clients, anywhere in an error's causes, by which no byte of the request had left."""
OWN_ANSWERS: Final = frozenset({"HTTPException"})
"""Errors that carry a status and are the host's own answer to its client, not the provider's."""
MAX_CAUSES: Final = 8
MAX_MISSING: Final = 8


@dataclass(frozen=True, slots=True)
class Settled:
    """What a call is charged: provider cost in nano-units, None where nobody knows it, and tokens. ``status`` is
    "exact", "estimated" (usage was missing or broken off), "unpriced" (what was held is charged) or "unsettled" (nobody
    said what it used)."""

    nanos: int | None
    tokens: int
    status: str
    source: str
    usage: Usage | None = None
    detail: Mapping[str, Any] | None = None


class Tracker(Protocol):
    """The stream as its caller sees it; None for what is no stream."""

    def __call__(self, reply: Any, *, text: bool, drain: bool, hides_usage: bool) -> Any: ...


class AiCall:
    """``model`` and ``max_output_tokens`` are what the call may use: perhaps the fallback, perhaps less than asked.

    Say once what it was: ``settle(reply)``, ``settle(input_tokens=..., output_tokens=...)``, ``track(stream)``, or
    ``release()`` if nothing was called. A later word changes nothing. It is written when the block ends, or later its
    stream.
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
        self.is_fallback: bool = model != asked_model
        self.input_tokens = input_tokens
        self.max_output_tokens = max_output_tokens
        self.granted_nanos = granted_nanos
        """What is held of the budget; None where no budget limits it."""
        self.floor_nanos = floor_nanos
        """What its input alone costs: the least that a call costs that was sent."""
        self.may_write: bool = max_output_tokens > 0
        self.is_limited: bool = granted_nanos is not None
        """Whether some limit of the plan's holds it."""
        self.settled: Settled | None = None
        self.is_released: bool = False
        self.tracker: Tracker | None = None
        """How a stream is tracked: set where the call is opened."""
        self.left_behind: Callable[[], None] | None = None
        """Settles by what a stream has come to until now, where one is tracked."""
        self.goes_on = False
        """Its stream is read on in the background, which will say what it was."""
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
            self.settled = self._charged(found, nanos, is_refusal=found is None and is_error(reply))

    def track(self, reply: Any, *, text: bool = False, drain: bool = False, hides_usage: bool = False) -> Any:
        """The same stream, async or not, which settles the call when it ends, is closed or breaks off; what is left of
        it when its request is over is settled then. What is no stream settles the call at once.

        text         gives what each chunk shows a reader, and skips those that show nothing
        drain        reads an async stream on where its reader has left it, 30 seconds and 20,000 chunks at most: its
                     end says what the provider bills
        hides_usage  hides the chunk that has usage alone, which OpenAI sends on request
        """
        tracked = None
        if self.tracker is not None:
            tracked = self.tracker(reply, text=text, drain=drain, hides_usage=hides_usage)
        if tracked is not None:
            return tracked
        self.settle(reply)
        return reply

    def settle_usage(self, usage: Usage) -> None:
        """By what a stream came to."""
        if self.is_open:
            self.settled = self._charged(usage, None, is_refusal=False)

    def release(self) -> None:
        """Nothing was called: nothing is charged."""
        if self.is_open:
            self.is_released = True

    def end(self, error: BaseException | None) -> None:
        """The block is over. Where nobody said what the call was, its error does; else all that is held is charged."""
        if not self.is_open or self.goes_on:
            return
        if error is None:
            self._say("unsettled")
            self.settled = Settled(self._held, self.input_tokens, "unsettled", "hold")
        elif _was_not_run(error):
            self.is_released = True
        else:
            self.settled = self._input_alone(type(error).__name__)

    @property
    def _held(self) -> int:
        return max(self.granted_nanos or 0, self.floor_nanos)

    def _input_alone(self, why: str) -> Settled:
        return Settled(self.floor_nanos, self.input_tokens, "estimated", f"input alone: {why}")

    def _say(self, defect: Kind, detail: str = "") -> None:
        self._prices.defects.add(defect, self.model, self._began_at, detail)

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

    def _charged(self, usage: Usage | None, nanos: int | None, *, is_refusal: bool) -> Settled:
        if usage is None and nanos is not None:
            return Settled(nanos, self.input_tokens, "estimated", "the caller")
        if usage is None and is_refusal:
            self._say("error body")
            return self._input_alone("an error for a reply")
        if usage is None:
            self._say("no usage")
            return Settled(self._held, self.input_tokens, "estimated", "no usage in the reply")
        if usage.is_contradictory:
            self._say("contradictory")
        usage = usage if usage.asked_model else replace(usage, asked_model=self.model)
        tokens = sum(part.input + part.output for part in usage.parts)
        status = "estimated" if usage.is_estimated or usage.is_contradictory else "exact"
        if nanos is not None:
            return Settled(nanos, tokens, status, "the caller", usage)
        cost = self._prices.cost(usage, self._began_at)
        if cost.status == "unpriced":
            missing = list(cost.missing[:MAX_MISSING])
            self._say("unpriced", ", ".join(missing))
            nanos = max(cost.nanos, self._held) or None
            return Settled(nanos, tokens, "unpriced", cost.source, usage, {"missing": missing})
        dated = {} if cost.dated is None else {"dated": cost.dated.isoformat()}
        return Settled(cost.nanos, tokens, status, cost.source, usage, dated)


def _was_not_run(error: BaseException) -> bool:
    """Whether the provider refused the call, or never got it."""
    each: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if each is None:
            return False
        name = type(each).__name__
        if name in NEVER_SENT or (name not in OWN_ANSWERS and 400 <= _status(each) < 600):
            return True
        each = each.__cause__ or each.__context__
    return False


def _status(error: BaseException) -> int:
    """The HTTP status with which a provider refused: OpenAI's, Anthropic's and Mistral's word for it, Google's, that of
    HTTP clients, and of AWS; 0 for none."""
    response = get(error, "response")
    aws = get(get(response, "ResponseMetadata"), "HTTPStatusCode")
    said = (get(error, "status_code"), get(error, "code"), get(response, "status_code"), aws)
    return next((each for each in said if type(each) is int), 0)
