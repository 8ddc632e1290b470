"""The exposure in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mm_metering.telemetry.instruments import Instrument, label_name, prometheus_name
from mm_metering.telemetry.shown import Number, Source

_TYPES: Final = {"updowncounter": "gauge"}
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def exposition(source: Source) -> str:
    """All that has a number now; no histogram, which an SDK alone keeps."""
    return "\n".join(line for each in source.instruments for line in _lines(source, each)) + "\n"


def _lines(source: Source, instrument: Instrument) -> Iterator[str]:
    name, series = prometheus_name(instrument), [*source.read(instrument)]
    if series:
        yield f"# HELP {name} {instrument.description}"
        yield f"# TYPE {name} {_TYPES.get(instrument.kind, instrument.kind)}"
    for attributes, number in series:
        yield f"{name}{_labels(attributes)} {_text(number)}"


def _labels(attributes: Mapping[str, str]) -> str:
    pairs = (f'{label_name(name)}="{value.translate(_ESCAPES)}"' for name, value in attributes.items())
    return f"{{{','.join(pairs)}}}" if attributes else ""


def _text(number: Number) -> str:
    return str(number) if isinstance(number, int) else f"{number:.6g}"
