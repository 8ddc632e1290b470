"""The counters' server in each way of losing it: what it remembers afterwards is what the mode is about."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.chaos.proxy import Proxy
from tests.redis_cluster import free_ports, until
from tests.redis_server import RedisServer

LAG_S: Final = 0.3
"""How far the replica is behind."""


class Killed:
    """kill -9 and a start, with an append-only file that is synchronised as ``fsync`` says, or with none.

    ``url`` stays, whatever happens behind it.
    """

    def __init__(self, folder: Path, fsync: str = "") -> None:
        self.server = RedisServer(folder, appendonly=bool(fsync), options={"appendfsync": fsync or "no"})
        self.url = self.server.url

    async def start(self) -> None:
        await asyncio.to_thread(self.server.start)

    async def lose(self) -> None:
        """Returns when it answers again, with what is left."""
        await asyncio.to_thread(self.server.restart)

    async def stand_still(self, seconds: float) -> None:
        """It does not answer for that long, and forgets nothing."""
        with self.server.stopped():
            await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        self.server.kill()


class Flushed(Killed):
    """FLUSHALL: the server goes on, empty."""

    async def lose(self) -> None:
        await asyncio.to_thread(self.server.flush)


class FailedOver(Killed):
    """A master and its replica, which is LAG_S behind. The master is killed, the replica promoted, and the callers are
    led to it; then it gets a replica of its own."""

    def __init__(self, folder: Path) -> None:
        self._ports = free_ports(3)
        self.server, self._replica = (_member(folder / str(port), port) for port in self._ports[1:])
        self._front, self._lag = Proxy(self.server.socket), Proxy(self._ports[1])
        self._front_socket = folder / "front.sock"
        self.url = f"unix://{self._front_socket}"
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        await super().start()
        await self._stack.enter_async_context(self._front.listening(self._front_socket))
        await self._stack.enter_async_context(self._lag.listening(self._ports[0]))
        await self._follow()

    async def lose(self) -> None:
        self.server.kill()
        self._replica.command("REPLICAOF", "NO", "ONE")
        self.server, self._replica = self._replica, self.server
        await self._front.point_at(self.server.socket)
        self._ports[1:] = reversed(self._ports[1:])
        await self._follow()

    async def _follow(self) -> None:
        """Without the lag, which would be between every two steps of the handshake; from then on with it."""
        self._lag.lag_s = 0.0
        await self._lag.point_at(self._ports[1])
        await asyncio.to_thread(self._replica.start)
        await asyncio.to_thread(self._replica.command, "REPLICAOF", "127.0.0.1", str(self._ports[0]))
        await asyncio.to_thread(until, self._is_following, "the replica follows")
        self._lag.lag_s = LAG_S

    def _is_following(self) -> bool:
        return b"master_link_status:up" in self._replica.command("INFO", "replication")

    async def aclose(self) -> None:
        await self._stack.aclose()
        await super().aclose()
        self._replica.kill()


def _member(folder: Path, port: int) -> RedisServer:
    folder.mkdir()
    options = {"port": str(port), "bind": "127.0.0.1", "repl-diskless-sync-delay": "0"}
    return RedisServer(folder, options=options)


MODES: Final[dict[str, Callable[[Path], Killed]]] = {
    "everysec": lambda folder: Killed(folder, "everysec"),
    "always": lambda folder: Killed(folder, "always"),
    "none": Killed,
    "flush": Flushed,
    "failover": FailedOver,
}
"""By the name that ``./dev chaos --server`` takes."""
