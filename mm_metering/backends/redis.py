"""Counters on Redis or Valkey, 7 or newer: one server (``redis://``, ``rediss://``, ``unix://``) or a cluster
(``redis+cluster://``, ``rediss+cluster://``).

Every method is one round trip to one function of the library in ``lua/``. The driver never sends anything twice: a
call whose reply was lost raises, and the caller asks again with the same sequence number (G4).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from mm_metering.backends import redis_wire as wire
from mm_metering.backends.counters import Answer, Backlog, Batch
from mm_metering.backends.per_loop import PerLoop
from mm_metering.backends.redis_health import facts_of, findings
from mm_metering.backends.redis_line import Argument, Command, ErrorReply, Line
from mm_metering.backends.redis_nodes import Address, Cluster, Lines, OneServer, Topology
from mm_metering.core.facts import WIRE
from mm_metering.core.findings import Finding
from mm_metering.errors import InvalidInput, StoreUnavailable

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

CLUSTER_SHARDS: Final = 16
"""Of a cluster, unless the URL says ``?shards=``; one server has one."""
MAX_SHARDS: Final = 256

MIN_VERSION: Final = 7
"""The first Redis with functions."""

MENDS: Final = 2
"""How often one call may meet a moved shard or a missing library and be sent again: a new owner may lack it."""

logger: Final = logging.getLogger(__name__)


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
    """Counters of one server or of a cluster's masters. May be used from several event loops; each gets its own
    connections when it first calls.

    timeout_s   the longest a call may wait for a connection, or for its reply; its outcome is unknown then
    frozen      keys get no TTL: the server's time is not the time of a test clock
    """

    def __init__(self, url: str, *, frozen: bool = False, timeout_s: float = 1.0) -> None:
        self._keep_ms = 0 if frozen else wire.KEEP_MS
        self._timeout_s = timeout_s
        self._servers = _Servers(url, timeout_s)
        self._library = library()
        self._per_loop = PerLoop(self._servers.shards_here)

    @property
    def shards(self) -> int:
        return self._servers.shards

    async def apply(self, shard: int, batch: Batch) -> Answer:
        command = wire.encode(f"{self._library.name}_apply", shard, batch, keep_ms=self._keep_ms)
        return wire.decode(await self._call(shard, command))

    async def open(self, shard: int, *, seen: int, generation: int, grace_ms: int) -> bool:
        return bool(await self._function(shard, "open", wire.shard_keys(shard), seen, generation, grace_ms))

    async def read(self, shard: int, *, after: str, limit: int) -> Backlog:
        return wire.decode_backlog(await self._function(shard, "read", wire.shard_keys(shard), after, limit))

    async def trim(self, shard: int, *, generation: int, position: str) -> None:
        await self._function(shard, "trim", wire.shard_keys(shard), generation, position)

    async def counters(self, shard: int, tenant: str) -> Mapping[str, int]:
        return wire.decode_counters(await self._function(shard, "counters", [wire.tenant_key(shard, tenant)]))

    async def forget(self, shard: int, tenant: str) -> None:
        await self._call(shard, ("DEL", wire.tenant_key(shard, tenant), wire.holds_key(shard, tenant)))

    async def examine(self, *, now_us: int) -> list[Finding]:
        found: dict[str, list[Finding]] = {}
        for lines in self._per_loop.here().lines:
            try:
                facts = facts_of(await lines.call(("INFO",)))
                seconds, micros = await lines.call(("TIME",))
            except (ErrorReply, OSError) as problem:
                found[lines.where] = [Finding("warn", f"{lines.where} could not be asked how it is set up: {problem}")]
                continue
            offset_s = (int(seconds) * 1_000_000 + int(micros) - now_us) / 1_000_000
            found[lines.where] = [*findings(lines.where, facts, offset_s)]
        return [finding for each in found.values() for finding in each]

    async def aclose(self) -> None:
        here = asyncio.get_running_loop()
        for loop in [loop for loop, _ in self._per_loop.all()]:
            shards = self._per_loop.pop(loop)
            if shards is None:
                continue
            if loop is here:
                await shards.close()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(shards.close(), loop))

    async def _function(self, shard: int, name: str, keys: list[str], *arguments: Argument) -> Any:
        return await self._call(shard, ("FCALL", f"{self._library.name}_{name}", len(keys), *keys, *arguments))

    async def _call(self, shard: int, command: Command) -> Any:
        """Calls a function where the shard is. Where nothing ran because the shard has moved or the server lacks the
        library, that is mended, and the same call sent again."""
        lines = self._per_loop.here().lines[shard]
        try:
            for _ in range(MENDS):
                try:
                    return await lines.call(command)
                except ErrorReply as problem:
                    if not await self._mended(lines, str(problem)):
                        raise
            return await lines.call(command)
        except (ErrorReply, OSError) as problem:  # OSError: asyncio's TimeoutError is one
            raise self._servers.unavailable(lines.where, problem, shard) from problem

    async def _mended(self, lines: Lines, problem: str) -> bool:
        if "Function not found" not in problem:
            return lines.follow(problem)
        await self._load_library(lines)
        return True

    async def _load_library(self, lines: Lines) -> None:
        """Never REPLACE: that would load it anew under another process, and so be another identity (G1)."""
        try:
            await lines.call(("FUNCTION", "LOAD", self._library.source))
        except ErrorReply as problem:
            if "already exists" not in str(problem):
                raise


class _Shards(NamedTuple):
    """What one event loop has: where the shards are, and the connections of each."""

    topology: Topology
    lines: tuple[Lines, ...]

    async def close(self) -> None:
        self.topology.close()
        for each in self.lines:
            each.close()


class _Servers:
    """What a URL says: where the servers are, how to connect to one, and what to say if that fails. Its messages hold
    no credentials."""

    def __init__(self, url: str, timeout_s: float) -> None:
        from redis.asyncio.connection import SSLConnection
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._timeout_s = timeout_s
        self._addresses, options = _parse(url)
        self._is_cluster = "+cluster" in url.partition("://")[0]
        self.shards = _shards(options.pop("shards", None), CLUSTER_SHARDS if self._is_cluster else 1)
        self._kind: Callable[..., AbstractConnection] = options.pop("connection_class")
        if self._kind is SSLConnection:  # older drivers leave it out
            options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
        # RESP2: every reply of ours is plain, and its raw form is the same in all versions of the driver.
        # The deadline is around the whole exchange (Line.exchange); the driver's own would start a task per call.
        self._options = {
            **options,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": timeout_s,
        }
        self._tls: Any = None
        self._tls = _tls(self._connection(self._addresses[0]))
        self._inspected: set[Address] = set()

    def shards_here(self) -> _Shards:
        """For the running event loop."""
        topology: Topology
        if self._is_cluster:
            topology = Cluster(self._addresses, shards=self.shards, connect=self._connect, timeout_s=self._timeout_s)
        else:
            topology = OneServer(self._addresses[0])
        lines = [
            Lines(shard, topology, connect=self._connect, timeout_s=self._timeout_s) for shard in range(self.shards)
        ]
        return _Shards(topology, tuple(lines))

    def _connection(self, address: Address) -> AbstractConnection:
        from redis.exceptions import RedisError

        place = {"host": address.host, "port": address.port} if address.port else {"path": address.host}
        try:
            connection = self._kind(**self._options, **place)
        except (TypeError, RedisError) as problem:
            raise InvalidInput("counters", f"the URL has an unknown option: {problem}") from problem
        if self._tls is not None:
            connection.ssl_context = self._tls  # type: ignore[attr-defined]
        return connection

    async def _connect(self, address: Address) -> Line:
        """A connection, open; ConnectionError or TimeoutError otherwise."""
        from redis.exceptions import RedisError

        connection = self._connection(address)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except RedisError as problem:
            raise ConnectionError(str(problem)) from problem
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        line = Line(connection)
        if address not in self._inspected:
            try:
                self._inspect(address, await line.exchange(("INFO",), self._timeout_s))
            except BaseException:
                line.close()
                raise
            self._inspected.add(address)
        return line

    def _inspect(self, address: Address, info: bytes) -> None:
        """Refuses a server that is too old or is no cluster, and warns of one that may evict counters."""
        facts = facts_of(info)
        version = facts.get("redis_version", "0")
        if int(version.partition(".")[0]) < MIN_VERSION:
            raise StoreUnavailable(f"counters: {address} is Redis {version}; it must be {MIN_VERSION} or newer")
        if self._is_cluster and facts.get("cluster_enabled") == "0":
            raise StoreUnavailable(f"counters: {address} is not part of a cluster; use redis:// or rediss://")
        if not self._is_cluster and facts.get("cluster_enabled") == "1":
            logger.warning(
                "counters: %s is part of a cluster; use redis+cluster://, or no shard that moves is found", address
            )
        policy = facts.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            logger.warning(
                "counters: %s has maxmemory-policy %s and may drop usage that is not billed yet; set it to noeviction",
                address,
                policy,
            )

    def unavailable(self, where: str, problem: Exception, shard: int) -> StoreUnavailable:
        what = str(problem) or "no answer in time"
        way_out = self._way_out(what).replace("{keys}", " or ".join(wire.shard_keys(shard)))
        return StoreUnavailable(
            f"counters: Redis at {where} did not complete the call ({type(problem).__name__}: {what}); {way_out}"
        )

    def _way_out(self, what: str) -> str:
        if not self._is_cluster and what.startswith(("MOVED", "ASK ", "CLUSTERDOWN", "TRYAGAIN")):
            return "it is part of a cluster: use redis+cluster:// or rediss+cluster://"
        return next(
            (way for sign, way in WAYS_OUT.items() if sign in what),
            "see that it runs and that the counters URL is right",
        )


NEEDS: Final = "give the user the commands and keys that docs/redis.md lists"
WAYS_OUT: Final[Mapping[str, str]] = {
    "WRONGPASS": "check the user and the password in the counters URL",
    "invalid username-password pair": "check the user and the password in the counters URL",
    "NOAUTH": "give a user and a password in the counters URL",
    "no permissions": NEEDS,
    "can't run this command": NEEDS,  # in a function, on Redis 7.0
    "CERTIFICATE_VERIFY_FAILED": "name the authority of its certificate by ?ssl_ca_certs=FILE",
    "WRONGTYPE": "something else has written to {keys}: delete that key, and what it held is written again",
    "OOM command": "its memory is full: run a worker, which empties the stream, or raise maxmemory",
    "MISCONF": "it cannot write its data to disk: make room there",
    "NOREPLICAS": "it has too few replicas for min-replicas-to-write",
    "The cluster is down": "if it stays so, set cluster-require-full-coverage to no (docs/redis.md)",
}


def _parse(url: str) -> tuple[tuple[Address, ...], dict[str, Any]]:
    """Where the servers are, and the driver's options with the class of its connections. A cluster's URL names several
    hosts, "a:6379,b:6379", that share all else."""
    from redis.asyncio.connection import Connection, parse_url

    try:
        found: list[dict[str, Any]] = [dict(parse_url(each)) for each in _nodes(url)]
    except ValueError:  # its text may quote the password
        raise InvalidInput("counters", "not a URL such as redis://user:password@host:6379/0") from None
    if "path" in found[0]:
        addresses = [Address(found[0].pop("path"), 0)]
    else:
        addresses = [Address(each.pop("host", "localhost"), each.pop("port", 6379)) for each in found]
    return tuple(addresses), {"connection_class": Connection} | found[0]


def _nodes(url: str) -> list[str]:
    """One URL of the driver's for each node that the URL names."""
    parts = urlsplit(url)
    kind, plus, _ = parts.scheme.partition("+")
    if not plus:
        return [url]
    user, at, hosts = parts.netloc.rpartition("@")
    if not all(hosts.split(",")):
        raise ValueError("a host is missing")
    return [parts._replace(scheme=kind, netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]


def _shards(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_SHARDS):
        raise InvalidInput("counters", f"shards={text[:20]} is not a whole number from 1 to {MAX_SHARDS}")
    return int(text)


def _tls(connection: AbstractConnection) -> Any:
    """The driver's TLS settings, their files read once: each connection would read the authorities anew. None without
    TLS."""
    settings = getattr(connection, "ssl_context", None)
    if settings is not None:
        try:
            settings.get()
        except (OSError, ValueError) as problem:
            raise InvalidInput("counters", f"the URL's TLS options or their files are wrong: {problem}") from problem
    return settings
