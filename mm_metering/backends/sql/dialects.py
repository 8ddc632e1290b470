"""What differs between SQLite and PostgreSQL, and nothing else."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final, Protocol

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Insert,
    Integer,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    event,
    func,
    literal,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.dialects.sqlite import aiosqlite
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import Dialect as SqlDialect
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.types import TypeEngine

from mm_metering.core.findings import Finding, clock_finding
from mm_metering.core.periods import micros
from mm_metering.errors import InvalidInput

BUSY_TIMEOUT_S: Final = 15.0
"""How long SQLite waits for another process's transaction, and PostgreSQL for a new connection."""
COMMAND_TIMEOUT_S: Final = 120.0
POOL_SIZE: Final = 5
POSTGRES_OPTIONS: Final = frozenset({"sslmode", "ssl", "host", "port", "passfile", "target_session_attrs"})
"""Of a ledger's URL, beside application_name; asyncpg takes no others."""
PAGE_CACHE_KIB: Final = 32_768
SYNCHRONOUS_FULL: Final = 2

Keys = Sequence[tuple[Any, ...]]
Columns = Mapping[str, TypeEngine[Any]]


class Dialect(Protocol):
    """One database's ways."""

    extra: str
    one_writer: bool
    """Whether writers of one process should queue up before they begin."""
    partitions: bool
    """Whether facts are kept in a table for each month."""

    def __hash__(self) -> int: ...

    def engine(self, url: URL) -> AsyncEngine: ...

    def where(self, url: URL) -> str:
        """The place for messages: never a name or a password."""
        ...

    def insert(self, table: Table) -> Any:
        """An insert that knows ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
        ...

    async def append(self, connection: AsyncConnection, table: Table, rows: Keys) -> None:
        """Writes thousands of new rows, all columns of each in order; an error if one of them has a row."""
        ...

    def is_duplicate(self, error: DBAPIError) -> bool:
        """Whether a row was there already."""
        ...

    def insert_many(self, table: Table, columns: Sequence[str]) -> Any:
        """The insert that ``load`` runs, to be completed by ``on_conflict_…``."""
        ...

    async def load(self, connection: AsyncConnection, text: str, rows: Keys) -> None:
        """Runs an ``insert_many`` (as ``sql_text``) for thousands of rows; they go to the driver as they are."""
        ...

    def sql_text(self, statement: Any, columns: Sequence[str]) -> str:
        """The statement as the driver takes it, with one parameter for each column, in that order."""
        ...

    def day(self, day: date) -> object:
        """A day as the driver takes it."""
        ...

    def position(self, text: ColumnElement[str], part: str) -> ColumnElement[int]:
        """Where a part begins in a text, counted from 1; 0 for nowhere."""
        ...

    def keys(self, columns: Columns) -> FromClause:
        """A table of parameters to join with, so that any number of keys is one and the same statement."""
        ...

    def key_values(self, columns: Columns, keys: Keys) -> dict[str, Any]:
        """The parameters of ``keys``."""
        ...

    async def prepare(self, connection: AsyncConnection) -> None:
        """What is set once per database, outside a transaction."""
        ...

    async def wipe(self, connection: AsyncConnection) -> bool:
        """Leaves nothing of deleted rows in the files beside the database; False while others still read there."""
        ...

    async def lock(self, connection: AsyncConnection, name: int, *, shared: bool = False) -> None:
        """Takes a named lock until the transaction ends. SQLite's only writer needs none."""
        ...

    async def steady(self, connection: AsyncConnection) -> None:
        """Has every statement of the transaction find its rows by an index. PostgreSQL plans by how large a table was
        when it last looked, and would go on reading all of one that was small then."""
        ...

    async def in_order(self, connection: AsyncConnection) -> None:
        """Has every statement of the transaction read its rows in the order of an index, and no more than are wanted.
        PostgreSQL would read and sort all of a table that was small when it last looked."""
        ...

    def reading(self) -> dict[str, Any]:
        """Execution options of a transaction that reads as of one instant."""
        ...

    def lost_a_race(self, error: DBAPIError) -> bool:
        """Whether the same transaction may win the next time."""
        ...

    def is_full(self, error: Exception) -> bool:
        """Whether the disk takes no more."""
        ...

    async def examine(self, connection: AsyncConnection, now_us: int) -> list[Finding]:
        """Whether what is committed outlives a power cut, and whether its clock is the host's."""
        ...

    def refuses_value(self, error: DBAPIError) -> bool:
        """Whether the error is about a value, which no time and no other connection would change."""
        ...


