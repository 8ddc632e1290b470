"""What one AI call used, as its provider counts it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from mm_metering.errors import InvalidInput

MAX_TOKENS: Final = 1_000_000_000
"""No single number of a call may be larger. What says more is no count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts of one call by one model.

    ``input`` is all that was read, and has in it ``cached`` (read from a cache), ``cache_write`` (kept for 5 minutes,
    or for as long as nobody said), ``cache_write_1h``, ``audio_input`` (of which ``cached_audio``) and ``image_input``.
    ``output`` is all that was produced, and has ``reasoning``, ``audio_output`` and ``image_output`` in it.
    ``lines`` are parts beside it, of other models or of another kind (``part``: "compaction", "advisor_message"):
    none of their tokens is in the numbers here.

    ``model`` is the reply's own word, ``asked_model`` the request's. ``is_estimated``: some number was missing and
    taken from bytes. ``is_contradictory``: the numbers could not all be true, and the larger reading was taken.
    """

    model: str | None = None
    asked_model: str | None = None
    provider: str | None = None
    service_tier: str | None = None
    speed: str | None = None
    part: str | None = None
    input: int = 0
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    cached_audio: int = 0
    image_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0
    audio_seconds: int = 0
    web_searches: int = 0
    web_fetches: int = 0
    lines: tuple[Usage, ...] = ()
    is_estimated: bool = False
    is_contradictory: bool = False

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise InvalidInput(name, f"{value!r} is not a count; it is a whole number of at least 0")
        if self.cached + self.cache_write + self.cache_write_1h > self.input:
            raise InvalidInput("cached", f"with what was written, it is more than the input of {self.input}")
        if self.audio_input + self.image_input > self.input:
            raise InvalidInput("audio_input", f"with images, it is more than the input of {self.input}")
        if self.cached_audio > min(self.cached, self.audio_input):
            raise InvalidInput("cached_audio", f"{self.cached_audio} is more than was cached, or than there was audio")
        if max(self.reasoning, self.audio_output + self.image_output) > self.output:
            raise InvalidInput("reasoning", f"it, or audio and images, is more than the output of {self.output}")

    @property
    def parts(self) -> tuple[Usage, ...]:
        """The call itself and its lines: what is priced, each by its own model."""
        return (self, *self.lines)


COUNTS: Final = tuple(each.name for each in fields(Usage) if each.type == "int")
"""The names of all counts of a Usage."""
