"""Questions to Prometheus about instruments: none can be asked of one that is not on the list, or by an attribute that
it does not have."""

from __future__ import annotations

import json

from mm_metering.telemetry.instruments import Instrument, label_name, prometheus_name


def per_second(each: Instrument, *by: str, window: str, **where: str) -> str:
    """How fast a counter rises, over all processes."""
    return f"sum{_by(each, by)} (rate({prometheus_name(each)}{_where(each, where)}[{window}]))"


def increase(each: Instrument, *by: str, window: str, **where: str) -> str:
    return f"sum{_by(each, by)} (increase({prometheus_name(each)}{_where(each, where)}[{window}]))"


def now(each: Instrument, *by: str) -> str:
    """What a gauge stands at: of several processes together, or of the worst of them."""
    return f"{each.over}{_by(each, by)} ({prometheus_name(each)})"


def quantile(share: float, each: Instrument, *, window: str, **where: str) -> str:
    """Of a histogram, over all processes."""
    buckets = f"{prometheus_name(each)}_bucket{_where(each, where)}"
    return f"histogram_quantile({share:g}, sum by (le) (rate({buckets}[{window}])))"


def _by(each: Instrument, names: tuple[str, ...]) -> str:
    return f" by ({', '.join(_label(each, name) for name in names)})" if names else ""


def _where(each: Instrument, values: dict[str, str]) -> str:
    """Values that begin with ~ are patterns."""
    pairs = (
        f"{_label(each, name)}={'~' * value.startswith('~')}{json.dumps(value.removeprefix('~'))}"
        for name, value in values.items()
    )
    return f"{{{', '.join(pairs)}}}" if values else ""


def _label(each: Instrument, name: str) -> str:
    if name not in each.attributes:
        raise ValueError(f"{each.name} has no attribute {name}")
    return label_name(name)
