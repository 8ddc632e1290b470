"""Three masters and a replica of the first on loopback, made by hand from the binary of ``tests.redis_server``."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mm_metering.backends.redis_nodes import SLOTS
from tests.redis_server import START_TIMEOUT_S, RedisServer

MASTERS = 3
SHARDS = 16
NODE_TIMEOUT_MS = 60_000
"""Long: nobody is failed over by itself, whatever the machine is busy with. Tests order it."""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {START_TIMEOUT_S:.0f} s: {what}"
        time.sleep(0.01)


class Node(RedisServer):
    """A server that may be part of a cluster, on TCP as well as on its own socket."""

    def __init__(self, directory: Path, *, port: int, bus_port: int, options: dict[str, str] | None = None) -> None:
        directory.mkdir()
        self.port = port
        self.bus_port = bus_port
        own = {
            "port": str(port),
            "bind": "127.0.0.1",
            "cluster-enabled": "yes",
            "cluster-port": str(bus_port),
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "cluster-require-full-coverage": "no",
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
        }
        super().__init__(directory, options=own | (options or {}))

    def ok(self, *words: str) -> None:
        reply = self.command(*words)
        assert reply == b"+OK\r\n", (words, reply)

    def id(self) -> str:
        return self.command("CLUSTER", "MYID").split(b"\r\n")[1].decode()

    def is_master(self) -> bool:
        return b"role:master" in self.command("INFO", "replication")

    def follows(self, master: Node) -> bool:
        """Whether it is this master's replica, has all that the master has, and the master knows."""
        known = self.id().encode() in master.command("CLUSTER", "REPLICAS", master.id())
        return known and b"master_link_status:up" in self.command("INFO", "replication")

    def take_over(self) -> None:
        """It is a replica, and becomes the master of its master's slots at once; nobody is asked."""
        self.ok("CLUSTER", "FAILOVER", "TAKEOVER")
        until(self.is_master, "the replica is promoted")

    def knows(self, nodes: int) -> bool:
        """Whether it serves, and knows that many nodes."""
        info = self.command("CLUSTER", "INFO")
        return b"cluster_state:ok" in info and b"cluster_known_nodes:%d\r" % nodes in info

    def owns(self, shard: int) -> bool:
        """Whether it says of itself that it is the master of the shard's slot."""
        return self.command("EXISTS", f"{{mm:{shard}}}:m").startswith(b":")


class RedisCluster:
    """The nodes. ``url`` names the masters it began with."""

    def __init__(self, directory: Path) -> None:
        ports = free_ports(2 * (MASTERS + 1))
        self.nodes = [Node(directory / str(n), port=ports.pop(), bus_port=ports.pop()) for n in range(MASTERS + 1)]
        self.hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:MASTERS])
        self.url = f"redis+cluster://{self.hosts}"

    def start(self) -> None:
        for node in self.nodes:
            node.launch()
        for number, node in enumerate(self.nodes):
            node.wait()
            node.ok("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for number, node in enumerate(self.nodes[:MASTERS]):
            first, last = SLOTS * number // MASTERS, SLOTS * (number + 1) // MASTERS - 1
            node.ok("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        for node in self.nodes[1:]:
            self.nodes[0].ok("CLUSTER", "MEET", "127.0.0.1", str(node.port), str(node.bus_port))
        self.wait()
        self.spare.ok("CLUSTER", "REPLICATE", self.nodes[0].id())
        until(lambda: self.spare.follows(self.nodes[0]), "the replica follows")

    def wait(self) -> None:
        """Returns when all nodes know each other and serve."""
        until(lambda: all(node.knows(len(self.nodes)) for node in self.nodes), "the cluster is whole")

    def restore(self) -> None:
        """Every node runs again, in its first role."""
        for node in self.nodes:
            if not node.is_running:
                node.start()
        self.wait()
        first = self.nodes[0]
        if not first.is_master():
            until(lambda: first.follows(self.spare), "the first master follows its replica")
            first.take_over()
        until(lambda: self.spare.follows(first), "the replica follows")

    def connections(self) -> int:
        """How many the nodes have by TCP, beside those of the replication."""
        lists = [node.command("CLIENT", "LIST", "TYPE", "NORMAL") for node in self.nodes]
        return sum(each.count(b" laddr=127.0.0.1:") for each in lists)

    @property
    def spare(self) -> Node:
        """The first master's replica."""
        return self.nodes[-1]

    def owner(self, shard: int) -> Node:
        """The master of a shard. All nodes must answer."""
        return next(node for node in self.nodes if node.owns(shard))

    def flush(self) -> None:
        for node in self.nodes:
            if node.is_master():
                node.flush()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses: each is free until it is bound again."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def session_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture
def redis_cluster(session_cluster: RedisCluster) -> RedisCluster:
    """The session's cluster, empty and in order."""
    session_cluster.restore()
    session_cluster.flush()
    return session_cluster
