"""Payment: what becomes of invoices at the provider, what it tells, what others are told, and who did what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    is_finalized = sa.text("status = 'finalized'")
    op.create_index(
        "mm_invoice_finalized",
        "mm_invoice",
        ["tenant", "period"],
        sqlite_where=is_finalized,
        postgresql_where=is_finalized,
    )
    op.create_table(
        "mm_collection",
        _word("invoice"),
        _word("tenant"),
        _word("period"),
        _word("state"),
        _word("provider_invoice", nullable=True),
        _number("next_us", nullable=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("invoice", name="mm_collection_pkey"),
    )
    op.create_index("mm_collection_tenant", "mm_collection", ["tenant", "period"])
    op.create_index("mm_collection_next", "mm_collection", ["next_us"])
    op.create_index("mm_collection_provider", "mm_collection", ["provider_invoice"], unique=True)
    op.create_table(
        "mm_webhook_inbox",
        _word("id"),
        _word("type"),
        _word("about"),
        _word("object_id"),
        _number("happened_us"),
        _number("stored_us"),
        _number("next_us", nullable=True),
        _number("tries"),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="mm_webhook_inbox_pkey"),
    )
    op.create_index("mm_webhook_inbox_next", "mm_webhook_inbox", ["next_us"])
    op.create_table(
        "mm_outbox",
        _word("id"),
        _word("tenant"),
        _word("type"),
        sa.Column("data", sa.Text, nullable=False),
        _number("made_us"),
        _number("next_us", nullable=True),
        _number("tries"),
        sa.PrimaryKeyConstraint("id", name="mm_outbox_pkey"),
    )
    op.create_index("mm_outbox_next", "mm_outbox", ["next_us", "made_us"])
    op.create_index("mm_outbox_made", "mm_outbox", ["made_us"])
    op.create_table(
        "mm_audit_log",
        _word("id"),
        _word("tenant"),
        _number("at_us"),
        _word("actor"),
        _word("action"),
        _word("subject"),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="mm_audit_log_pkey"),
    )
    op.create_index("mm_audit_log_at", "mm_audit_log", ["at_us"])
    op.create_index("mm_audit_log_tenant", "mm_audit_log", ["tenant", "at_us"])


def _word(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, WORD, nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable, autoincrement=False)
