"""Dead letters, alerts, leases and the runs of jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "mm_dead_letter",
        _number("shard"),
        _number("generation"),
        _word("position"),
        _number("number"),
        sa.Column("line", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        _number("stored_us"),
        sa.PrimaryKeyConstraint("shard", "generation", "position", "number", name="mm_dead_letter_pkey"),
    )
    op.create_table(
        "mm_alert",
        _word("kind"),
        _word("subject"),
        _number("opened_us"),
        _number("closed_us", nullable=True),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("kind", "subject", "opened_us", name="mm_alert_pkey"),
    )
    is_open = sa.text("closed_us IS NULL")
    op.create_index(
        "mm_alert_open", "mm_alert", ["kind", "subject"], unique=True, sqlite_where=is_open, postgresql_where=is_open
    )
    op.create_table(
        "mm_lease",
        _word("name"),
        _word("owner"),
        _number("beat"),
        sa.PrimaryKeyConstraint("name", name="mm_lease_pkey"),
    )
    op.create_table(
        "mm_job_run",
        _word("job"),
        _number("period_us"),
        _word("state"),
        _number("fence"),
        _word("owner"),
        _number("beat"),
        _number("tries"),
        _number("started_us", nullable=True),
        _number("finished_us", nullable=True),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("job", "period_us", name="mm_job_run_pkey"),
    )


def _word(name: str) -> sa.Column[str]:
    return sa.Column(name, WORD, nullable=False)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable, autoincrement=False)
