"""Tenants, plans, shards, facts and their cells."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    _create_tenants()
    _create_facts()
    _create_cells()


def _word(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, WORD, nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable, autoincrement=False)


def _key(*columns: str, table: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"{table}_pkey")


def _create_tenants() -> None:
    op.create_table(
        "mm_tenant",
        _word("id"),
        _word("timezone"),
        _number("subscribed_us"),
        _word("status"),
        _number("revision"),
        _word("tax_rate", nullable=True),
        _key("id", table="mm_tenant"),
    )
    op.create_table(
        "mm_subscription",
        _word("tenant"),
        _number("starts_us"),
        _word("plan"),
        _number("version"),
        _key("tenant", "starts_us", table="mm_subscription"),
    )
    op.create_table(
        "mm_plan_version",
        _word("plan"),
        _number("version"),
        sa.Column("definition", sa.Text, nullable=False),
        _number("created_us"),
        _key("plan", "version", table="mm_plan_version"),
    )


def _create_facts() -> None:
    op.create_table(
        "mm_shard",
        _number("shard"),
        _number("generation"),
        _word("position"),
        _number("next_generation"),
        _key("shard", table="mm_shard"),
    )
    op.create_table(
        "mm_usage_fact",
        _word("tenant"),
        _word("id"),
        _number("occurred_us"),
        _word("kind"),
        _word("event_type"),
        _word("resource"),
        _number("quantity"),
        _number("cost_nanos", nullable=True),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("success", sa.Boolean, nullable=False),
        _word("target", nullable=True),
        sa.Column("metadata", sa.Text),
        sa.Column("voided", sa.Boolean, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        _number("stored_us"),
        _key("tenant", "id", "occurred_us", table="mm_usage_fact"),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (occurred_us)",
    )
    if op.get_context().dialect.name == "postgresql":  # months can be split off it later
        op.execute("CREATE TABLE mm_usage_fact_default PARTITION OF mm_usage_fact DEFAULT")
    _create_fact_indexes()
    op.create_table(
        "mm_event_key",
        _word("tenant"),
        _word("event_id"),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        _number("occurred_us"),
        _word("fact_id"),
        _key("tenant", "event_id", table="mm_event_key"),
        sqlite_with_rowid=False,
    )


def _create_fact_indexes() -> None:
    op.create_index("mm_usage_fact_in_order", "mm_usage_fact", ["tenant", "occurred_us", "id"])
    for name, columns, predicate in (
        ("mm_usage_fact_levels", ["tenant", "resource", "occurred_us", "id"], "kind IN ('set', 'add')"),
        ("mm_usage_fact_open", ["tenant"], "open"),
        ("mm_usage_fact_closes", ["tenant", "target"], "kind = 'close'"),
    ):
        where = sa.text(predicate)
        op.create_index(name, "mm_usage_fact", columns, sqlite_where=where, postgresql_where=where)


def _create_cells() -> None:
    op.create_table(
        "mm_usage_cell",
        _word("tenant"),
        sa.Column("day", sa.Date, nullable=False),
        _number("since_us"),
        _word("meter"),
        _word("resource"),
        _word("scope"),
        _number("quantity"),
        _number("cost_nanos"),
        _number("weighted"),
        _number("count"),
        sa.Column("refused", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        _number("revision"),
        _key("tenant", "day", "since_us", "meter", "resource", "scope", table="mm_usage_cell"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "mm_usage_level",
        _word("tenant"),
        _word("meter"),
        _word("resource"),
        _number("value"),
        _number("stamp"),
        _key("tenant", "meter", "resource", table="mm_usage_level"),
        sqlite_with_rowid=False,
    )
