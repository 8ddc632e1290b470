"""A private Redis or Valkey per test process, from the binary that ``local://`` would take.

``MM_REDIS_SERVER=/usr/bin/redis-server ./dev test`` runs the same tests on another server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mm_metering.backends.local import answers, find_server

START_TIMEOUT_S = 20.0


def command(path: Path, *words: str) -> bytes:
    """The reply to one command, asked by hand and past every client."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(START_TIMEOUT_S)
        client.connect(str(path))
        client.sendall(f"{' '.join(words)}\r\n".encode())
        return client.recv(65536)


class RedisServer:
    """A server on a unix socket, without persistence unless ``appendonly``: tests start, stop and empty it.

    ``options`` are further ones of the server's, ``environment`` further variables.
    """

    def __init__(
        self,
        directory: Path,
        *,
        appendonly: bool = False,
        options: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(directory),
            "logfile": str(directory / "redis.log"),
            "save": "",
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": "always",
            **(options or {}),
        }
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        options = [part for name, value in self._options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [find_server(), *options], stdin=subprocess.DEVNULL, env={**os.environ, **self._environment}
        )

    def wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(self.socket):
            assert self._process is not None, "it was not launched"
            assert self._process.poll() is None, f"the server ended; see {self._options['logfile']}"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.005)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def kill(self) -> None:
        """kill -9: nothing is written out."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP while the block runs: connections stay, and take what is sent, but nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def command(self, *words: str) -> bytes:
        return command(self.socket, *words)

    def flush(self) -> None:
        reply = self.command("FLUSHALL")
        assert reply == b"+OK\r\n", reply


@pytest.fixture(scope="session")
def session_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that the test alone has: it may stop it, kill it, and start it again empty."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_server(session_redis: RedisServer) -> RedisServer:
    """The session's server, empty."""
    session_redis.flush()
    return session_redis
