"""The demo's processes and files. Whatever happens to the demo, none of them stays.

Children are ended with the block that they live in; if the demo itself is killed, the kernel ends them (Linux). The
directory is removed by a janitor, ``python -m examples.mortgagematch.stage DIR``: it waits until the demo is gone,
however that comes about, and until the counters' server has stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from mm_metering.backends.local import Home
from mm_metering.errors import StoreUnavailable

ROOT: Final = Path(__file__).parents[2]
READY_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 8.0
POLL_S: Final = 0.05
PR_SET_PDEATHSIG: Final = 1


class DemoFailed(Exception):
    """A part of the demo did not do what it should; the message is for people."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of the demo, and where its output goes."""

    name: str
    process: Process
    log: Path

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


# -- files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """A directory of its own while the block runs, and not a moment longer."""
    directory = Path(tempfile.mkdtemp(prefix="mm-metering-demo-"))
    command = [sys.executable, "-m", __name__, str(directory)]
    janitor = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True)
    try:
        yield directory
    finally:
        janitor.communicate()


def clean_up_after_parent(directory: Path) -> None:
    """The janitor: its stdin ends with the demo."""
    sys.stdin.read()
    counters = Home(directory / "counters")
    with contextlib.suppress(FileNotFoundError, StoreUnavailable), counters.locked("supervisor", timeout_s=20.0):
        pass
    shutil.rmtree(directory, ignore_errors=True)
    if directory not in counters.socket.parents:  # it had to be put elsewhere, for its path was too long
        shutil.rmtree(counters.socket.parent, ignore_errors=True)


# -- processes -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(
    name: str, *arguments: str, log: Path, env: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> AsyncIterator[Child]:
    """A Python process while the block runs. Out of the terminal's reach: Ctrl-C is for the demo, which stops it."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        yield Child(name, process, log)
    finally:
        await _end(process)


def end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def until_it_serves(child: Child, url: str) -> None:
    """DemoFailed, with the process's last words, if it ends first or takes too long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_TIMEOUT_S
    async with httpx2.AsyncClient(trust_env=False) as client:
        while loop.time() < deadline and child.process.returncode is None:
            with contextlib.suppress(httpx2.TransportError):
                if (await client.get(f"{url}/healthz")).is_success:
                    return
            await asyncio.sleep(POLL_S)
    raise DemoFailed(f"{child.name} did not start: {child.last_words()}")


def bound(preferred_port: int) -> socket.socket:
    """A socket on a port of this machine that nobody else has: the preferred one, if it is free."""
    for port in (preferred_port, 0):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError:
            listening.close()
        else:
            return listening
    raise DemoFailed("no free port on 127.0.0.1")


if __name__ == "__main__":
    clean_up_after_parent(Path(sys.argv[1]))