class RollsBack(sqlite3.Connection):
    """A close that ends its transaction. SQLite keeps one that is closed in the middle, and its write lock, until the
    last cursor is gone: after a cancelled write that is the next run of the garbage collector."""

    def close(self) -> None:
        if self.in_transaction:
            self.rollback()
        super().close()


class Sqlite:
    """One file in WAL mode, synced at each commit; several processes take turns in writing."""

    extra = "ledger"
    one_writer = True
    partitions = False

    def engine(self, url: URL) -> AsyncEngine:
        engine = create_async_engine(
            url.set(drivername="sqlite+aiosqlite"),
            pool_size=POOL_SIZE,
            pool_timeout=BUSY_TIMEOUT_S,
            connect_args={"timeout": BUSY_TIMEOUT_S, "factory": RollsBack},
            hide_parameters=True,
        )
        _quiet("aiosqlite")
        event.listen(engine.sync_engine, "connect", _on_connect)
        event.listen(engine.sync_engine, "begin", _on_begin)
        return engine

    def where(self, url: URL) -> str:
        return f"sqlite:///{url.database}"

    def insert(self, table: Table) -> Any:
        return sqlite.insert(table)

    async def append(self, connection: AsyncConnection, table: Table, rows: Keys) -> None:
        marks = ",".join("?" * len(table.columns))
        await connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({marks})", list(rows))

    def is_duplicate(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_PRIMARYKEY"

    def insert_many(self, table: Table, columns: Sequence[str]) -> Any:
        return sqlite.insert(table)

    async def load(self, connection: AsyncConnection, text: str, rows: Keys) -> None:
        await connection.exec_driver_sql(text, list(rows))

    def sql_text(self, statement: Any, columns: Sequence[str]) -> str:
        return _sql_text(statement, columns, aiosqlite.dialect())

    def day(self, day: date) -> object:
        return day.isoformat()

    def position(self, text: ColumnElement[str], part: str) -> ColumnElement[int]:
        return func.instr(text, part, type_=Integer())

    def keys(self, columns: Columns) -> FromClause:
        each = func.json_each(bindparam("keys", type_=Text())).table_valued("value")
        fields = [func.json_extract(each.c.value, f"$[{n}]").label(name) for n, name in enumerate(columns)]
        return select(*fields).subquery("keys")

    def key_values(self, columns: Columns, keys: Keys) -> dict[str, Any]:
        return {"keys": json.dumps(keys)}

    async def prepare(self, connection: AsyncConnection) -> None:
        await connection.execute(text("PRAGMA journal_mode = WAL"))

    async def wipe(self, connection: AsyncConnection) -> bool:
        return not (await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))).scalar()

    async def lock(self, connection: AsyncConnection, name: int, *, shared: bool = False) -> None:
        pass

    async def steady(self, connection: AsyncConnection) -> None:
        pass

    async def in_order(self, connection: AsyncConnection) -> None:
        pass

    def reading(self) -> dict[str, Any]:
        return {"mm_reading": True}

    def lost_a_race(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))

    async def examine(self, connection: AsyncConnection, now_us: int) -> list[Finding]:
        synchronous, mode = [
            (await connection.execute(text(f"PRAGMA {name}"))).scalar() for name in ("synchronous", "journal_mode")
        ]
        if synchronous != SYNCHRONOUS_FULL:
            return [Finding("warn", f"SQLite has synchronous = {synchronous}: a power cut may take committed usage")]
        return [Finding("ok", f"SQLite writes through to its disk (synchronous = FULL, journal {mode})")]

    def is_full(self, error: Exception) -> bool:
        """When it is full, SQLite ends the whole transaction, savepoints and all, and going back to one hides why."""
        gone = "no such savepoint" in str(error)
        return gone or _code(error, "sqlite_errorname").startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE"))

    def refuses_value(self, error: DBAPIError) -> bool:
        refusals = ("SQLITE_TOOBIG", "SQLITE_CONSTRAINT_NOTNULL", "SQLITE_MISMATCH")
        return isinstance(error, DataError) or getattr(error.orig, "sqlite_errorname", "").startswith(refusals)


