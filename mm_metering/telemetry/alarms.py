"""Alarms for Prometheus, made from the list of instruments: what somebody has to look at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from mm_metering.telemetry.instruments import (
    AI_CALLS,
    CHECK,
    COUNTERS_DRIFT,
    DEAD_LETTERS,
    DELIVERIES,
    FINDINGS,
    FOLD_LAG,
    JOBS,
    JOURNAL_AGE,
    LEASES,
    MODEL,
    OUTAGE,
    PAYMENTS,
    prometheus_name,
)
from mm_metering.telemetry.queries import increase, now, per_second, quantile


class Alarm(NamedTuple):
    """``when``: a question that answers while it rings; ``lasts``: for how long before it does."""

    name: str
    when: str
    lasts: str
    severity: Literal["critical", "warning"]
    says: str


ALARMS: Final = (
    Alarm("MeteringOutage", f"{now(OUTAGE)} > 0", "1m", "critical",
          "The counters do not answer: the outage policy decides, and what it allows is journalled."),
    Alarm("MeteringNobodyFolds", f"{now(LEASES)} == 0 or absent({prometheus_name(LEASES)})", "2m", "critical",
          "No worker holds a shard: usage waits in the stream. Run mm-metering worker."),
    Alarm("MeteringFoldLag", f"{now(FOLD_LAG)} > 60", "2m", "warning",
          "Usage reaches the ledger more than a minute late."),
    Alarm("MeteringJournalOld", f"{now(JOURNAL_AGE)} > 120", "1m", "warning",
          "The ledger has confirmed nothing of what a process acknowledged for two minutes."),
    Alarm("MeteringSlowChecks", f'{quantile(0.99, CHECK, window="5m", outcome="answered")} > 0.025', "10m", "warning",
          "One decision in a hundred waits for more than 25 ms; at 50 ms the outage policy decides."),
    Alarm("MeteringMisreadRoutes", f'{increase(FINDINGS, "kind", window="15m")} > 0', "0m", "warning",
          "A route may go unmetered: mm-metering doctor --app ... says which."),
    Alarm("MeteringDeadLetters", f"{now(DEAD_LETTERS)} > 0", "0m", "warning",
          "Lines could not be folded: mm-metering dead-letters."),
    Alarm("MeteringCountersDrift", f"{now(COUNTERS_DRIFT)} > 0", "5m", "warning",
          "Counters differ from the ledger each time that they are compared."),
    Alarm("MeteringJobFails", f'{increase(JOBS, "job", window="1h", outcome="failed")} > 3', "0m", "warning",
          "A periodic job fails again and again; after six tries it is given up."),
    Alarm("MeteringPaymentsParked", f'{increase(PAYMENTS, window="1h", outcome="parked")} > 0', "0m", "warning",
          "The payment provider refuses an invoice for a reason that waiting does not mend: mm-metering payments."),
    Alarm("MeteringWebhooksFail",
          f'{per_second(DELIVERIES, window="15m", outcome="failed")} / {per_second(DELIVERIES, window="15m")} > 0.5',
          "30m", "warning", "More than half of all attempts at webhooks' endpoints fail."),
    Alarm("MeteringUnpricedModels", f'{increase(AI_CALLS, MODEL, window="1h", status="unpriced")} > 0', "0m", "warning",
          "A model has no price: its calls are charged what was held. Add it under [ai.prices]."),
)  # fmt: skip


def rules() -> str:
    """A file of rules, as Prometheus reads it. A text in JSON's quotes is one in YAML's."""
    lines = (line for each in ALARMS for line in _lines(each))
    return "\n".join(("groups:", "  - name: mm-metering", "    rules:", *lines, ""))


def _lines(alarm: Alarm) -> Iterator[str]:
    yield f"      - alert: {alarm.name}"
    yield f"        expr: {json.dumps(alarm.when)}"
    yield f"        for: {alarm.lasts}"
    yield f"        labels: {{severity: {alarm.severity}}}"
    yield f"        annotations: {{summary: {json.dumps(alarm.says)}}}"
