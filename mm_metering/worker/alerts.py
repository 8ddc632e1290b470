"""Alerts: what a tenant's usage has come to, told once, and what is wrong with the house itself.

A notice that the ledger did not have yet is told: a line in the log, an OpenTelemetry event, the host's hooks, and the
tenant's webhooks. The ledger makes it once, over all workers and restarts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from mm_metering.ai.insight import CALL, Insight
from mm_metering.backends.ledger import Ledger, tenant_pages
from mm_metering.billing.hooks import Hooks
from mm_metering.clock import Clock
from mm_metering.core.alerting import (
    HOUSE,
    RULES,
    Standing,
    crossed,
    forecast_exceeds,
    of_house,
    sentence,
    spiked,
)
from mm_metering.core.catalogue import AlertRules
from mm_metering.core.collecting import Notice, NoticeType
from mm_metering.core.identity import CANARY
from mm_metering.core.money import from_nanos
from mm_metering.core.periods import Window, local_day, micros, period_of, window_span
from mm_metering.core.spikes import is_spike
from mm_metering.errors import MeteringError, UnknownTenant
from mm_metering.gate.gate import Gate
from mm_metering.gate.journal_file import Waiting
from mm_metering.gate.loading import Stood
from mm_metering.gate.tenants import View
from mm_metering.telemetry.instruments import ALERTS
from mm_metering.telemetry.measures import Measures
from mm_metering.worker.touched import Touched

if TYPE_CHECKING:
    from mm_metering.worker.monitor import Monitor

log: Final = logging.getLogger("mm_metering.alerts")

EVERY_S: Final = 2.0
PASSES_A_MINUTE: Final = 30
AT_ONCE: Final = 32
"""Tenants that are looked at together: the ledger reads them in one go."""
MOST: Final = 5_000
"""Most tenants of one pass; the others are looked at in those that follow."""
HOUR: Final = timedelta(hours=1)
WEEK: Final = timedelta(days=7)
WEEKS: Final = 8
"""How many past weeks tell what is usual for an hour."""
LAG_S: Final = 60.0
"""A shard that is folded later than that is told of."""
ANY: Final = "*"
OURS_TO_MEND: Final = HOUSE | {"model.unpriced"}
"""A tenant that uses what it pays for is no trouble of whoever runs this."""
EVENT: Final = "alert"
PERSONAL: Final = frozenset({"scope"})
"""What of a notice may name somebody, such as "user:u_7": in no span, unless those name tenants."""


class Alerts:
    """``monitor``: what this worker knows of itself."""

    def __init__(
        self,
        ledger: Ledger,
        gate: Gate,
        insight: Insight,
        hooks: Hooks,
        touched: Touched,
        *,
        clock: Clock,
        monitor: Callable[[], Monitor],
        measures: Measures | None = None,
    ) -> None:
        measures = measures or Measures()
        self._spans = measures.spans
        self._told = measures.tally(ALERTS)
        self._ledger = ledger
        self._gate = gate
        self._insight = insight
        self._hooks = hooks
        self._touched = touched
        self._clock = clock
        self._monitor = monitor
        self._since: dict[tuple[NoticeType, str], datetime] = {}

    async def run(self) -> None:
        """A pass every two seconds, until it is cancelled; once a minute it looks at the house too."""
        for number in count(1):
            await asyncio.sleep(EVERY_S)
            try:
                await self.once()
                if not number % PASSES_A_MINUTE:
                    await self.house()
            except MeteringError as error:
                log.info("alerts wait: %s", error)
            except Exception:
                log.exception("alerts: a pass met a bug; the next one comes")

    async def once(self) -> list[Notice]:
        """Looks at the tenants whose usage was folded here since the last pass; what is new of it."""
        tenants = self._touched.take(MOST)
        try:
            told = await self.look([each for each in tenants if each != CANARY])
        except MeteringError:
            self._touched.put_back(tenants)
            raise
        await self._hooks.run()
        return told

    async def look(self, tenants: Sequence[str]) -> list[Notice]:
        told = []
        for at in range(0, len(tenants), AT_ONCE):
            told += await self.tell(await self._found(tenants[at : at + AT_ONCE]))
        return told

    async def every(self, period: datetime, _fence: int) -> None:
        """All tenants, once an hour: what a worker that ended had left, spikes of the hour before, and forecasts."""
        async for page in tenant_pages(self._ledger, AT_ONCE):
            tenants = [row.id for row in page]
            found = await self._found(tenants)
            for tenant in tenants:
                found += await self._slow(tenant, period)
            await self.tell(found)
        await self._hooks.run()

    async def _found(self, tenants: Sequence[str]) -> list[Notice]:
        looks = await asyncio.gather(*map(self._look, tenants), return_exceptions=True)
        for look in looks:
            if isinstance(look, BaseException):
                raise look
        return [notice for look in looks if not isinstance(look, BaseException) for notice in look]

    async def _look(self, tenant: str) -> list[Notice]:
        try:
            view, standings = await self._gate.standings(tenant)
        except UnknownTenant:
            return []
        now = self._clock.now()
        return [*crossed(tenant, _standings(view, standings, now), view.windows.alerts, now)]

    async def _slow(self, tenant: str, period: datetime) -> list[Notice]:
        view, _ = await self._gate.standings(tenant)
        rules, row, now = view.windows.alerts, view.row, self._clock.now()
        found: list[Notice | None] = []
        if "spike" not in rules.off:
            found.append(await self._spike(tenant, period - HOUR, rules))
        if "forecast" not in rules.off and row is not None and view.windows.ai.monthly_budget is not None:
            seen = await self._insight.forecast(row, view.windows.ai)
            month = period_of(local_day(now, view.windows.zone), row.anchor_day)
            found.append(forecast_exceeds(tenant, seen, month, now))
        return [each for each in found if each is not None]

    async def _spike(self, tenant: str, hour: datetime, rules: AlertRules) -> Notice | None:
        """By the same hour of the same weekday: a tenant is looked at as far as it has a past."""
        (cost,) = await self._ledger.spent(tenant, CALL, [_span(hour)])
        if from_nanos(cost) <= rules.spike_above:
            return None
        past = await self._ledger.spent(tenant, CALL, [_span(hour - WEEK * back) for back in range(1, WEEKS + 1)])
        known = len(past) - next((n for n, each in enumerate(reversed(past)) if each), len(past))
        spike = is_spike(from_nanos(cost), [from_nanos(each) for each in past[:known]], least=rules.spike_above)
        return None if spike is None else spiked(tenant, spike, hour, self._clock.now())

    async def house(self) -> None:
        """What is wrong with the house of this worker: told once for as long as it stays so."""
        now, monitor = self._clock.now(), self._monitor()
        await monitor.count_dead_letters()
        wrong = [*_wrong(monitor, await monitor.left_behind())]
        self._since = {key: self._since.get(key, now) for key, _ in wrong}
        await self.tell([of_house(*key, self._since[key], data, now) for key, data in wrong])
        await self._hooks.run()

    async def tell(self, notices: Sequence[Notice]) -> list[Notice]:
        """Those that the ledger did not have, and that nobody has muted."""
        if not notices:
            return []
        mutes = {(each.rule, each.tenant) for each in await self._ledger.mutes(micros(self._clock.now()))}
        new = await self._ledger.add_notices([each for each in notices if not _is_muted(each, mutes)])
        for notice in new:
            level = logging.WARNING if notice.type in OURS_TO_MEND else logging.INFO
            told = {"type": notice.type, "tenant": notice.tenant, **notice.data}
            log.log(level, "%s", sentence(notice), extra={"alert": told})
            self._told.add(RULES.get(notice.type, notice.type))
            self._emit(notice)
        return new

    def _emit(self, notice: Notice) -> None:
        """An event of a span of its own: there is no request around."""
        names = self._spans.tenant(notice.tenant)
        told = {name: value for name, value in notice.data.items() if names or name not in PERSONAL}
        texts = {name: value if isinstance(value, int) else str(value) for name, value in told.items()}
        with self._spans.around(EVENT, {}) as span:
            span.add_event(notice.type, {**texts, **names})


def _standings(view: View, standings: Iterable[Stood], now: datetime) -> Iterator[Standing]:
    """A level has no window: it is told of once a month."""
    month = window_span(Window.MONTH, now, view.windows.zone)
    for gauge, used, *_ in standings:
        is_level = gauge.limit.is_level
        starts_us = micros(month.start) if is_level else gauge.starts_us
        yield Standing(gauge.limit, gauge.scope, used, starts_us, None if is_level else gauge.ends_us)


def _wrong(monitor: Monitor, left: Waiting) -> Iterator[tuple[tuple[NoticeType, str], dict[str, Any]]]:
    for shard, lag in monitor.lags():
        if lag > LAG_S:
            yield ("worker.lag", f"shard {shard}"), {"lag_s": int(lag)}
    if left.files:
        yield ("journal.waiting", "journal"), {"files": left.files, "facts": left.facts}
    if drift := monitor.drift:
        yield ("counters.drift", "counters"), {"units": drift}


def _is_muted(notice: Notice, mutes: set[tuple[str, str]]) -> bool:
    rule = RULES.get(notice.type, notice.type)
    return any((name, tenant) in mutes for name in (rule, ANY) for tenant in (notice.tenant, ANY))


def _span(hour: datetime) -> tuple[int, int]:
    return micros(hour), micros(hour + HOUR)
