"""A server that runs edge_app.py in a process of its own, and the ways to ask it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived

from examples.mortgagematch.stage import ROOT, bound, end_with_parent

HOST: Final = "127.0.0.1"
APP: Final = "tests.e2e.edge_app:app"
TIMEOUT_S: Final = 15.0
POLL_S: Final = 0.01
STARTS_AT_MOST: Final = 3
UNHEARD: Final = 0
"""The status of an answer that its client did not wait for."""
ON_PURPOSE: Final = re.compile(r"on purpose|DeprecationWarning|^\s|^Traceback|ExceptionGroup")
COMPLAINT: Final = re.compile(
    r"Traceback|\w(Error|Exception|Warning)\b|never (retrieved|awaited)|destroyed|mm_metering"
)


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""
    trailers: Mapping[str, str] = {}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def headers_of(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def answer_of(response: http.client.HTTPResponse) -> Answer:
    return Answer(response.status, headers_of(response), response.read())


def _text(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


@dataclass(frozen=True)
class Server:
    """How a server is started. ``cors``: whether the app got its CORSMiddleware before or after ``install``."""

    name: str
    command: tuple[str, ...]
    cors: str = "before"

    @contextlib.contextmanager
    def running(self, directory: Path) -> Iterator[Running]:
        """The server, ready, while the block runs; it must stop when it is told to, and have nothing to complain of."""
        running = self._started(directory)
        try:
            yield running
        finally:
            running.stop()

    def _started(self, directory: Path) -> Running:
        """A free port may be taken by somebody else before the server has it: then on another."""
        said = ""
        for _ in range(STARTS_AT_MOST):
            running = Running(self, directory)
            if running.is_ready():
                return running
            running.kill()
            said = running.log.read_text()
        raise AssertionError(f"{self.name} does not start: {said}")


class Running:
    """A process with the app on a port of its own."""

    def __init__(self, server: Server, directory: Path) -> None:
        with bound(0) as free:
            self.port: int = free.getsockname()[1]
        self.name = server.name
        self.log = directory / f"{server.name.replace(' ', '-')}-{self.port}.log"
        file = directory / "file"
        file.write_bytes(b"x" * 70_000)
        words = [each.format(port=self.port) for each in server.command]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *words, APP],
                cwd=ROOT,
                env={**os.environ, "EDGE_FILE": str(file), "EDGE_CORS": server.cors, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - it calls nothing that takes a lock
            )

    def is_ready(self) -> bool:
        """Whether it serves within ``TIMEOUT_S``; not if it ended."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                return self.ask("GET", "/open").status == 200
            time.sleep(POLL_S)
        return False

    def stop(self) -> None:
        """SIGTERM must be enough."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TIMEOUT_S)
        ended = self._process.returncode
        self.kill()
        assert ended in (0, -signal.SIGTERM), f"{self.name} ended with {ended}: {self.log.read_text()}"

    def kill(self) -> None:
        """It and its children, whatever state they are in."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def complaints(self) -> list[str]:
        """What the server, asyncio or we wrote that no handler did on purpose."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if COMPLAINT.search(line) and not ON_PURPOSE.search(line)]

    # ---- asking -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        """One connection; it is not opened again when the server closes it."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=TIMEOUT_S)
        connection.connect()
        connection.auto_open = 0
        with contextlib.closing(connection):
            yield connection

    def ask(
        self,
        method: str,
        path: str,
        tenant: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> Answer:
        """One request on a connection of its own. A body in parts goes out chunked; the answer may come before all of
        it was sent."""
        who = {} if tenant is None else {"x-org-id": tenant}
        with self.connection() as connection:
            with contextlib.suppress(ConnectionError):
                connection.request(method, path, body=body, headers={**who, **(headers or {})})
            return answer_of(connection.getresponse())

    def ask_http2(self, path: str, tenant: str) -> Answer:
        """GET over HTTP/2 in clear text, by prior knowledge."""
        talk = H2Connection(H2Configuration(header_encoding=None))
        talk.initiate_connection()
        asked = {":method": "GET", ":path": path, ":authority": HOST, ":scheme": "http"}
        talk.send_headers(1, [*asked.items(), ("x-org-id", tenant), ("te", "trailers")], end_stream=True)
        answer = Answer(UNHEARD)
        with socket.create_connection((HOST, self.port), timeout=TIMEOUT_S) as peer:
            peer.sendall(talk.data_to_send())
            for received in iter(partial(peer.recv, 65_536), b""):
                for event in talk.receive_data(received):
                    match event:
                        case ResponseReceived():
                            found = _text(event.headers)
                            answer = answer._replace(status=int(found[":status"]), headers=found)
                        case DataReceived():
                            answer = answer._replace(body=answer.body + event.data)
                        case TrailersReceived():
                            answer = answer._replace(trailers=_text(event.headers))
                        case StreamEnded():
                            return answer
                peer.sendall(talk.data_to_send())
        raise AssertionError(f"the stream did not end: {answer}")

    # ---- what became of it ------------------------------------------------------------------------------------------

    def spend(self, tenant: str) -> None:
        """Leave the tenant no call of today."""
        assert self.ask("POST", f"/spend/{tenant}").status == 200

    def seen(self, tenant: str) -> Any:
        return self.ask("GET", f"/seen/{tenant}").json

    def handled(self, tenant: str) -> Any:
        """What is seen as soon as a handler runs for the tenant."""
        return self._until(tenant, lambda seen: bool(seen["handled"]))

    def begun(self, tenant: str) -> Any:
        """What is seen as soon as a request of the tenant has reached the app."""
        return self._until(tenant, lambda seen: bool(seen["begun"]))

    def settled(self, tenant: str) -> Any:
        """What is seen when no request of the tenant is under way any more."""
        return self._until(tenant, lambda seen: seen["begun"] == seen["ended"])

    def _until(self, tenant: str, is_there: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + TIMEOUT_S
        while not is_there(seen := self.seen(tenant)):
            assert time.monotonic() < deadline, seen
            time.sleep(POLL_S)
        return seen
