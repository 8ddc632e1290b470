"""Privacy: a key of each tenant's own, and when it was forgotten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("mm_tenant", sa.Column("forgotten_us", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "mm_tenant_key",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("sealed", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="mm_tenant_key_pkey"),
    )
