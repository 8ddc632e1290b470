"""What this middleware says: refusals in the shape that their route wants, and headers."""

from __future__ import annotations

from starlette.types import Scope

from mm_metering.clock import micros_of
from mm_metering.errors import Refused, StoreUnavailable, UrlRefused
from mm_metering.gate.admission import Admission
from mm_metering.gate.context import Bound, Meter
from mm_metering.gate.decisions import Granted
from mm_metering.middleware import responses
from mm_metering.middleware.doctor import Notes
from mm_metering.middleware.ratelimit import RawHeaders, headers_of, rate_limit_headers
from mm_metering.middleware.responses import Problem
from mm_metering.middleware.shapes import Style


class Answers:
    """One per middleware."""

    def __init__(self, meter: Meter, notes: Notes, style: Style, challenge: str) -> None:
        self.notes = notes
        self._meter = meter
        self._now_us = micros_of(meter.clock)
        self._style = style
        self._is_silent = style.headers == "off"
        self._challenge = challenge

    def headers(self, status: int, bound: Bound | None) -> RawHeaders:
        """What the answer to an allowed request says. A redirect says nothing: clients would wait before they follow
        it. Neither does a 304, which stands for an older answer."""
        admission = bound.admission if bound else None
        if admission is None:
            return []
        if admission.degraded:
            return [responses.DEGRADED]
        if self._is_silent or 300 <= status < 400:
            return []
        if isinstance(admission, Granted):
            return headers_of(admission, self._now_us(), self._style.headers)
        return rate_limit_headers(admission.readings, self._now_us(), self._style.headers)

    def refused(self, admission: Admission, scope: Scope) -> Problem:
        return responses.refused(admission.decisions, scope, now=self._meter.clock.now(), style=self._style)

    def unknown(self, scope: Scope) -> Problem:
        return responses.tenant_unknown(scope, self._challenge, style=self._style)

    def unavailable(self, scope: Scope) -> Problem:
        return responses.unavailable(scope, style=self._style)

    def to(self, error: BaseException, scope: Scope) -> Problem | None:
        """The answer to an error of ours; None for the host's own."""
        match error:
            case Refused(decisions=decisions):
                now = self._meter.clock.now()
                return responses.refused(decisions, scope, now=now, message=str(error), style=self._style)
            case UrlRefused():
                return responses.url_refused(error, scope, style=self._style)
            case StoreUnavailable():
                return self.unavailable(scope)
            case _:
                return None
