"""The tables, as the newest migration leaves them (a test compares the two)."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import postgresql

metadata: Final = MetaData()

WORD = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Text in the order of its code points on both databases, which is Python's order too."""

tenant: Final = Table(
    "mm_tenant",
    metadata,
    Column("id", WORD, nullable=False),
    Column("timezone", WORD, nullable=False),
    Column("subscribed_us", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("tax_rate", WORD),
    Column("trial_us", BigInteger, nullable=False, server_default="0"),
    Column("anchor_day", BigInteger, nullable=False, server_default="1"),
    Column("forgotten_us", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("id", name="mm_tenant_pkey"),
)
Index("mm_tenant_since", tenant.c.subscribed_us, tenant.c.id)

tenant_key: Final = Table(  # a tenant's own key, sealed; without it what was sealed with it is noise
    "mm_tenant_key",
    metadata,
    Column("tenant", WORD, nullable=False),
    Column("sealed", Text, nullable=False),
    PrimaryKeyConstraint("tenant", name="mm_tenant_key_pkey"),
)

subscription: Final = Table(  # a tenant's timeline: one row per segment
    "mm_subscription",
    metadata,
    Column("tenant", WORD, nullable=False),
    Column("starts_us", BigInteger, nullable=False),
    Column("plan", WORD, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("status", WORD, nullable=False, server_default="active"),
    PrimaryKeyConstraint("tenant", "starts_us", name="mm_subscription_pkey"),
)

plan_version: Final = Table(
    "mm_plan_version",
    metadata,
    Column("plan", WORD, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("definition", Text, nullable=False),  # JSON, keys sorted
    Column("created_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("plan", "version", name="mm_plan_version_pkey"),
)

shard: Final = Table(
    "mm_shard",
    metadata,
    Column("shard", BigInteger, autoincrement=False, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("position", WORD, nullable=False),
    Column("next_generation", BigInteger, nullable=False),
    Column("facts", BigInteger, nullable=False, server_default=text("0")),  # all that moved a cell, as a Digest
    Column("digest", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("shard", name="mm_shard_pkey"),
)

# One row per fact. A void marks its target's row; where there is none yet it leaves a tombstone in its
# place (kind "void"), which keeps the target out. ``open`` is a hold without a counted close.
usage_fact: Final = Table(
    "mm_usage_fact",
    metadata,
    Column("tenant", WORD, nullable=False),
    Column("id", WORD, nullable=False),
    Column("occurred_us", BigInteger, nullable=False),
    Column("kind", WORD, nullable=False),
    Column("event_type", WORD, nullable=False),
    Column("resource", WORD, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("cost_nanos", BigInteger),
    Column("counts", Text, nullable=False),  # JSON: [[meter, scope, amount], …]
    Column("success", Boolean, nullable=False),
    Column("target", WORD),
    Column("metadata", Text),
    Column("voided", Boolean, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("stored_us", BigInteger, nullable=False),  # the folding process's clock; provenance only
    # an id's occurred_us never changes; in this order a tenant's new facts come last, and pages of them need no index
    PrimaryKeyConstraint("tenant", "occurred_us", "id", name="mm_usage_fact_pkey"),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (occurred_us)",
)

IS_LEVEL = text("kind IN ('set', 'add')")
IS_OPEN = text("open = true")
IS_HOLD = text("kind = 'hold'")
IS_CLOSE = text("kind = 'close'")

for _name, _columns, _where in (
    ("mm_usage_fact_levels", ("tenant", "resource", "occurred_us", "id"), IS_LEVEL),
    ("mm_usage_fact_open", ("tenant", "open"), IS_OPEN),  # both: else SQLite's planner prefers the primary key
    ("mm_usage_fact_holds", ("tenant", "id"), IS_HOLD),
    ("mm_usage_fact_closes", ("tenant", "target"), IS_CLOSE),
):
    Index(_name, *(usage_fact.c[name] for name in _columns), sqlite_where=_where, postgresql_where=_where)
Index("mm_usage_fact_stored", usage_fact.c.stored_us)  # it grows at its end alone

kept: Final = Table(  # its only row: all facts from this instant on are here
    "mm_kept",
    metadata,
    Column("since_us", BigInteger, nullable=False),
)

event_key: Final = Table(
    "mm_event_key",
    metadata,
    Column("tenant", WORD, nullable=False),
    Column("event_id", WORD, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("occurred_us", BigInteger, nullable=False),
    Column("fact_id", WORD, nullable=False),
    PrimaryKeyConstraint("tenant", "event_id", name="mm_event_key_pkey"),
    sqlite_with_rowid=False,
)

usage_cell: Final = Table(
    "mm_usage_cell",
    metadata,
    Column("tenant", WORD, nullable=False),
    Column("day", Date, nullable=False),
    Column("since_us", BigInteger, nullable=False),
    Column("meter", WORD, nullable=False),
    Column("resource", WORD, nullable=False),
    Column("scope", WORD, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    Column("weighted", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False, server_default=text("0")),
    Column("revision", BigInteger, nullable=False),
    Column("facts", BigInteger, nullable=False, server_default=text("0")),
    Column("digest", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("tenant", "day", "since_us", "meter", "resource", "scope", name="mm_usage_cell_pkey"),
    sqlite_with_rowid=False,
)
Index("mm_usage_cell_day", usage_cell.c.day, usage_cell.c.tenant)

house_day: Final = Table(  # what all tenants together used of a meter on a day; made anew from the cells at any time
    "mm_house_day",
    metadata,
    Column("day", Date, nullable=False),
    Column("meter", WORD, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("tenants", BigInteger, nullable=False),
    Column("top", Text, nullable=False),  # JSON: [[tenant, quantity], …]
    Column("made_us", BigInteger, nullable=False),
    Column("resources", Text, nullable=False),  # JSON: [[resource, quantity, nano-units], …]
    PrimaryKeyConstraint("day", "meter", name="mm_house_day_pkey"),
)

usage_level: Final = Table(
    "mm_usage_level",
    metadata,
    Column("tenant", WORD, nullable=False),
    Column("meter", WORD, nullable=False),
    Column("resource", WORD, nullable=False),
    Column("value", BigInteger, nullable=False),
    Column("stamp", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant", "meter", "resource", name="mm_usage_level_pkey"),
    sqlite_with_rowid=False,
)

# What each process has acknowledged in each shard, as a Digest. Never part of billing: ``mm-metering prove`` compares.
acknowledged: Final = Table(
    "mm_acknowledged",
    metadata,
    Column("process", WORD, nullable=False),
    Column("shard", BigInteger, autoincrement=False, nullable=False),
    Column("facts", BigInteger, nullable=False),
    Column("digest", BigInteger, nullable=False),
    Column("reported_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("process", "shard", name="mm_acknowledged_pkey"),
    sqlite_with_rowid=False,
)

# Lines of the stream that are no facts, or that this database refused, as they came.
dead_letter: Final = Table(
    "mm_dead_letter",
    metadata,
    Column("shard", BigInteger, autoincrement=False, nullable=False),
    Column("generation", BigInteger, autoincrement=False, nullable=False),
    Column("position", WORD, nullable=False),
    Column("number", BigInteger, autoincrement=False, nullable=False),
    Column("line", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("stored_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("shard", "generation", "position", "number", name="mm_dead_letter_pkey"),
)

alert: Final = Table(
    "mm_alert",
    metadata,
    Column("kind", WORD, nullable=False),
    Column("subject", WORD, nullable=False),
    Column("opened_us", BigInteger, autoincrement=False, nullable=False),
    Column("closed_us", BigInteger),
    Column("detail", Text, nullable=False),
    PrimaryKeyConstraint("kind", "subject", "opened_us", name="mm_alert_pkey"),
)

_IS_UNCLOSED = text("closed_us IS NULL")
Index(
    "mm_alert_open",
    alert.c.kind,
    alert.c.subject,
    unique=True,
    sqlite_where=_IS_UNCLOSED,
    postgresql_where=_IS_UNCLOSED,
)
Index("mm_alert_history", alert.c.closed_us, alert.c.opened_us, alert.c.kind, alert.c.subject)

lease: Final = Table(
    "mm_lease",
    metadata,
    Column("name", WORD, nullable=False),
    Column("owner", WORD, nullable=False),
    Column("beat", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", name="mm_lease_pkey"),
)

job_run: Final = Table(
    "mm_job_run",
    metadata,
    Column("job", WORD, nullable=False),
    Column("period_us", BigInteger, autoincrement=False, nullable=False),
    Column("state", WORD, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("owner", WORD, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("tries", BigInteger, nullable=False),
    Column("started_us", BigInteger),
    Column("finished_us", BigInteger),
    Column("error", Text),
    PrimaryKeyConstraint("job", "period_us", name="mm_job_run_pkey"),
)

# The documents below are the JSON of core values; the columns beside them are what rows are found by, and what somebody
# may ask in SQL. Amounts are nano-units.
invoice: Final = Table(
    "mm_invoice",
    metadata,
    Column("id", WORD, nullable=False),
    Column("period", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("issue", BigInteger, autoincrement=False, nullable=False),
    Column("status", WORD, nullable=False),
    Column("number", WORD),
    Column("total", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Column("inputs", LargeBinary),  # what it follows from; None for a draft
    PrimaryKeyConstraint("id", name="mm_invoice_pkey"),
)
Index("mm_invoice_period", invoice.c.period, invoice.c.tenant, invoice.c.issue, unique=True)
Index("mm_invoice_tenant", invoice.c.tenant, invoice.c.period)
Index("mm_invoice_number", invoice.c.number, unique=True)
Index("mm_invoice_status", invoice.c.status, invoice.c.period, invoice.c.tenant, invoice.c.issue)
Index("mm_invoice_total", invoice.c.period, invoice.c.status, invoice.c.total)

invoice_line: Final = Table(
    "mm_invoice_line",
    metadata,
    Column("id", WORD, nullable=False),
    Column("invoice", WORD, nullable=False),
    Column("kind", WORD, nullable=False),
    Column("meter", WORD),
    Column("resource", WORD, nullable=False),
    Column("amount", BigInteger, nullable=False),
    PrimaryKeyConstraint("id", name="mm_invoice_line_pkey"),
)
Index("mm_invoice_line_invoice", invoice_line.c.invoice)

credit_note: Final = Table(
    "mm_credit_note",
    metadata,
    Column("id", WORD, nullable=False),
    Column("invoice", WORD, nullable=False),
    Column("number", WORD, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    PrimaryKeyConstraint("id", name="mm_credit_note_pkey"),
)
Index("mm_credit_note_invoice", credit_note.c.invoice, credit_note.c.number)
Index("mm_credit_note_number", credit_note.c.number, unique=True)

credit_grant: Final = Table(
    "mm_credit_grant",
    metadata,
    Column("id", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("made", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    PrimaryKeyConstraint("id", name="mm_credit_grant_pkey"),
)
Index("mm_credit_grant_tenant", credit_grant.c.tenant, credit_grant.c.made)

discount: Final = Table(
    "mm_discount",
    metadata,
    Column("id", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("made", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    PrimaryKeyConstraint("id", name="mm_discount_pkey"),
)
Index("mm_discount_tenant", discount.c.tenant, discount.c.made)

adjustment: Final = Table(
    "mm_adjustment",
    metadata,
    Column("id", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("made", BigInteger, nullable=False),
    Column("invoice", WORD),
    Column("document", Text, nullable=False),
    PrimaryKeyConstraint("id", name="mm_adjustment_pkey"),
)
Index("mm_adjustment_tenant", adjustment.c.tenant, adjustment.c.made)

number: Final = Table(  # the last number of each series
    "mm_number",
    metadata,
    Column("series", WORD, nullable=False),
    Column("last", BigInteger, nullable=False),
    PrimaryKeyConstraint("series", name="mm_number_pkey"),
)

payer: Final = Table(  # the payment provider's customer of a tenant
    "mm_payer",
    metadata,
    Column("tenant", WORD, nullable=False),
    Column("customer", WORD, nullable=False),
    PrimaryKeyConstraint("tenant", name="mm_payer_pkey"),
)
Index("mm_payer_customer", payer.c.customer, unique=True)

_IS_FINALIZED = text("status = 'finalized'")
Index(
    "mm_invoice_finalized",
    invoice.c.tenant,
    invoice.c.period,
    sqlite_where=_IS_FINALIZED,
    postgresql_where=_IS_FINALIZED,
)

collection: Final = Table(  # an invoice on its way to be paid
    "mm_collection",
    metadata,
    Column("invoice", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("period", WORD, nullable=False),
    Column("state", WORD, nullable=False),
    Column("provider_invoice", WORD),
    Column("next_us", BigInteger),
    Column("document", Text, nullable=False),
    Column("amount", BigInteger, nullable=False, server_default=text("0")),
    PrimaryKeyConstraint("invoice", name="mm_collection_pkey"),
)
Index("mm_collection_tenant", collection.c.tenant, collection.c.period)
Index("mm_collection_next", collection.c.next_us)
Index("mm_collection_provider", collection.c.provider_invoice, unique=True)
Index("mm_collection_state", collection.c.state, collection.c.amount)

hint: Final = Table(  # what the payment provider says has happened
    "mm_webhook_inbox",
    metadata,
    Column("id", WORD, nullable=False),
    Column("type", WORD, nullable=False),
    Column("about", WORD, nullable=False),
    Column("object_id", WORD, nullable=False),
    Column("happened_us", BigInteger, nullable=False),
    Column("stored_us", BigInteger, nullable=False),
    Column("next_us", BigInteger),
    Column("tries", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
    PrimaryKeyConstraint("id", name="mm_webhook_inbox_pkey"),
)
Index("mm_webhook_inbox_next", hint.c.next_us)
Index("mm_webhook_inbox_stored", hint.c.stored_us, hint.c.id)

notice: Final = Table(  # what others are told
    "mm_outbox",
    metadata,
    Column("id", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("type", WORD, nullable=False),
    Column("data", Text, nullable=False),
    Column("made_us", BigInteger, nullable=False),
    Column("next_us", BigInteger),
    Column("tries", BigInteger, nullable=False),
    Column("source", WORD, nullable=False, server_default="house"),
    Column("fanned", Boolean, nullable=False, server_default=text("false")),  # whether it was made into deliveries
    PrimaryKeyConstraint("id", name="mm_outbox_pkey"),
)
Index("mm_outbox_next", notice.c.next_us, notice.c.made_us)
Index("mm_outbox_made", notice.c.made_us)
Index("mm_outbox_tenant", notice.c.tenant, notice.c.made_us, notice.c.id)
Index("mm_outbox_type", notice.c.type, notice.c.made_us, notice.c.id)
IS_FRESH = text("fanned = false")
Index("mm_outbox_fresh", notice.c.made_us, notice.c.id, sqlite_where=IS_FRESH, postgresql_where=IS_FRESH)

mute: Final = Table(
    "mm_mute",
    metadata,
    Column("rule", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("until_us", BigInteger, autoincrement=False, nullable=False),
    PrimaryKeyConstraint("rule", "tenant", name="mm_mute_pkey"),
)

audit_log: Final = Table(
    "mm_audit_log",
    metadata,
    Column("id", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("actor", WORD, nullable=False),
    Column("action", WORD, nullable=False),
    Column("subject", WORD, nullable=False),
    Column("detail", Text, nullable=False),
    Column("seq", BigInteger),  # none: older than the chain
    Column("form", BigInteger, nullable=False, server_default="0"),
    Column("kid", WORD, nullable=False, server_default=text("''")),
    Column("mac", WORD, nullable=False, server_default=text("''")),
    Column("before", Text, nullable=False, server_default=text("''")),  # JSON
    Column("after", Text, nullable=False, server_default=text("''")),  # JSON
    Column("reason", Text, nullable=False, server_default=text("''")),
    PrimaryKeyConstraint("id", name="mm_audit_log_pkey"),
)
Index("mm_audit_log_at", audit_log.c.at_us)
Index("mm_audit_log_tenant", audit_log.c.tenant, audit_log.c.at_us)
Index("mm_audit_log_action", audit_log.c.action, audit_log.c.at_us, audit_log.c.id)
Index("mm_audit_log_seq", audit_log.c.seq, unique=True)

audit_head: Final = Table(  # one row: where the audit log's chain ends
    "mm_audit_head",
    metadata,
    Column("id", BigInteger, autoincrement=False, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("mac", WORD, nullable=False),
    PrimaryKeyConstraint("id", name="mm_audit_head_pkey"),
)

# What a payment provider was told of a tenant's usage in a month, written before it is told; and one row (of the tenant
# "") that says since when.
usage_report: Final = Table(
    "mm_usage_report",
    metadata,
    Column("tenant", WORD, nullable=False),
    Column("period", WORD, nullable=False),
    Column("meter", WORD, nullable=False),
    Column("number", BigInteger, autoincrement=False, nullable=False),
    Column("customer", WORD, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("identifier", WORD, nullable=False),
    Column("instant_us", BigInteger, nullable=False),
    Column("made_us", BigInteger, nullable=False),
    Column("state", WORD, nullable=False),
    PrimaryKeyConstraint("tenant", "period", "meter", "number", name="mm_usage_report_pkey"),
)
_IS_UNTOLD = text("state <> 'sent'")
Index(
    "mm_usage_report_open",
    usage_report.c.tenant,
    usage_report.c.period,
    usage_report.c.meter,
    unique=True,
    sqlite_where=_IS_UNTOLD,
    postgresql_where=_IS_UNTOLD,
)
Index("mm_usage_report_customer", usage_report.c.customer, usage_report.c.meter, usage_report.c.instant_us)

endpoint: Final = Table(  # where a tenant's events go
    "mm_webhook_endpoint",
    metadata,
    Column("id", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("throttled_us", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    PrimaryKeyConstraint("id", name="mm_webhook_endpoint_pkey"),
)
Index("mm_webhook_endpoint_tenant", endpoint.c.tenant, endpoint.c.created_us)

delivery: Final = Table(  # one event on its way to one endpoint
    "mm_webhook_delivery",
    metadata,
    Column("id", WORD, nullable=False),
    Column("tenant", WORD, nullable=False),
    Column("endpoint", WORD, nullable=False),
    Column("notice", WORD, nullable=False),
    Column("type", WORD, nullable=False),
    Column("occurred_us", BigInteger, nullable=False),
    Column("state", WORD, nullable=False),
    Column("next_us", BigInteger),
    Column("tries", BigInteger, nullable=False),
    Column("claim", BigInteger, nullable=False),
    Column("attempts", Text, nullable=False),  # JSON
    PrimaryKeyConstraint("id", name="mm_webhook_delivery_pkey"),
)
Index("mm_webhook_delivery_notice", delivery.c.endpoint, delivery.c.notice, unique=True)
Index("mm_webhook_delivery_next", delivery.c.next_us, delivery.c.id)
Index("mm_webhook_delivery_tenant", delivery.c.tenant, delivery.c.occurred_us, delivery.c.id)
Index("mm_webhook_delivery_made", delivery.c.occurred_us)
Index("mm_webhook_delivery_counts", delivery.c.occurred_us, delivery.c.endpoint, delivery.c.state)
for _owner in ("endpoint", "tenant"):
    Index(
        f"mm_webhook_delivery_{_owner}_state",
        *(delivery.c[name] for name in (_owner, "state", "occurred_us", "id")),
    )
Index("mm_webhook_delivery_state", delivery.c.state, delivery.c.occurred_us, delivery.c.id)
