"""Digests of what was acknowledged, folded and counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    for table in ("mm_shard", "mm_usage_cell"):
        for name in ("facts", "digest"):
            op.add_column(table, sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.create_table(
        "mm_acknowledged",
        sa.Column("process", WORD, nullable=False),
        sa.Column("shard", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("facts", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.BigInteger, nullable=False),
        sa.Column("reported_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("process", "shard", name="mm_acknowledged_pkey"),
        sqlite_with_rowid=False,
    )
