"""The ledger in SQL: SQLite for one machine, PostgreSQL past it. One code path for both.

Owns: the tables (all named ``mm_…``, so that they can live in a host's database), their transactions and retries.
Does not own: what a fact means or which cell it belongs to (core), when to fold (the worker), the schema's history
(``backends/migrations``).
Invariants: one Protocol method is one transaction. The shard's position is moved first, under its row's lock, with
the facts and cells that it stands for. A fact is one row, until it is retired; the cells equal the fold of the rows not
voided, and keep what retired ones added.
All integers are 64-bit, money is nano-units, instants are microseconds since 1970. SQLAlchemy is imported only when
a SQL ledger is opened, and never past this package and the migrations.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from mm_metering.backends.ledger import Ledger
from mm_metering.errors import InvalidInput, MissingExtra

CHOICES: Final = "memory://, sqlite:///relative.db, sqlite:////absolute.db or postgresql://USER:PASSWORD@HOST/DATABASE"


def open_ledger(url: str) -> Ledger:
    """The ledger at a URL. It connects when it is first called; ``setup`` makes or checks its schema."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise InvalidInput("ledger", f"expected a URL: {CHOICES}")  # never the text itself: it may be a secret
    match scheme:
        case "memory":
            from mm_metering.backends.memory_ledger import MemoryLedger

            return MemoryLedger()
        case "sqlite" | "postgresql" | "postgres":
            return _sql_ledger(url, extra="ledger" if scheme == "sqlite" else "postgres")
    raise InvalidInput("ledger", f"{scheme[:40]}:// is not known; use {CHOICES}")


def _sql_ledger(url: str, *, extra: str) -> Ledger:
    try:
        import sqlalchemy.ext.asyncio  # noqa: F401
    except ImportError as error:
        raise MissingExtra(extra, "a SQL ledger") from error
    if find_spec("alembic") is None:  # setup may need it, and says so too late
        raise MissingExtra(extra, "a SQL ledger")
    from mm_metering.backends.sql.ledger import SqlLedger

    return SqlLedger(url)
