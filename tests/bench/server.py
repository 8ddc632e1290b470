"""A Redis-compatible server for a benchmark, its CPU time, and the CPU of a GET for comparison."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

from mm_metering.backends.local import find_server

START_S = 10.0


class Server:
    """On a free port of the loopback, without persistence; ended by ``close``."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        self.process = subprocess.Popen([find_server(), *options], stdout=subprocess.DEVNULL)
        give_up = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > give_up:
                raise TimeoutError("the server did not start")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cpu_s(self) -> float:
        """Its CPU seconds so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, *words: str) -> bytes:
        """One command on a connection of its own; the raw reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            client.sendall(" ".join(words).encode() + b"\r\n")
            return client.recv(1 << 16)

    def _answers(self) -> bool:
        try:
            return self.ask("PING").startswith(b"+PONG")
        except OSError:
            time.sleep(0.01)
            return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
