"""Numbers as a provider gave them, made into a Usage that holds together: never an exception, never free.

Where they contradict each other, the reading that costs more is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from mm_metering.ai.estimate import tokens_of
from mm_metering.ai.usage import MAX_TOKENS, Usage


@dataclass(slots=True, kw_only=True)
class Context:
    """What is said of a call beside its counts."""

    model: str | None = None
    asked_model: str | None = None
    provider: str | None = None
    service_tier: str | None = None
    speed: str | None = None


@dataclass(slots=True, kw_only=True)
class Seen:
    """What else is known where a number is missing: the tokens that were estimated before the call, the bytes that
    the model wrote, and the most tokens that it may have written."""

    input_tokens: int = 0
    output_bytes: int = 0
    max_output_tokens: int = MAX_TOKENS

    @property
    def output_tokens(self) -> int:
        """By its bytes."""
        return min(tokens_of(self.output_bytes), self.max_output_tokens)


@dataclass(slots=True, kw_only=True)
class Draft:
    """As Usage, before anything is checked. None: not said. ``total``: input and output together, where it is said."""

    input: int | None = None
    output: int | None = None
    total: int | None = None
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    cached_audio: int = 0
    image_input: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0
    audio_seconds: int = 0
    web_searches: int = 0
    web_fetches: int = 0
    lines: tuple[Usage, ...] = ()
    is_estimated: bool = False
    is_contradictory: bool = False

    def usage(self, context: Context, seen: Seen, *, part: str | None = None) -> Usage:
        """The usage. A number that is missing is estimated, and one that is too small is raised."""
        self._take_total()
        read = self._input(seen)
        wrote = self._output(seen)
        self.cached_audio = self._at_most(self.cached_audio, min(self.cached, self.audio_input))
        return Usage(
            model=context.model,
            asked_model=context.asked_model,
            provider=context.provider,
            service_tier=context.service_tier,
            speed=context.speed,
            part=part,
            input=read,
            cached=self.cached,
            cache_write=self.cache_write,
            cache_write_1h=self.cache_write_1h,
            audio_input=self.audio_input,
            cached_audio=self.cached_audio,
            image_input=self.image_input,
            output=wrote,
            reasoning=self.reasoning,
            audio_output=self.audio_output,
            image_output=self.image_output,
            audio_seconds=self.audio_seconds,
            web_searches=self.web_searches,
            web_fetches=self.web_fetches,
            lines=self.lines,
            is_estimated=self.is_estimated,
            is_contradictory=self.is_contradictory,
        )

    def _take_total(self) -> None:
        """A total says a number that is missing, and whether reasoning was left out of the output (xAI, Perplexity)."""
        if self.total is None:
            return
        if self.input is None and self.output is not None and self.total >= self.output:
            self.input = self.total - self.output
        elif self.output is None and self.input is not None and self.total >= self.input:
            self.output = self.total - self.input
        if self.input is None or self.output is None:
            return
        beside = self.total - self.input - self.output
        if beside == 0:
            return
        if beside < 0 or beside != self.reasoning:
            self.is_contradictory = True
        if beside > 0:
            self.output += beside

    def _input(self, seen: Seen) -> int:
        cached = self.cached + self.cache_write + self.cache_write_1h
        others = self.audio_input + self.image_input
        if self.input is None:
            self.is_estimated = True
            return max(_bounded(seen.input_tokens), cached, others, 1)
        read = self._with_parts(self._with_parts(self.input, cached), others)
        if read == 0 and not self.audio_seconds:  # no call reads nothing
            self.is_estimated = self.is_contradictory = True
            return max(_bounded(seen.input_tokens), 1)
        return read

    def _output(self, seen: Seen) -> int:
        others = self.audio_output + self.image_output
        if self.output is None:
            self.is_estimated = True
            return max(seen.output_tokens, self.reasoning, others)
        wrote = self._with_parts(self._with_parts(self.output, self.reasoning), others)
        if wrote == 0 and seen.output_bytes and not self.audio_seconds:
            self.is_estimated = self.is_contradictory = True
            return seen.output_tokens
        return wrote

    def _with_parts(self, whole: int, parts: int) -> int:
        """Parts that are more than their whole were not in it, then."""
        if parts <= whole:
            return whole
        self.is_contradictory = True
        return whole + parts

    def _at_most(self, part: int, whole: int) -> int:
        self.is_contradictory |= part > whole
        return min(part, whole)


def _bounded(tokens: int) -> int:
    return min(max(tokens, 0), MAX_TOKENS)
