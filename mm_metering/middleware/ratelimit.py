"""The RateLimit fields: what is left of windows of counts.

RFC 9651 lists of strings (draft-ietf-httpapi-ratelimit-headers-10), and the X-RateLimit fields that came before them.
Levels and unlimited quotas have no window to speak of, and money is nobody's business but the tenant's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from mm_metering.gate.admission import WINDOWS, Policy, Reading
from mm_metering.middleware.shapes import HeaderStyle

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

POLICIES_AT_MOST: Final = 4
_LARGEST: Final = 999_999_999_999_999
"""The largest integer of a structured field."""
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
    for _, _, policy, remaining, overage, resets_us, allowed in listed:
        name, q, near = _text(policy)
        policies.append(q)
        if near < remaining <= _LARGEST and resets_us > now_us:  # most answers by far
            items.append(f"{name};r={remaining};t={(resets_us - now_us + 999_999) // 1_000_000}")
            continue
        item = f"{name};r={min(remaining, _LARGEST)}"
        if resets_us:
            item += f";t={max(0, -((now_us - resets_us) // 1_000_000))}"
        if overage:
            item += f';mm-state="overage";mm-overage={min(overage, _LARGEST)}'
        elif remaining <= near and allowed:
            item += ';mm-state="warn"'
        items.append(item)
    return [(b"ratelimit-policy", ", ".join(policies).encode()), (b"ratelimit", ", ".join(items).encode())]


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


def policy_name(meter: str, window: str | None) -> str:
    """ "api_calls-day"; a level has its meter's name alone."""
    return f"{meter}-{window}" if window in WINDOWS else meter
