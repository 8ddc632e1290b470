"""Who pays: the payment provider's customer of a tenant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "mm_payer",
        sa.Column("tenant", WORD, nullable=False),
        sa.Column("customer", WORD, nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="mm_payer_pkey"),
    )
    op.create_index("mm_payer_customer", "mm_payer", ["customer"], unique=True)
