"""The first refusal of a tenant in each window, as one structured line of the log."""

from __future__ import annotations

import logging
from collections import OrderedDict
from datetime import datetime
from typing import Final

from mm_metering.core.decision import Decision
from mm_metering.core.refusals import sentence
from mm_metering.telemetry.spans import log_keys

log: Final = logging.getLogger("mm_metering.refused")

MOST: Final = 10_000
"""Most that are remembered: past it the oldest may be said again."""


class FirstRefusals:
    """Once per process, tenant, limit and window: of a burst rate once an hour, of what has no window once a minute."""

    def __init__(self) -> None:
        self._said: OrderedDict[tuple[str, str, str | None, str | None, str], None] = OrderedDict()

    def add(self, tenant: str, decision: Decision, now: datetime) -> None:
        ends = f"{decision.resets_at or now.replace(second=0, microsecond=0)}"
        if decision.window in ("second", "minute"):  # such windows end all the time
            ends = f"{now:%Y-%m-%dT%H}"
        key = (tenant, decision.meter, decision.scope, decision.window, ends)
        if key in self._said:
            return
        self._said[key] = None
        if len(self._said) > MOST:
            self._said.popitem(last=False)
        said = decision.model_dump(mode="json", exclude_none=True)
        told = {"refused": {"tenant": tenant, **said}, **log_keys()}
        log.info("refused tenant=%r: %s", tenant, sentence(decision, now), extra=told)
