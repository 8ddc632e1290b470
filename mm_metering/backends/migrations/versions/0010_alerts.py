"""Alerts: what nothing is told of, until when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "mm_mute",
        sa.Column("rule", WORD, nullable=False),
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("rule", "tenant", name="mm_mute_pkey"),
    )
