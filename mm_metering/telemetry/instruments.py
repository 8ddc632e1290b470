"""The one list of what is measured: instruments are made of it, docs/observability.md and the dashboard checked by it.

Names and units follow OpenTelemetry's rules: lower case, dots, no unit in a name, UCUM with what is counted in braces.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["counter", "updowncounter", "gauge", "histogram"]
Where: TypeAlias = Literal["app", "worker", "both"]
Over: TypeAlias = Literal["sum", "max"]

MODEL: Final = "gen_ai.request.model"
PROVIDER: Final = "gen_ai.provider.name"
OPERATION: Final = "gen_ai.operation.name"
MODALITY: Final = "gen_ai.token.modality"
ROUTE: Final = "http.route"
BOUNDS: Final = {"plan": 50, "policy": 200, "meter": 100, ROUTE: 200, MODEL: 100, "tenant": 201}
"""Most values of an attribute in one process; what comes beyond is OTHER. All attributes that are not here have values
that this release's code, or the number of shards, bounds."""
MOST_SERIES: Final = 2_000
"""Most series of one instrument in one process: past it all bounded attributes are OTHER."""
OTHER: Final = "(other)"
SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5)
"""Bounds of the buckets of a check: an embedded store answers in the first, the deadline is at 0.05."""


class Instrument(NamedTuple):
    """``where``: the processes that measure it. ``over``: how the numbers of several processes make one."""

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    where: Where = "app"
    over: Over = "sum"


# -- decisions and usage ----------------------------------------------------------------------------------------------

DECISIONS: Final = Instrument(
    "mm_metering.decisions", "counter", "{decision}",
    "Takes and reservations by what was decided: allowed, overage, degraded, refused or unavailable.",
    ("decision", "reason", "policy", "plan"),
)  # fmt: skip
USAGE: Final = Instrument(
    "mm_metering.usage", "counter", "{unit}",
    "What was counted, in units of its meter; without levels and money.",
    ("meter", "plan", ROUTE),
)  # fmt: skip
TAKEN_BACK: Final = Instrument(
    "mm_metering.taken_back", "counter", "{unit}",
    "What was counted and taken back, since the request failed.",
    ("meter", "plan"),
)  # fmt: skip
TENANT_DECISIONS: Final = Instrument(
    "mm_metering.tenant.decisions", "counter", "{decision}",
    "The same decisions by tenant; only with tenant_label.",
    ("tenant", "decision"),
)  # fmt: skip
TENANT_USAGE: Final = Instrument(
    "mm_metering.tenant.usage", "counter", "{unit}",
    "The same usage by tenant; only with tenant_label.",
    ("tenant", "meter"),
)  # fmt: skip
FINDINGS: Final = Instrument(
    "mm_metering.http.findings", "counter", "{finding}",
    "Requests whose route was misread, or that ended without identify().",
    ("kind",),
)  # fmt: skip

# -- the way to the counters ------------------------------------------------------------------------------------------

CHECK: Final = Instrument(
    "mm_metering.check.duration", "histogram", "s",
    "From sending a batch of decisions to its answer; of at most 100 batches a second.",
    ("store", "outcome"),
)  # fmt: skip
BATCHES: Final = Instrument("mm_metering.batches", "counter", "{batch}", "Batches that were answered.", ("store",))
BATCH_OPS: Final = Instrument("mm_metering.batch.ops", "counter", "{op}", "Takes and posts in them.", ("store",))
OUTAGE: Final = Instrument(
    "mm_metering.store.outage", "gauge", "{outage}",
    "1 while the counters do not answer and the outage policy decides, else 0.",
    ("shard",), "both", "max",
)  # fmt: skip
JOURNAL_DEPTH: Final = Instrument(
    "mm_metering.journal.depth", "gauge", "{fact}",
    "Acknowledged facts that the ledger has not confirmed.",
    (), "both",
)  # fmt: skip
JOURNAL_AGE: Final = Instrument(
    "mm_metering.journal.age", "gauge", "s",
    "How long the ledger has confirmed none of them.",
    (), "both", "max",
)  # fmt: skip
JOURNAL_LEFT_FACTS: Final = Instrument(
    "mm_metering.journal.left.facts", "gauge", "{fact}",
    "Facts that ended processes left in files on this machine and that wait for a process.",
    (), "worker", "max",
)  # fmt: skip
JOURNAL_LEFT_FILES: Final = Instrument(
    "mm_metering.journal.left.files", "gauge", "{file}", "Those files.", (), "worker", "max"
)  # fmt: skip

# -- AI ---------------------------------------------------------------------------------------------------------------

