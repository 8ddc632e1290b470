"""Counters on Redis or Valkey, 7 or newer: ``redis://``, ``rediss://`` and ``unix://``.

Every method is one round trip to one function of the library in ``lua/``. The driver never sends anything twice: a
call whose reply was lost raises, and the caller asks again with the same sequence number (G4).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from mm_metering.backends import redis_wire as wire
from mm_metering.backends.counters import Answer, Backlog, Batch
from mm_metering.backends.redis_line import Argument, Command, ErrorReply, Line
from mm_metering.core.facts import WIRE
from mm_metering.errors import InvalidInput, StoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

MAX_CONNECTIONS: Final = 2
"""Per event loop: one for the batches in flight, one for the drain. Calls are shared, so more would wait as well."""

MIN_VERSION: Final = 7
"""The first Redis with functions."""

logger = logging.getLogger(__name__)


class Library(NamedTuple):
    """The script library: its name has the wire format and its content's hash, so no server runs another content."""

    name: str
    source: str


@cache
def library() -> Library:
    """The parts in ``lua/`` in order, as one library."""
    parts = sorted((files(__package__) / "lua").iterdir(), key=lambda part: part.name)
    body = "\n".join(part.read_text("utf-8") for part in parts if part.name.endswith(".lua"))
    name = f"mm_metering_{WIRE}_{sha256(body.encode()).hexdigest()[:8]}"
    return Library(name, f"#!lua name={name}\n{body.replace('@LIBRARY@', name)}")


class RedisCounters:
    """Counters of one server. May be used from several event loops; each gets its own connections when it first calls.

    timeout_s   the longest one call may take, connecting included; its outcome is unknown then
    frozen      keys get no TTL: the server's time is not the time of a test clock
    """

    def __init__(self, url: str, *, frozen: bool = False, shards: int = 1, timeout_s: float = 1.0) -> None:
        self._shards = shards
        self._keep_ms = 0 if frozen else wire.KEEP_MS
        self._timeout_s = timeout_s
        self._server = _Server(url, timeout_s)
        self._library = library()
        self._by_loop: WeakKeyDictionary[AbstractEventLoop, _Connections] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def shards(self) -> int:
        return self._shards

    async def apply(self, shard: int, batch: Batch) -> Answer:
        command = wire.encode(f"{self._library.name}_apply", shard, batch, keep_ms=self._keep_ms)
        return wire.decode(await self._call(command))

    async def open(self, shard: int, *, seen: int, generation: int, grace_ms: int) -> bool:
        return bool(await self._function("open", wire.shard_keys(shard), seen, generation, grace_ms))

    async def read(self, shard: int, *, after: str, limit: int) -> Backlog:
        return wire.decode_backlog(await self._function("read", wire.shard_keys(shard), after, limit))

    async def trim(self, shard: int, *, generation: int, position: str) -> None:
        await self._function("trim", wire.shard_keys(shard), generation, position)

    async def counters(self, shard: int, tenant: str) -> Mapping[str, int]:
        return wire.decode_counters(await self._function("counters", [wire.tenant_key(shard, tenant)]))

    async def aclose(self) -> None:
        with self._lock:
            closing = list(self._by_loop.items())
            self._by_loop.clear()
        here = asyncio.get_running_loop()
        for loop, connections in closing:
            if loop is here:
                await connections.close()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(connections.close(), loop))

    async def _function(self, name: str, keys: list[str], *arguments: Argument) -> Any:
        return await self._call(("FCALL", f"{self._library.name}_{name}", len(keys), *keys, *arguments))

    async def _call(self, command: Command) -> Any:
        """Calls a function; where the server does not have the library it is loaded, and the same call sent again."""
        connections = self._connections()
        try:
            try:
                return await connections.call(command)
            except ErrorReply as problem:
                if "Function not found" not in str(problem):
                    raise
            await self._load_library(connections)
            return await connections.call(command)
        except (ErrorReply, OSError) as problem:  # OSError: asyncio's TimeoutError is one
            raise self._server.unavailable(problem) from problem

    async def _load_library(self, connections: _Connections) -> None:
        """Never REPLACE: that would load it anew under another process, and so be another identity (G1)."""
        try:
            await connections.call(("FUNCTION", "LOAD", self._library.source))
        except ErrorReply as problem:
            if "already exists" not in str(problem):
                raise

    def _connections(self) -> _Connections:
        loop = asyncio.get_running_loop()
        with self._lock:
            found = self._by_loop.get(loop)
            if found is None:
                found = self._by_loop[loop] = _Connections(self._server, self._timeout_s)
            return found