def _quiet(driver: str) -> None:
    """At DEBUG it would log each statement's values; a level that somebody has set stays."""
    logger = logging.getLogger(driver)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def _on_connect(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: see _on_begin
    cursor = connection.cursor()
    # secure_delete: what is deleted is written over, so that a forgotten tenant is not found in the file's free pages
    for pragma in ("synchronous = FULL", "secure_delete = ON", f"cache_size = -{PAGE_CACHE_KIB}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    """A writer takes its turn at once: one that began by reading cannot wait for another and would fail."""
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN" if options.get("mm_reading") else "BEGIN IMMEDIATE")


def _off(*names: str) -> Select[Any]:
    """Until the transaction ends."""
    return select(*(func.set_config(name, "off", literal(value=True)) for name in names))


_STEADY: Final = _off("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit")
_IN_ORDER: Final = _off("enable_bitmapscan", "enable_sort")


class Postgres:
    """READ COMMITTED with row locks for writes, one REPEATABLE READ snapshot for reads."""

    extra = "postgres"
    one_writer = False
    partitions = True
    _races: Final = frozenset({"40001", "40P01", "23505", "55P03"})  # serialization, deadlock, unique, lock
    _refusals: Final = ("22", "23502", "54")  # data, not null, limits such as the size of an index's row

    def engine(self, url: URL) -> AsyncEngine:
        given = dict(url.query)
        settings = {"application_name": given.pop("application_name", "mm_metering")}
        if unknown := sorted(given.keys() - POSTGRES_OPTIONS):
            known = ", ".join(sorted({*POSTGRES_OPTIONS, *settings}))
            raise InvalidInput("ledger", f"its URL has the option {unknown[0][:40]!r}; known: {known}")
        options = {"ssl" if name == "sslmode" else name: value for name, value in given.items()}
        return create_async_engine(
            url.set(drivername="postgresql+asyncpg", query=options),
            pool_size=POOL_SIZE,
            pool_timeout=BUSY_TIMEOUT_S,
            connect_args={
                "timeout": BUSY_TIMEOUT_S,
                "command_timeout": COMMAND_TIMEOUT_S,
                "server_settings": settings,
            },
            hide_parameters=True,
        )

    def where(self, url: URL) -> str:
        port = f":{url.port}" if url.port else ""
        return f"postgresql://{url.host or ''}{port}/{url.database or ''}"

    def insert(self, table: Table) -> Any:
        return postgresql.insert(table)

    async def append(self, connection: AsyncConnection, table: Table, rows: Keys) -> None:
        """By COPY: half the time of an insert from arrays. SQLAlchemy has no word for it."""
        from asyncpg import InterfaceError, PostgresError

        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            await driver.copy_records_to_table(table.name, records=rows, columns=table.columns.keys())
        except (PostgresError, InterfaceError) as error:
            if isinstance(error, ValueError):  # a value that the driver refuses
                raise
            raise DBAPIError(f"COPY {table.name}", None, error, connection_invalidated=driver.is_closed()) from error

    def is_duplicate(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlstate", None) == "23505"

    def insert_many(self, table: Table, columns: Sequence[str]) -> Any:
        source = self.keys({name: table.c[name].type for name in columns})
        return postgresql.insert(table).from_select(list(columns), select(source))

    async def load(self, connection: AsyncConnection, text: str, rows: Keys) -> None:
        """One array per column: a third of the time that the rows take one by one."""
        await connection.exec_driver_sql(text, tuple(map(list, zip(*rows, strict=True))))

    def sql_text(self, statement: Any, columns: Sequence[str]) -> str:
        return _sql_text(statement, columns, asyncpg.dialect())  # type: ignore[no-untyped-call]

    def day(self, day: date) -> object:
        return day

    def position(self, text: ColumnElement[str], part: str) -> ColumnElement[int]:
        return func.strpos(text, part, type_=Integer())

    def keys(self, columns: Columns) -> FromClause:
        arrays = [cast(bindparam(f"of_{name}"), postgresql.ARRAY(kind)) for name, kind in columns.items()]
        return select(func.unnest(*arrays).table_valued(*columns, name="given").render_derived()).subquery("keys")

    def key_values(self, columns: Columns, keys: Keys) -> dict[str, Any]:
        values = map(list, zip(*keys, strict=True)) if keys else ([] for _ in columns)
        return {f"of_{name}": each for name, each in zip(columns, values, strict=True)}

    async def prepare(self, connection: AsyncConnection) -> None:
        pass

    async def wipe(self, connection: AsyncConnection) -> bool:
        return True  # vacuum and the log's retention are for whoever runs the server

    async def lock(self, connection: AsyncConnection, name: int, *, shared: bool = False) -> None:
        take = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
        await connection.execute(select(take(cast(name, BigInteger))))

    async def steady(self, connection: AsyncConnection) -> None:
        await connection.execute(_STEADY)

    async def in_order(self, connection: AsyncConnection) -> None:
        await connection.execute(_IN_ORDER)

    def reading(self) -> dict[str, Any]:
        return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    def lost_a_race(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlstate", None) in self._races

    async def examine(self, connection: AsyncConnection, now_us: int) -> list[Finding]:
        there = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        found = [clock_finding("PostgreSQL", (micros(there) - now_us) / 1_000_000)]
        for name in ("fsync", "synchronous_commit"):
            if (value := (await connection.execute(text(f"SHOW {name}"))).scalar()) == "off":
                found.append(Finding("warn", f"PostgreSQL has {name} = off: a power cut may take committed usage"))
            else:
                found.append(Finding("ok", f"PostgreSQL has {name} = {value}"))
        return found

    def is_full(self, error: Exception) -> bool:
        return _code(error, "sqlstate") == "53100"

    def refuses_value(self, error: DBAPIError) -> bool:
        """By class of SQLSTATE, the server's; the driver refuses with an error that is a ValueError as well."""
        state = getattr(error.orig, "sqlstate", None)
        cause = error.orig.__cause__ if error.orig else None
        return state.startswith(self._refusals) if state else isinstance(cause, ValueError)


def _code(error: Exception, name: str) -> str:
    """The database's own code of an error; "" for one that is not its."""
    return str(getattr(error.orig, name, "") or "") if isinstance(error, DBAPIError) else ""


def _sql_text(statement: Insert, columns: Sequence[str], driver: SqlDialect) -> str:
    compiled = statement.compile(dialect=driver, column_keys=list(columns))
    if [name.removeprefix("of_") for name in compiled.positiontup or ()] != list(columns):
        raise AssertionError(f"parameters are {compiled.positiontup}, not {columns}")
    return str(compiled)


def dialect_of(url: URL) -> Dialect:
    return Sqlite() if url.get_backend_name() == "sqlite" else Postgres()


def is_trouble(error: DBAPIError) -> bool:
    """Whether the connection or the disk failed, rather than the statement."""
    return error.connection_invalidated or isinstance(error, OperationalError)
