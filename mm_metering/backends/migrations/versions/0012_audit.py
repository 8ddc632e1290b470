"""The audit log as a chain: entries have a number and a mac, and are neither changed nor deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

EMPTY = sa.text("''")
WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
STAYS = "mm_audit_log: entries are neither changed nor deleted"


def upgrade() -> None:
    op.add_column("mm_audit_log", sa.Column("seq", sa.BigInteger, nullable=True))
    op.add_column("mm_audit_log", sa.Column("form", sa.BigInteger, nullable=False, server_default="0"))
    for name in ("kid", "mac"):
        op.add_column("mm_audit_log", sa.Column(name, WORD, nullable=False, server_default=EMPTY))
    for name in ("before", "after", "reason"):
        op.add_column("mm_audit_log", sa.Column(name, sa.Text, nullable=False, server_default=EMPTY))
    op.create_index("mm_audit_log_seq", "mm_audit_log", ["seq"], unique=True)
    op.create_table(
        "mm_audit_head",
        sa.Column("id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("mac", WORD, nullable=False),
        sa.PrimaryKeyConstraint("id", name="mm_audit_head_pkey"),
    )
    op.execute("INSERT INTO mm_audit_head (id, seq, mac) VALUES (1, 0, '')")
    if op.get_bind().dialect.name == "sqlite":
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER mm_audit_log_no_{event.lower()} BEFORE {event} ON mm_audit_log "
                f"BEGIN SELECT RAISE(ABORT, '{STAYS}'); END"
            )
    else:
        op.execute(
            "CREATE FUNCTION mm_audit_log_stays() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{STAYS}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER mm_audit_log_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON mm_audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION mm_audit_log_stays()"
        )
