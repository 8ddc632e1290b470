"""The RateLimit fields: what is left of windows of counts.

RFC 9651 lists of strings (draft-ietf-httpapi-ratelimit-headers-10), and the X-RateLimit fields that came before them.
Levels and unlimited quotas have no window to speak of, and money is nobody's business but the tenant's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from mm_metering.core.limits import State
from mm_metering.gate.admission import Policy, Reading, policy_name
from mm_metering.gate.decisions import Granted
from mm_metering.gate.windows import Prepared
from mm_metering.middleware.shapes import HeaderStyle

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

POLICIES_AT_MOST: Final = 4
_LARGEST: Final = 999_999_999_999_999
"""The largest integer of a structured field."""
SIMPLE: Final = 2
_CALENDAR: Final = ("day", "month")


class Text(NamedTuple):
    """What of a policy's items stays the same: its quoted name, its item in RateLimit-Policy, and below which remainder
    it is called near (a fifth of the limit; -1 for never)."""

    name: str
    policy: str
    near: int


def rate_limit_headers(readings: Sequence[Reading], now_us: int, style: HeaderStyle = "standard") -> RawHeaders:
    """The fields of up to POLICIES_AT_MOST readings, the most constrained first; of that one alone in the legacy
    fields."""
    if not readings:
        return []
    listed = readings[:POLICIES_AT_MOST]
    standard = _standard(listed, now_us) if style in ("standard", "both") else []
    return standard + _legacy(listed[0]) if style in ("legacy", "both") else standard


def _standard(listed: Sequence[Reading], now_us: int) -> RawHeaders:
    policies, items = [], []
    for policy, remaining, overage, resets_us, allowed in listed:
        name, q, near = _text(policy)
        policies.append(q)
        item = f"{name};r={min(remaining, _LARGEST)}"
        if resets_us:
            item += f";t={max(0, -((now_us - resets_us) // 1_000_000))}"
        if overage:
            item += f';mm-state="overage";mm-overage={min(overage, _LARGEST)}'
        elif remaining <= near and allowed:
            item += ';mm-state="warn"'
        items.append(item)
    return [(b"ratelimit-policy", ", ".join(policies).encode()), (b"ratelimit", ", ".join(items).encode())]


def headers_of(granted: Granted, now_us: int, style: HeaderStyle) -> RawHeaders:
    """The fields of a take that fits. Nearly always they are simple, and made at once."""
    made = _simple(_rows(granted.asked), granted.states, now_us) if style == "standard" else None
    return rate_limit_headers(granted.readings, now_us, style) if made is None else made


class Row(NamedTuple):
    """What of a simple item is known beforehand: the number of its line, and its texts."""

    line: int
    limit: int
    near: int
    ends_us: int
    name: str
    policy: str


def _simple(rows: Sequence[Row], states: Sequence[State], now_us: int) -> RawHeaders | None:
    """The fields of one or two calendar windows that are open, with nothing near its limit; None for all else."""
    items, shares = [], []
    for line, limit, near, ends_us, name, _ in rows:
        used, held, _ = states[line]
        remaining = limit - used - held
        if remaining <= near or ends_us <= now_us:
            return None
        items.append(f"{name};r={remaining};t={(ends_us - now_us + 999_999) // 1_000_000}")
        shares.append(remaining / limit)
    match items:
        case [item]:
            return [(b"ratelimit-policy", rows[0].policy.encode()), (b"ratelimit", item.encode())]
        case [item, other]:
            first, second = rows[0].policy, rows[1].policy
            if shares[1] < shares[0]:
                first, second, item, other = second, first, other, item
            policies = f"{first}, {second}"
            return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", f"{item}, {other}".encode())]
    return None


@lru_cache(maxsize=4096)
def _rows(asked: Prepared) -> tuple[Row, ...]:
    """One or two; none where it is not simple."""
    if len(asked.shown) > SIMPLE or any(shown.slot.rate_s or shown.policy.limit > _LARGEST for shown in asked.shown):
        return ()
    texts = [(shown, _text(shown.policy)) for shown in asked.shown]
    return tuple(Row(each.order, each.policy.limit, text.near, each.ends_us, *text[:2]) for each, text in texts)


def _legacy(reading: Reading) -> RawHeaders:
    """Reset is a point in time, in Unix seconds rounded up: GitHub's meaning, which most clients of these fields know.

    Others send seconds from now in a field of the same name. Clients that cannot tell go by Retry-After.
    """
    numbers = {b"limit": min(reading.policy.limit, _LARGEST), b"remaining": min(reading.remaining, _LARGEST)}
    if reading.resets_us:
        numbers[b"reset"] = -(-reading.resets_us // 1_000_000)
    return [(b"x-ratelimit-" + name, str(number).encode()) for name, number in numbers.items()]


@lru_cache(maxsize=4096)
def _text(policy: Policy) -> Text:
    """``w`` is optional: it is left out where a decision does not say how long its window is."""
    name = f'"{policy_name(policy.meter, policy.window)}"'
    window = f";w={policy.window_s}" if policy.window_s else ""
    near = policy.limit // 5 if policy.window in _CALENDAR else -1
    return Text(name, f"{name};q={min(policy.limit, _LARGEST)}{window}", near)
