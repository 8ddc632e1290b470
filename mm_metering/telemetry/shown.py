"""The exposure to OpenTelemetry. Instruments belong to a process and cannot be taken back, so there is one set for each
provider, whatever number of Meterings there are: what it tells is theirs together, as long as they live."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, Protocol, TypeAlias

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation

from mm_metering.telemetry.instruments import ALL, SECONDS, Instrument

SCOPE: Final = "mm_metering"

Number: TypeAlias = int | float


class Source(Protocol):
    """Something whose numbers are told."""

    @property
    def instruments(self) -> Iterable[Instrument]: ...

    def read(self, instrument: Instrument) -> Iterable[tuple[Mapping[str, str], Number]]: ...


class Shown:
    """The instruments of one provider."""

    def __init__(self, provider: MeterProvider) -> None:
        self._sources: weakref.WeakSet[Source] = weakref.WeakSet()
        self._meter = provider.get_meter(SCOPE)
        self._histograms = {each: self._histogram(each) for each in ALL if each.kind == "histogram"}
        for each in ALL:
            if each.kind != "histogram":
                self._observable(each)

    def add(self, source: Source) -> None:
        self._sources.add(source)

    def histogram(self, instrument: Instrument) -> Histogram:
        return self._histograms[instrument]

    def _histogram(self, each: Instrument) -> Histogram:
        return self._meter.create_histogram(
            each.name, each.unit, each.description, explicit_bucket_boundaries_advisory=SECONDS
        )

    def _observable(self, each: Instrument) -> None:
        make: dict[str, Callable[..., object]] = {
            "counter": self._meter.create_observable_counter,
            "updowncounter": self._meter.create_observable_up_down_counter,
            "gauge": self._meter.create_observable_gauge,
        }
        make[each.kind](each.name, [partial(self._observe, each)], each.unit, each.description)

    def _observe(self, instrument: Instrument, _: CallbackOptions) -> Iterator[Observation]:
        """What all sources say, as one number per series."""
        found: dict[tuple[tuple[str, str], ...], Number] = {}
        for source in list(self._sources):
            for attributes, number in source.read(instrument) if instrument in source.instruments else ():
                key = tuple(attributes.items())
                if (known := found.get(key)) is None:
                    found[key] = number
                else:
                    found[key] = max(known, number) if instrument.over == "max" else known + number
        return (Observation(number, dict(key)) for key, number in found.items())


_BY_PROVIDER: weakref.WeakKeyDictionary[MeterProvider, Shown] = weakref.WeakKeyDictionary()


def shown_by(provider: MeterProvider | None) -> Shown:
    """Those of this provider, or of the global one."""
    found = provider or metrics.get_meter_provider()
    known = _BY_PROVIDER.get(found)
    if known is None:
        known = _BY_PROVIDER[found] = Shown(found)
    return known
