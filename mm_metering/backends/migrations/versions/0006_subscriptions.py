"""A subscription's state is part of its timeline; a tenant may be in trial, and have months of its own."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

PAUSED_NOW = """
    INSERT INTO mm_subscription (tenant, starts_us, plan, version, status)
    SELECT tenant, {now}, plan, version, 'paused' FROM mm_subscription AS segment
    WHERE tenant IN (SELECT id FROM mm_tenant WHERE status = 'suspended') AND starts_us = (
        SELECT max(starts_us) FROM mm_subscription AS other
        WHERE other.tenant = segment.tenant AND other.starts_us < {now}
    )
"""
PAUSED_LATER = """
    UPDATE mm_subscription SET status = 'paused'
    WHERE starts_us >= {now} AND tenant IN (SELECT id FROM mm_tenant WHERE status = 'suspended')
"""


def upgrade() -> None:
    op.add_column("mm_tenant", sa.Column("trial_us", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("mm_tenant", sa.Column("anchor_day", sa.BigInteger, nullable=False, server_default="1"))
    op.add_column("mm_subscription", sa.Column("status", WORD, nullable=False, server_default="active"))
    now = int(time.time()) * 1_000_000
    op.execute(PAUSED_NOW.format(now=now))
    op.execute(PAUSED_LATER.format(now=now))
    op.execute("UPDATE mm_tenant SET revision = revision + 1 WHERE status = 'suspended'")
    with op.batch_alter_table("mm_tenant") as table:
        table.drop_column("status")