class _Server:
    """Where the server is, how to connect to it, and what to say if that fails. Its messages hold no credentials."""

    def __init__(self, url: str, timeout_s: float) -> None:
        from redis.asyncio.connection import Connection, parse_url
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        try:
            options: dict[str, Any] = dict(parse_url(url))
        except ValueError:  # its text may quote the password
            raise InvalidInput("counters", "not a URL such as redis://user:password@host:6379/0") from None
        self._kind: Callable[..., AbstractConnection] = options.pop("connection_class", Connection)
        self.where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        # RESP2: every reply of ours is plain, and its raw form is the same in all versions of the driver.
        # The deadline is around the whole exchange (_Connections.call); the driver's own would start a task per call.
        self._options = {
            **options,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": timeout_s,
        }

    async def line(self) -> Line:
        """A connection, open; ConnectionError or TimeoutError otherwise."""
        from redis.exceptions import RedisError

        try:
            connection = self._kind(**self._options)
        except TypeError as problem:
            raise InvalidInput("counters", f"the URL has an unknown option: {problem}") from problem
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except RedisError as problem:
            raise ConnectionError(str(problem)) from problem
        return Line(connection)

    def inspect(self, info: str) -> None:
        """Refuses a server that is too old, and warns of one that may evict counters."""
        facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        version = facts.get("redis_version", "0")
        if int(version.partition(".")[0]) < MIN_VERSION:
            raise StoreUnavailable(f"counters: {self.where} is Redis {version}; it must be {MIN_VERSION} or newer")
        policy = facts.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            logger.warning(
                "counters: %s has maxmemory-policy %s and may drop usage that is not billed yet; set it to noeviction",
                self.where,
                policy,
            )

    def unavailable(self, problem: Exception) -> StoreUnavailable:
        what = str(problem) or "no answer in time"
        return StoreUnavailable(
            f"counters: Redis at {self.where} did not complete the call ({type(problem).__name__}: {what}); "
            "see that it runs and that the counters URL is right"
        )


class _Connections:
    """The connections of one event loop. One that was interrupted between a command and its reply is closed, so that
    no call ever reads the reply of another."""

    def __init__(self, server: _Server, timeout_s: float) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._idle: list[Line] = []
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._inspected = False
        self._closed = False

    async def call(self, command: Command) -> Any:
        """Sends one command and gives its raw reply; ErrorReply, or TimeoutError if that takes too long."""
        async with self._free:
            line = self._idle.pop() if self._idle else await self._open()
            try:
                reply = await line.exchange(command, self._timeout_s)
            except ErrorReply:
                self._keep(line)
                raise
            except BaseException as problem:
                line.close()
                if isinstance(problem, Exception):  # the idle one's server is most likely gone or demoted as well
                    self._close_idle()
                raise
            self._keep(line)
            return reply

    async def _open(self) -> Line:
        async with asyncio.timeout(self._timeout_s):
            line = await self._server.line()
            if not self._inspected:
                try:
                    info = await line.exchange(("INFO",), self._timeout_s)
                    self._server.inspect(info.decode(errors="replace"))
                except BaseException:
                    line.close()
                    raise
                self._inspected = True
            return line

    def _keep(self, line: Line) -> None:
        if self._closed:
            line.close()
        else:
            self._idle.append(line)

    async def close(self) -> None:
        """For good: calls that are still under way close their own connection."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()
