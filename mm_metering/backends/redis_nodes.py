"""Which server owns a shard, and the few connections to it: one server, or the masters of a cluster.

All of it belongs to one event loop. A shard shares nothing with the others that its server could hold up: it has its
own connections, and looks for its owner again only when they fail.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from mm_metering.backends.redis_line import Command, ErrorReply, Line
from mm_metering.errors import StoreUnavailable

logger: Final = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 2
"""Per event loop and shard: one for the batches in flight, one for the drain. Calls are shared, so more would wait as
well."""

SLOTS: Final = 16_384
"""Of every cluster."""

LOOK_EVERY_S: Final = 0.2
"""The least time between two looks at a cluster's topology, however many shards fail."""
HEDGE_S: Final = 0.05
"""How long one node may think about the topology before the next is asked as well."""

AWAY: Final = frozenset({"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN"})
"""Error replies of a server that is not, or not yet, the shard's: the next connection may find another behind the same
name."""


class Address(NamedTuple):
    """A server's, or with port 0 the path of a unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host


Connect: TypeAlias = Callable[[Address], Awaitable[Line]]
"""An open connection; StoreUnavailable, ConnectionError or TimeoutError otherwise."""


def slot_of(shard: int) -> int:
    """The cluster's slot of all keys of a shard: the CRC16 of their hash tag, ``mm:SHARD``."""
    return crc_hqx(b"mm:%d" % shard, 0) % SLOTS


# -- where a shard is --------------------------------------------------------------------------------------------------


class Topology(Protocol):
    """Knows the owner of each shard."""

    @property
    def where(self) -> str:
        """What a message calls it while no owner is known."""
        ...

    async def owner(self, shard: int) -> Address:
        """The server that owns it, as far as is known; ConnectionError or StoreUnavailable if nobody says."""
        ...

    def moved(self, shard: int, owner: Address) -> bool:
        """The server said who owns the shard now; False where that cannot be followed."""
        ...

    def look_again(self) -> None:
        """A shard's owner failed: maybe it is another by now. Does not wait."""
        ...

    def close(self) -> None: ...


class OneServer:
    """All shards are on one server."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.where: str = str(address)

    async def owner(self, shard: int) -> Address:
        return self._address

    def moved(self, shard: int, owner: Address) -> bool:
        return False

    def look_again(self) -> None:
        """Its name may lead to another server by now, which the next connection finds."""

    def close(self) -> None: ...


class Cluster:
    """The masters of a cluster. Who owns what is read when a shard is first used and after failures, beside the calls:
    only one whose owner was never known waits for it."""

    def __init__(self, seeds: Sequence[Address], *, shards: int, connect: Connect, timeout_s: float) -> None:
        self.where: str = f"the cluster at {', '.join(map(str, seeds))}"
        self._seeds = tuple(seeds)
        self._shards = shards
        self._connect = connect
        self._timeout_s = timeout_s
        self._nodes: tuple[Address, ...] = ()
        self._owners: dict[int, Address] = {}
        self._look: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    async def owner(self, shard: int) -> Address:
        if shard not in self._owners:
            look = self._looking()
            await asyncio.wait((look,))  # the caller may be cancelled; others wait for the same look
            look.result()
        if shard not in self._owners:
            raise ConnectionError(f"no master owns slot {slot_of(shard)}, where shard {shard} is")
        return self._owners[shard]

    def moved(self, shard: int, owner: Address) -> bool:
        self._owners[shard] = owner
        return True

    def look_again(self) -> None:
        if asyncio.get_running_loop().time() - self._looked_at >= LOOK_EVERY_S:
            self._looking()

    def close(self) -> None:
        if self._look is not None:
            self._look.cancel()

    def _looking(self) -> asyncio.Task[None]:
        """The look that is under way, or a new one. It keeps nothing of the caller's context."""
        if self._look is None or self._look.done():
            loop = asyncio.get_running_loop()
            self._looked_at = loop.time()
            self._look = loop.create_task(self._read(), context=contextvars.Context())
            self._look.add_done_callback(_log_failure)
        return self._look

    async def _read(self) -> None:
        """Asks the nodes in any order, those that were named first; what the first one answers is believed. If it is
        behind the others, its owners say MOVED or fail, and the next look asks another."""
        named = random.sample(self._nodes, len(self._nodes))
        nodes = list(dict.fromkeys((*named, *self._seeds)))
        try:
            async with asyncio.timeout(self._timeout_s):
                reply, asked = await _first_answer(nodes, self._ask)
        except (OSError, ErrorReply) as problem:
            raise ConnectionError(f"no node says who owns what: {str(problem) or 'no answer in time'}") from problem
        ranges = read_slots(reply, asked)
        self._nodes = tuple(dict.fromkeys(node for each in ranges for node in each.nodes))
        self._owners |= owners(ranges, self._shards)

    async def _ask(self, node: Address) -> Any:
        line = await self._connect(node)
        try:
            return await line.exchange(("CLUSTER", "SLOTS"), self._timeout_s)
        finally:
            line.close()


