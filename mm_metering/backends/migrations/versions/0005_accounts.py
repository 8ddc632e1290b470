"""Invoices, credit notes, credit, discounts, adjustments, and the numbers of what is numbered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

WORD = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "mm_invoice",
        _word("id"),
        _word("period"),
        _word("tenant"),
        _number("issue"),
        _word("status"),
        _word("number", nullable=True),
        _number("total"),
        _document(),
        sa.Column("inputs", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="mm_invoice_pkey"),
    )
    op.create_index("mm_invoice_period", "mm_invoice", ["period", "tenant", "issue"], unique=True)
    op.create_index("mm_invoice_tenant", "mm_invoice", ["tenant", "period"])
    op.create_index("mm_invoice_number", "mm_invoice", ["number"], unique=True)
    op.create_table(
        "mm_invoice_line",
        _word("id"),
        _word("invoice"),
        _word("kind"),
        _word("meter", nullable=True),
        _word("resource"),
        _number("amount"),
        sa.PrimaryKeyConstraint("id", name="mm_invoice_line_pkey"),
    )
    op.create_index("mm_invoice_line_invoice", "mm_invoice_line", ["invoice"])
    op.create_table(
        "mm_credit_note",
        _word("id"),
        _word("invoice"),
        _word("number"),
        _number("total"),
        _document(),
        sa.PrimaryKeyConstraint("id", name="mm_credit_note_pkey"),
    )
    op.create_index("mm_credit_note_invoice", "mm_credit_note", ["invoice", "number"])
    op.create_index("mm_credit_note_number", "mm_credit_note", ["number"], unique=True)
    _of_tenants("mm_credit_grant", _number("remaining"))
    _of_tenants("mm_discount")
    _of_tenants("mm_adjustment", _word("invoice", nullable=True))
    op.create_table(
        "mm_number", _word("series"), _number("last"), sa.PrimaryKeyConstraint("series", name="mm_number_pkey")
    )


def _of_tenants(name: str, *columns: sa.Column[int] | sa.Column[str]) -> None:
    op.create_table(
        name,
        _word("id"),
        _word("tenant"),
        _number("made"),
        *columns,
        _document(),
        sa.PrimaryKeyConstraint("id", name=f"{name}_pkey"),
    )
    op.create_index(f"{name}_tenant", name, ["tenant", "made"])


def _document() -> sa.Column[str]:
    return sa.Column("document", sa.Text, nullable=False)


def _word(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, WORD, nullable=nullable)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, autoincrement=False)
