"""Facts in the order of their instants, so that one index is enough for most; and since when they are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = ("tenant", "occurred_us", "id")
STATISTICS = {
    "mm_usage_fact": "10000000 10000 1 1",
    "mm_usage_fact_levels": "100000 100 10 1 1",
    "mm_usage_fact_holds": "1000000 1000 1",
    "mm_usage_fact_closes": "1000000 1000 1",
    "mm_usage_fact_open": "1000 10 10",
}


def upgrade() -> None:
    op.create_table("mm_kept", sa.Column("since_us", sa.BigInteger, nullable=False))
    op.execute(f"INSERT INTO mm_kept (since_us) VALUES ({-(2**62)})")
    op.drop_index("mm_usage_fact_in_order", "mm_usage_fact")
    op.drop_index("mm_usage_fact_open", "mm_usage_fact")
    is_sqlite = op.get_context().dialect.name == "sqlite"
    if is_sqlite:
        _turn_key_of_sqlite()
    else:
        op.drop_constraint("mm_usage_fact_pkey", "mm_usage_fact")
        op.create_primary_key("mm_usage_fact_pkey", "mm_usage_fact", list(KEY))
        op.execute("ALTER TABLE mm_usage_cell SET (fillfactor = 50)")  # each batch changes the day's cells
    _create_index("mm_usage_fact_open", ["tenant", "open"], "open = true")
    _create_index("mm_usage_fact_holds", ["tenant", "id"], "kind = 'hold'")
    if is_sqlite:
        _describe_rows()


def _create_index(name: str, columns: list[str], predicate: str) -> None:
    where = sa.text(predicate)
    op.create_index(name, "mm_usage_fact", columns, sqlite_where=where, postgresql_where=where)


def _describe_rows() -> None:
    """Rows, and rows for each value of the first columns: SQLite's planner takes a tenant to have ten facts, and reads
    them all rather than an index. Told once, its plans stay the same while the table grows."""
    op.execute("ANALYZE")
    op.execute("DELETE FROM sqlite_stat1 WHERE tbl = 'mm_usage_fact'")
    for index, rows in STATISTICS.items():
        op.execute(f"INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('mm_usage_fact', '{index}', '{rows}')")
    op.execute("ANALYZE sqlite_schema")  # this connection reads them again; the others do anyway, as the tables changed


def _turn_key_of_sqlite() -> None:
    with op.batch_alter_table(
        "mm_usage_fact",
        recreate="always",
        table_kwargs={"sqlite_with_rowid": False},
    ) as table:
        table.drop_constraint("mm_usage_fact_pkey", type_="primary")
        table.create_primary_key("mm_usage_fact_pkey", list(KEY))
