"""Webhooks that go out: tenants' endpoints, and each event on its way to each of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("mm_outbox", sa.Column("source", WORD, nullable=False, server_default="house"))
    op.add_column("mm_outbox", sa.Column("fanned", sa.Boolean, nullable=False, server_default=sa.text("false")))
    is_fresh = sa.text("fanned = false")
    op.create_index("mm_outbox_tenant", "mm_outbox", ["tenant", "made_us", "id"])
    op.create_index("mm_outbox_fresh", "mm_outbox", ["made_us", "id"], sqlite_where=is_fresh, postgresql_where=is_fresh)
    op.create_table(
        "mm_webhook_endpoint",
        _word("id"),
        _word("tenant"),
        _number("created_us"),
        sa.Column("enabled", sa.Boolean, nullable=False),
        _number("throttled_us"),
        _number("revision"),
        sa.Column("document", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="mm_webhook_endpoint_pkey"),
    )
    op.create_index("mm_webhook_endpoint_tenant", "mm_webhook_endpoint", ["tenant", "created_us"])
    op.create_table(
        "mm_webhook_delivery",
        *map(_word, ("id", "tenant", "endpoint", "notice", "type")),
        _number("occurred_us"),
        _word("state"),
        _number("next_us", nullable=True),
        _number("tries"),
        _number("claim"),
        sa.Column("attempts", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="mm_webhook_delivery_pkey"),
    )
    op.create_index("mm_webhook_delivery_notice", "mm_webhook_delivery", ["endpoint", "notice"], unique=True)
    op.create_index("mm_webhook_delivery_next", "mm_webhook_delivery", ["next_us", "id"])
    op.create_index("mm_webhook_delivery_tenant", "mm_webhook_delivery", ["tenant", "occurred_us", "id"])
    op.create_index("mm_webhook_delivery_made", "mm_webhook_delivery", ["occurred_us"])


def _word(name: str) -> sa.Column[str]:
    return sa.Column(name, WORD, nullable=False)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable, autoincrement=False)
