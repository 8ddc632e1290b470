"""What people look at: the house by day, and indexes for the newest of each list.

Facts come first and take the longest: of ten million, 17 s on PostgreSQL and 30 s on SQLite, on two cores that others
used too. Meanwhile nothing is folded on PostgreSQL, and nothing written on SQLite; usage waits in the stream. Where
that is too long, on PostgreSQL, make the indexes beforehand, as in

    CREATE INDEX CONCURRENTLY ON mm_usage_fact_2026_11 (stored_us)    (of each partition, and of mm_usage_fact_default)
    CREATE INDEX CONCURRENTLY mm_usage_cell_day ON mm_usage_cell (day, tenant)

and these are taken as they are.
"""

from __future__ import annotations

import json
from decimal import ROUND_HALF_UP, Decimal

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
PAGE = 10_000
MOST = 2**63 - 1
STATISTICS = {
    ("mm_usage_fact", "mm_usage_fact_stored"): "10000000 1",
    ("mm_usage_cell", "mm_usage_cell_pkey"): "1000000 1000 20 20 5 1 1",
    ("mm_usage_cell", "mm_usage_cell_day"): "1000000 20000 20",
}

INDEXES = (
    ("mm_usage_fact_stored", "mm_usage_fact", ("stored_us",)),
    ("mm_usage_cell_day", "mm_usage_cell", ("day", "tenant")),
    ("mm_tenant_since", "mm_tenant", ("subscribed_us", "id")),
    ("mm_alert_history", "mm_alert", ("closed_us", "opened_us", "kind", "subject")),
    ("mm_invoice_status", "mm_invoice", ("status", "period", "tenant", "issue")),
    ("mm_invoice_total", "mm_invoice", ("period", "status", "total")),
    ("mm_webhook_inbox_stored", "mm_webhook_inbox", ("stored_us", "id")),
    ("mm_outbox_type", "mm_outbox", ("type", "made_us", "id")),
    ("mm_audit_log_action", "mm_audit_log", ("action", "at_us", "id")),
    ("mm_webhook_delivery_counts", "mm_webhook_delivery", ("occurred_us", "endpoint", "state")),
    ("mm_webhook_delivery_endpoint_state", "mm_webhook_delivery", ("endpoint", "state", "occurred_us", "id")),
    ("mm_webhook_delivery_tenant_state", "mm_webhook_delivery", ("tenant", "state", "occurred_us", "id")),
    ("mm_webhook_delivery_state", "mm_webhook_delivery", ("state", "occurred_us", "id")),
)


def upgrade() -> None:
    for name, table, columns in INDEXES:
        op.create_index(name, table, list(columns), if_not_exists=True)
    op.create_table(
        "mm_house_day",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("meter", WORD, nullable=False),
        *(_number(name) for name in ("quantity", "cost_nanos", "refused", "tenants")),
        sa.Column("top", sa.Text, nullable=False),
        _number("made_us"),
        sa.Column("resources", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("day", "meter", name="mm_house_day_pkey"),
    )
    _add_amounts()
    if op.get_context().dialect.name == "sqlite":
        _describe_rows()


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _add_amounts() -> None:
    """What a collection comes to, in nano-units, from its document."""
    op.add_column("mm_collection", sa.Column("amount", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    collection = sa.table("mm_collection", *map(sa.column, ("invoice", "document", "amount")))
    invoice, document = collection.c.invoice, collection.c.document
    change = sa.update(collection).where(invoice == sa.bindparam("of")).values(amount=sa.bindparam("nanos"))
    connection, after = op.get_bind(), ""
    page = sa.select(invoice, document).order_by(invoice).limit(PAGE)
    while rows := connection.execute(page.where(invoice > after)).all():
        connection.execute(change, [{"of": row.invoice, "nanos": _nanos(row.document)} for row in rows])
        after = rows[-1].invoice
    op.create_index("mm_collection_state", "mm_collection", ["state", "amount"])


def _nanos(document: str) -> int:
    nanos = (Decimal(json.loads(document)["amount"]) * 10**9).quantize(Decimal(1), ROUND_HALF_UP)
    return max(-MOST, min(int(nanos), MOST))


def _describe_rows() -> None:
    """As 0004 does."""
    for (table, index), rows in STATISTICS.items():
        op.execute(f"DELETE FROM sqlite_stat1 WHERE tbl = '{table}' AND idx = '{index}'")
        op.execute(f"INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('{table}', '{index}', '{rows}')")
    op.execute("ANALYZE sqlite_schema")