def _log_failure(look: asyncio.Task[None]) -> None:
    """The shards that wait for it say it louder."""
    if not look.cancelled() and (problem := look.exception()) is not None:
        logger.debug("counters: the cluster's topology was not read: %s", problem)


async def _first_answer(nodes: Sequence[Address], ask: Callable[[Address], Awaitable[Any]]) -> tuple[Any, Address]:
    """The first answer that comes, and whose it is. The next node is asked when one fails or is slow; the last failure
    is raised."""
    problem: BaseException = ConnectionError("no node is known")
    waiting: dict[asyncio.Future[Any], Address] = {}
    left = list(reversed(nodes))
    try:
        while left or waiting:
            if left:
                node = left.pop()
                waiting[asyncio.ensure_future(ask(node))] = node
            slow_s = HEDGE_S if left else None
            done, _ = await asyncio.wait(waiting, timeout=slow_s, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                node, failure = waiting.pop(each), each.exception()
                if failure is None:
                    return each.result(), node
                problem = failure
        raise problem
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


# -- what CLUSTER SLOTS says -------------------------------------------------------------------------------------------


class SlotRange(NamedTuple):
    """Slots first to last, both included; the master that owns them first, then its replicas."""

    first: int
    last: int
    nodes: tuple[Address, ...]


def read_slots(reply: Any, asked: Address) -> tuple[SlotRange, ...]:
    """The reply of CLUSTER SLOTS. A node without a name has the host that was asked."""
    try:
        return tuple(
            SlotRange(int(first), int(last), tuple(_address(node, asked) for node in nodes))
            for first, last, *nodes in reply
        )
    except (TypeError, ValueError, AttributeError) as problem:
        raise StoreUnavailable(f"counters: {asked} answers CLUSTER SLOTS in a form that is not known") from problem


def _address(node: Sequence[Any], asked: Address) -> Address:
    host = node[0].decode() if node[0] else ""
    return Address(asked.host if host in ("", "?") else host, int(node[1]))


def owners(ranges: Sequence[SlotRange], shards: int) -> Mapping[int, Address]:
    """Each shard's master, of those whose slot has one."""
    return {
        shard: each.nodes[0]
        for shard in range(shards)
        for each in ranges
        if each.nodes and each.first <= slot_of(shard) <= each.last
    }


def read_moved(reply: str, asked: str) -> Address | None:
    """The owner in "MOVED 3999 host:6381", or ":6381" on the host that was asked; None for every other reply."""
    words = reply.split(" ")
    host, _, port = words[-1].rpartition(":")
    if len(words) != 3 or words[0] != "MOVED" or not port.isdigit():
        return None
    return Address(asked if host in ("", "?") else host, int(port))


# -- connections -------------------------------------------------------------------------------------------------------


class Lines:
    """The connections to one shard's owner. One that was interrupted between a command and its reply is closed, so that
    no call ever reads the reply of another."""

    def __init__(self, shard: int, topology: Topology, *, connect: Connect, timeout_s: float) -> None:
        self.where: str = topology.where
        self._shard = shard
        self._topology = topology
        self._connect = connect
        self._timeout_s = timeout_s
        self._host = ""
        self._idle: list[Line] = []
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._closed = False

    async def call(self, command: Command) -> Any:
        """Sends one command once and gives its raw reply; ErrorReply, ConnectionError or TimeoutError."""
        line: Line | None = None
        async with self._free:
            try:
                line = self._idle.pop() if self._idle else None
                if line is None or line.lost is not None:  # the server may have ended it while it was idle
                    line = await self._open()
                reply = await line.exchange(command, self._timeout_s)
            except ErrorReply as problem:
                self._keep(line)
                if str(problem).partition(" ")[0] in AWAY:
                    self._leave()
                raise
            except BaseException as problem:
                if line is not None:
                    line.close()
                if isinstance(problem, Exception):  # the idle one's server is most likely gone as well
                    self._close_idle()
                self._topology.look_again()
                raise
            self._keep(line)
            return reply

    def follow(self, reply: str) -> bool:
        """Whether it was a MOVED that can be followed: then the next call goes to the shard's new owner."""
        owner = read_moved(reply, self._host)
        if owner is None or not self._topology.moved(self._shard, owner):
            return False
        self._close_idle()
        return True

    def close(self) -> None:
        """For good: calls that are still under way close their own connection."""
        self._closed = True
        self._close_idle()

    async def _open(self) -> Line:
        async with asyncio.timeout(self._timeout_s):
            owner = await self._topology.owner(self._shard)
            self.where, self._host = str(owner), owner.host
            return await self._connect(owner)

    def _leave(self) -> None:
        self._close_idle()
        self._topology.look_again()

    def _keep(self, line: Line | None) -> None:
        if line is None:
            return
        if self._closed:
            line.close()
        else:
            self._idle.append(line)

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()
