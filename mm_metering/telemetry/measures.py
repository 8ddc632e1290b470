"""All numbers of one Metering: sums that rooms add to, and what they answer when they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from mm_metering.telemetry.instruments import ALL, OF_GEN_AI, OF_TENANTS, Instrument
from mm_metering.telemetry.options import Telemetry
from mm_metering.telemetry.shown import Number, Shown, shown_by
from mm_metering.telemetry.spans import Spans
from mm_metering.telemetry.tallies import Tally

Read: TypeAlias = Callable[[], Iterable[tuple[str, float]]]
"""Answers (value of the one attribute, number) pairs; "" where there is none. Nothing for what is not known now."""


class Measures:
    """``options``: what the host says. An instrument that nobody adds to and nobody answers for has no series."""

    def __init__(self, options: Telemetry | None = None) -> None:
        self.options: Telemetry = options or Telemetry()
        self.spans: Spans = Spans(self.options)
        self.routes: set[str] = set()
        """Templates of the host's routes: by no other resource may usage be told, since a path may name somebody."""
        self._tallies: dict[Instrument, Tally] = {}
        self._reads: dict[Instrument, Read] = {}
        self._before: list[Callable[[], None]] = []
        self._shown: Shown | None = None

    @property
    def instruments(self) -> Iterator[Instrument]:
        """Those that are told here."""
        for each in ALL:
            if (each not in OF_TENANTS or self.options.tells_tenants) and (
                each not in OF_GEN_AI or self.options.gen_ai
            ):
                yield each

    def tally(self, instrument: Instrument) -> Tally:
        """Its sums; the same at every call, and to be kept by whoever adds often."""
        found = self._tallies.get(instrument)
        return found or self._tallies.setdefault(instrument, Tally(instrument))

    def answer(self, instrument: Instrument, read: Read) -> None:
        """Has the instrument's numbers asked for where they are."""
        self._reads[instrument] = read

    def before_read(self, work: Callable[[], None]) -> None:
        """Called each time that tenants' numbers are read."""
        self._before.append(work)

    def read(self, instrument: Instrument) -> Iterator[tuple[Mapping[str, str], Number]]:
        """Each of its series now; none of a histogram, which an SDK alone keeps."""
        for work in self._before if instrument in OF_TENANTS else ():
            work()
        if (tally := self._tallies.get(instrument)) is not None:
            yield from tally.read()
        if (read := self._reads.get(instrument)) is not None:
            for value, number in read():
                yield ({instrument.attributes[0]: value} if value else {}), number

    # -- OpenTelemetry ------------------------------------------------------------------------------------------------

    def show(self) -> None:
        """To OpenTelemetry, from now on. A second time changes nothing."""
        if self._shown is None:
            self._shown = shown_by(self.options.meter_provider)
            self._shown.add(self)

    def took(self, instrument: Instrument, amount: float, attributes: Mapping[str, str]) -> None:
        """One measurement of a histogram."""
        if self._shown is not None:
            self._shown.histogram(instrument).record(amount, attributes)
