"""What payment providers were told of usage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "mm_usage_report",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("period", WORD, nullable=False),
        sa.Column("meter", WORD, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("customer", WORD, nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("identifier", WORD, nullable=False),
        sa.Column("instant_us", sa.BigInteger(), nullable=False),
        sa.Column("made_us", sa.BigInteger(), nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "period", "meter", "number", name="mm_usage_report_pkey"),
    )
    is_open = sa.text("state <> 'sent'")
    op.create_index(
        "mm_usage_report_open",
        "mm_usage_report",
        ["tenant", "period", "meter"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("mm_usage_report_customer", "mm_usage_report", ["customer", "meter", "instant_us"])
