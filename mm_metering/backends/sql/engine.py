"""Connections and transactions: one engine per event loop, bounded retries, errors that say where."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Executable, Table, TextClause, Update, and_, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mm_metering.backends.sql.dialects import Columns, Dialect, dialect_of, is_trouble
from mm_metering.backends.sql.rows import AnyRow
from mm_metering.core.audit import AuditEntry
from mm_metering.errors import InvalidInput, MissingExtra, StoreUnavailable

T = TypeVar("T")

RETRY_PAUSES_S: Final = (0.01, 0.05, 0.2, 0.5)
"""Waits before a transaction that lost a race, or its connection, is run again; after the last it is an error."""

Rows: TypeAlias = Sequence[AnyRow]


class UnstorableValue(Exception):
    """The database refuses a value: no time and no connection would help."""


class Transaction:
    """A connection inside a transaction, and the few words that the ledger's statements are made of."""

    def __init__(self, connection: AsyncConnection, dialect: Dialect) -> None:
        self.connection = connection
        self.dialect = dialect
        self.noted: list[AuditEntry] = []

    def note(self, entries: Iterable[AuditEntry]) -> None:
        """For the audit log, which is written last."""
        self.noted += entries

    async def all(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Rows:
        return (await self.connection.execute(statement, parameters)).all()

    async def plain(self, statement: Executable) -> Sequence[Sequence[Any]]:
        """The rows as the driver has them, where they are a million and no type needs turning."""
        cursor: Any = (await self.connection.execute(statement)).cursor
        return cursor.fetchall()  # type: ignore[no-any-return]

    async def first(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> AnyRow | None:
        return (await self.connection.execute(statement, parameters)).first()

    async def run(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """How many rows it touched."""
        return (await self.connection.execute(statement, parameters)).rowcount

    async def run_each(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """The statement once per row, sent together; nothing without rows."""
        if rows:
            await self.connection.execute(statement, rows)

    async def append(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """``Dialect.append``; nothing without rows."""
        if rows:
            await self.dialect.append(self.connection, table, rows)

    async def appended(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> bool:
        """``append``, if all rows are new; otherwise False, and nothing is written."""
        try:
            async with self.connection.begin_nested():
                await self.append(table, rows)
        except DBAPIError as error:
            if not self.dialect.is_duplicate(error):
                raise
            return False
        return True

    async def load(self, text: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """``Dialect.load``; nothing without rows."""
        if rows:
            await self.dialect.load(self.connection, text, rows)

    async def matching(
        self,
        fields: Sequence[ColumnElement[Any]],
        columns: Columns,
        keys: Iterable[tuple[Any, ...]],
        *,
        where: Sequence[ColumnElement[bool] | TextClause] = (),
        group_by: Sequence[ColumnElement[Any]] = (),
        lock: bool = False,
    ) -> Rows:
        """The fields of the rows under any of the keys (all of the first one's table). ``lock`` keeps the rows from a
        change until the transaction ends, and takes them in key order."""
        given = sorted(keys)
        if not given:
            return []
        source, table = self.dialect.keys(columns), fields[0].table
        on = [table.c[name] == source.c[name] for name in columns]
        statement = select(*fields).select_from(source.join(table, and_(*on))).where(*where).group_by(*group_by)
        if lock:
            statement = statement.order_by(*(table.c[name] for name in columns))
            statement = statement.with_for_update(read=True, key_share=True, of=table)
        return await self.all(statement, self.dialect.key_values(columns, given))

    async def update_matching(self, change: Update, columns: Columns, keys: Iterable[tuple[Any, ...]]) -> None:
        """Carries the change out on the rows under any of the keys."""
        given, source = sorted(keys), self.dialect.keys(columns)
        if given:
            on = [change.table.c[name] == source.c[name] for name in columns]
            await self.run(change.where(*on), self.dialect.key_values(columns, given))

    @contextlib.contextmanager
    def storing(self) -> Iterator[None]:
        """Turns an error that the values themselves have caused into UnstorableValue."""
        try:
            yield
        except (DBAPIError, ValueError, ArithmeticError) as error:
            if isinstance(error, DBAPIError) and not self.dialect.refuses_value(error):
                raise
            raise UnstorableValue(_one_line(error)) from error

    def insert(self, table: Table) -> Any:
        return self.dialect.insert(table)

    async def lock(self, name: int, *, shared: bool = False) -> None:
        await self.dialect.lock(self.connection, name, shared=shared)


Work: TypeAlias = Callable[[Transaction], Awaitable[T]]


def _one_line(error: Exception) -> str:
    cause = (error.orig if isinstance(error, DBAPIError) else None) or error
    detail = str(cause).strip().partition("\n")[0][:200]
    return f"{type(cause).__name__}: {detail}"


class Store:
    """Runs transactions on the database of a URL, from any event loop."""

    def __init__(self, url: str, *, last: Work[None] | None = None) -> None:
        """``last``: what every write ends with."""
        self._last = last
        try:
            self._url = make_url(url.replace("postgres://", "postgresql://", 1))
        except (ArgumentError, ValueError):  # its text may quote the password
            raise InvalidInput("ledger", "not a URL such as postgresql://user:password@host:5432/db") from None
        self._dialect = dialect_of(self._url)
        if self._dialect.one_writer and self._url.database in {None, "", ":memory:"}:
            raise InvalidInput("ledger", "SQLite needs a file, as in sqlite:///usage.db; memory:// keeps none")
        self._engines: WeakKeyDictionary[AbstractEventLoop, AsyncEngine] = WeakKeyDictionary()
        self._turns: WeakKeyDictionary[AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    @property
    def where(self) -> str:
        return self._dialect.where(self._url)

    @property
    def is_file(self) -> bool:
        """SQLite: nobody else runs this database."""
        return self._dialect.one_writer

    async def prepare(self) -> None:
        """What is set once per database."""

        async def outside_a_transaction() -> None:
            async with self._engine().connect() as connection:
                await self._dialect.prepare(await connection.execution_options(isolation_level="AUTOCOMMIT"))

        await self._retried(outside_a_transaction)

    async def read(self, work: Work[T]) -> T:
        """Runs ``work`` as of one instant."""

        async def attempt() -> T:
            async with self._engine().connect() as connection:
                await connection.execution_options(**self._dialect.reading())
                async with connection.begin():
                    await self._dialect.steady(connection)
                    return await work(Transaction(connection, self._dialect))

        return await self._retried(attempt)

    async def write(self, work: Work[T]) -> T:
        """Runs ``work`` and commits it; again from the start if it lost a race or its connection."""

        async def attempt() -> T:
            async with self._turn(), self._engine().begin() as connection:
                await self._dialect.steady(connection)
                tx = Transaction(connection, self._dialect)
                done = await work(tx)
                if self._last is not None:
                    await self._last(tx)
                return done

        return await self._retried(attempt)

    async def wipe(self) -> bool:
        """``Dialect.wipe``."""

        async def outside_a_transaction() -> bool:
            async with self._turn(), self._engine().connect() as connection:
                return await self._dialect.wipe(await connection.execution_options(isolation_level="AUTOCOMMIT"))

        return await self._retried(outside_a_transaction)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """SQLite's writers wait here in order: its own waiting is a poll."""
        if not self._dialect.one_writer:
            yield
            return
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            yield

    async def _retried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        for pause_s in RETRY_PAUSES_S:
            try:
                return await attempt()
            except DBAPIError as error:
                if not (error.connection_invalidated or self._dialect.lost_a_race(error)):
                    raise self._unavailable(error) from error
            except (PoolTimeout, OSError) as error:
                raise self._unavailable(error) from error
            await asyncio.sleep(pause_s)
        try:
            return await attempt()
        except (DBAPIError, PoolTimeout, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        trouble = not isinstance(error, DBAPIError) or is_trouble(error)
        way_out = "check that it runs and can be reached" if trouble else "run `mm-metering migrate` if it was not yet"
        if self._dialect.is_full(error):
            way_out = "make room on its disk"
        return StoreUnavailable(f"the ledger at {self.where} failed ({_one_line(error)}); {way_out}")

    def _engine(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        if loop not in self._engines:
            try:
                self._engines[loop] = self._dialect.engine(self._url)
            except ImportError as error:
                raise MissingExtra(self._dialect.extra, f"a ledger at {self.where}") from error
        return self._engines[loop]

    async def aclose(self) -> None:
        """Closes every loop's connections; a later call opens new ones."""
        here = asyncio.get_running_loop()
        while self._engines:
            loop, engine = self._engines.popitem()
            if loop is here:
                await engine.dispose()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(engine.dispose(), loop))
            else:
                engine.sync_engine.dispose(close=False)  # its loop is gone, and with it whatever could close them
