"""What a host wants to hear of: ``@metering.on("payment.succeeded")``.

A notice is written in one transaction with what it tells, and its hooks run afterwards, in the process that works: at
least once each, in order for as long as none fails.
"""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeAlias, get_args

from mm_metering.backends.collecting import HOOK_FAILED, Waiting
from mm_metering.backends.ledger import Ledger
from mm_metering.clock import Clock
from mm_metering.core.collecting import Notice, NoticeType
from mm_metering.core.periods import micros
from mm_metering.core.schema import suggestion
from mm_metering.errors import InvalidInput

log: Final = logging.getLogger("mm_metering.worker")

Hook: TypeAlias = Callable[[Notice], Awaitable[None] | None]
ANY: Final = "*"
PAGE: Final = 100
FIRST_REST: Final = timedelta(seconds=10)
MAX_TRIES: Final = 8
"""Over 20 minutes; then the notice is given up, with an alert."""


class Hooks:
    def __init__(self, ledger: Ledger, *, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._hooks: dict[str, list[Hook]] = defaultdict(list)

    def check(self, type_: str) -> None:
        """InvalidInput for a type that there is not."""
        known = (*get_args(NoticeType), ANY)
        if type_ not in known:
            hint = suggestion(str(type_), known)
            raise InvalidInput("type", f"{str(type_)[:60]!r} is nothing that happens{hint}; known: {', '.join(known)}")

    def add(self, type_: str, hook: Hook) -> None:
        self._hooks[type_].append(hook)

    async def run(self) -> int:
        """Calls the hooks of the notices that wait; how many notices. Without any hook here they wait for a process
        that has some."""
        done = 0
        while self._hooks and (waiting := await self._ledger.notices_due(self._now_us(), limit=PAGE)):
            for each in waiting:
                await self._tell(each)
            done += len(waiting)
        return done

    async def _tell(self, each: Waiting) -> None:
        notice, tries = each.notice, each.tries
        try:
            for hook in (*self._hooks.get(notice.type, ()), *self._hooks.get(ANY, ())):
                called = hook(notice)
                if inspect.isawaitable(called):
                    await called
        except Exception as error:
            log.exception("the hook on %s (%s) failed, try %d of %d", notice.type, notice.id, tries + 1, MAX_TRIES)
            if tries + 1 < MAX_TRIES:
                rest = FIRST_REST * 2**tries // timedelta(microseconds=1)
                await self._ledger.move_notice(notice.id, next_us=self._now_us() + rest, tries=tries + 1)
                return
            detail = f"{notice.type}: {type(error).__name__}: {error}"[:500]
            await self._ledger.raise_alert(HOOK_FAILED, notice.id, detail=detail, now_us=self._now_us())
        await self._ledger.move_notice(notice.id, next_us=None, tries=tries)

    def _now_us(self) -> int:
        return micros(self._clock.now())