RESERVATIONS: Final = Instrument(
    "mm_metering.reservations.open", "updowncounter", "{reservation}", "AI calls that something is held for."
)  # fmt: skip
AI_CALLS: Final = Instrument(
    "mm_metering.ai.calls", "counter", "{call}",
    "AI calls that are over, by how their cost is known: exact, estimated, unpriced, unsettled, expired or released.",
    (MODEL, PROVIDER, "status"), "both",
)  # fmt: skip
AI_COST: Final = Instrument(
    "mm_metering.ai.cost", "counter", "{nano_usd}",
    "What their providers charge, in billionths of a US dollar: whole numbers, as the ledger has them.",
    (MODEL, PROVIDER), "both",
)  # fmt: skip
_TOKENS: Final = (OPERATION, PROVIDER, MODALITY, MODEL)
INPUT_TOKENS: Final = Instrument(
    "gen_ai.client.inference.usage.input_tokens", "counter", "{token}", "Input tokens, cached ones too.", _TOKENS
)  # fmt: skip
OUTPUT_TOKENS: Final = Instrument(
    "gen_ai.client.inference.usage.output_tokens", "counter", "{token}", "Output tokens, reasoning too.", _TOKENS
)  # fmt: skip
CACHE_READ_TOKENS: Final = Instrument(
    "gen_ai.client.inference.usage.cache_read.input_tokens", "counter", "{token}",
    "Of the input tokens, those read from the provider's cache.",
    _TOKENS,
)  # fmt: skip
CACHE_WRITE_TOKENS: Final = Instrument(
    "gen_ai.client.inference.usage.cache_write.input_tokens", "counter", "{token}",
    "Of the input tokens, those written to the provider's cache.",
    _TOKENS,
)  # fmt: skip
REASONING_TOKENS: Final = Instrument(
    "gen_ai.client.inference.usage.reasoning.output_tokens", "counter", "{token}",
    "Of the output tokens, those of reasoning.",
    _TOKENS,
)  # fmt: skip

# -- the worker -------------------------------------------------------------------------------------------------------

FOLD_LAG: Final = Instrument(
    "mm_metering.fold.lag", "gauge", "s",
    "Age of the oldest entry that is not in the ledger yet, at most. Rises too while a store does not answer.",
    ("shard",), "worker", "max",
)  # fmt: skip
FOLD_BACKLOG: Final = Instrument(
    "mm_metering.fold.backlog", "gauge", "{entry}",
    "Entries being folded at the moment; at 256 more may wait.",
    ("shard",), "worker", "max",
)  # fmt: skip
FOLD_FACTS: Final = Instrument(
    "mm_metering.fold.facts", "counter", "{fact}", "Facts folded into the ledger.", (), "worker"
)  # fmt: skip
FOLD_BATCHES: Final = Instrument(
    "mm_metering.fold.batches", "counter", "{transaction}", "Transactions that folded them.", (), "worker"
)  # fmt: skip
FOLD_SIZE: Final = Instrument(
    "mm_metering.fold.size", "gauge", "{fact}", "Facts of the last transaction.", (), "worker", "max"
)  # fmt: skip
HEARTBEAT: Final = Instrument(
    "mm_metering.worker.heartbeat.age", "gauge", "s", "Since a worker came round to its leases.", (), "worker", "max"
)  # fmt: skip
LEASES: Final = Instrument(
    "mm_metering.worker.leases", "gauge", "{shard}", "Shards that a worker holds.", (), "worker"
)  # fmt: skip
JOBS: Final = Instrument(
    "mm_metering.worker.jobs", "counter", "{run}",
    "Runs of periodic jobs: done, failed (a try, of six) or lost to another worker.",
    ("job", "outcome"), "worker",
)  # fmt: skip
DEAD_LETTERS: Final = Instrument(
    "mm_metering.dead_letters.kept", "gauge", "{line}",
    "Dead letters in the ledger; absent while it does not answer.",
    (), "worker", "max",
)  # fmt: skip
DEAD_MADE: Final = Instrument(
    "mm_metering.dead_letters.made", "counter", "{line}", "Lines that could not be folded.", (), "worker"
)  # fmt: skip
COUNTERS_DRIFT: Final = Instrument(
    "mm_metering.counters.drift", "gauge", "{unit}",
    "By how much counters differed from the ledger when they were compared last; then they are loaded anew.",
    (), "worker", "max",
)  # fmt: skip
SHADOW_BLOCKS: Final = Instrument(
    "mm_metering.shadow.blocks", "counter", "{limit}",
    "Tenants' limits that a shadow plan was found to refuse by, each once.",
    ("meter",), "worker",
)  # fmt: skip
ALERTS: Final = Instrument(
    "mm_metering.alerts", "counter", "{alert}", "Alerts that were told, by the rule that tells them.", ("rule",), "both"
)  # fmt: skip
DELIVERIES: Final = Instrument(
    "mm_metering.webhook.deliveries", "counter", "{attempt}",
    "Attempts at webhooks' endpoints: delivered, failed, or unsendable for a reason of our own.",
    ("outcome",), "both",
)  # fmt: skip
PAYMENTS: Final = Instrument(
    "mm_metering.payments", "counter", "{invoice}",
    "Invoices by the state their collection came to: open, failing, confirming, parked, paid, void or uncollectible.",
    ("outcome",), "both",
)  # fmt: skip
BILLING_DRIFT: Final = Instrument(
    "mm_metering.billing.drift", "gauge", "{difference}",
    "What differed between our invoices and the provider's when reconcile_payments ran in this process last.",
    (), "both", "max",
)  # fmt: skip

ALL: Final = tuple(each for each in list(globals().values()) if isinstance(each, Instrument))
OF_TENANTS: Final = frozenset({TENANT_DECISIONS, TENANT_USAGE})
OF_GEN_AI: Final = frozenset({INPUT_TOKENS, OUTPUT_TOKENS, CACHE_READ_TOKENS, CACHE_WRITE_TOKENS, REASONING_TOKENS})

_UNITS: Final = {"s": "seconds"}


def prometheus_name(instrument: Instrument) -> str:
    """As OpenTelemetry's exporters for Prometheus call it: underscores, the unit at its end, ``_total`` for counters.
    What stands in braces is no unit."""
    name = label_name(instrument.name)
    if unit := _UNITS.get(instrument.unit):
        name = f"{name}_{unit}"
    return f"{name}_total" if instrument.kind == "counter" else name


def label_name(attribute: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", attribute)
