"""What the wire formats have in common: events, and what a format has to say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from mm_metering.testing.fake_llm.made import Asked, Made, Thing


class Event(NamedTuple):
    """One server-sent event. ``tokens``: what a chunk of the text carries; None where it is none."""

    data: Thing | str
    name: str | None = None
    tokens: int | None = None

    @property
    def content(self) -> bytes:
        data = self.data if isinstance(self.data, str) else json.dumps(self.data)
        name = f"event: {self.name}\n" if self.name else ""
        return f"{name}data: {data}\n\n".encode()


class Format(Protocol):
    """How a provider says it."""

    def missing(self, body: Thing) -> str | None:
        """The name of what has to be in the request and is not."""

    def reply(self, made: Made) -> Thing:
        """All at once."""

    def events(self, asked: Asked, made: Made) -> Iterator[Event]:
        """As a stream."""

    def error(self, status: int, message: str) -> Thing:
        """The body of what has failed."""

    def error_event(self, message: str) -> Event:
        """The same within a stream."""
