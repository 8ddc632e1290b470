"""Programs as processes that are ready at once: forks of one that has loaded what nearly all of them import."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import IO, Final

from examples.mortgagematch.stage import ROOT, end_with_parent

PRELOADED: Final = [
    "tests.chaos.app",
    "tests.e2e.streamers",
    "tests.e2e.ai_app",
    "openai.resources.chat",
    "openai.resources.responses",
    "mm_metering.cli",
    "mm_metering.backends.redis",
    "mm_metering.backends.sql.ledger",
    "alembic.command",
    "aiosqlite",
    "asyncpg",
    "redis.asyncio",
    "typer",
]
"""These take most of a second of CPU."""
STDIN, STDOUT, STDERR = 0, 1, 2


def forks() -> ForkServerContext:
    """Of one server per test process, which the first fork starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class Program:
    """``python -m MODULE WORDS``, with pipes to each of its three ends. What it says must fit into a pipe."""

    def __init__(self, module: str, *words: str, env: Mapping[str, str]) -> None:
        context = forks()
        given, orders = context.Pipe(duplex=False)
        out, said = context.Pipe(duplex=False)
        err, logged = context.Pipe(duplex=False)
        theirs = {STDIN: given, STDOUT: said, STDERR: logged}
        self._process: BaseProcess = context.Process(target=_run, args=(module, words, {**os.environ, **env}, theirs))
        self._process.start()
        self.stdin, self.stdout, self.stderr = _file(orders, "w"), _file(out, "r"), _file(err, "r")
        for each in theirs.values():
            each.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, what: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, what)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, text: str = "", timeout: float | None = None) -> tuple[str, str]:
        """What it says until it ends, on both; nothing more when it was asked before."""
        with contextlib.suppress(BrokenPipeError):  # it has ended
            if not self.stdin.closed:
                self.stdin.write(text)
                self.stdin.close()
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return _rest(self.stdout), _rest(self.stderr)


def _rest(end: IO[str]) -> str:
    if end.closed:
        return ""
    with end:
        return end.read()


def _file(end: Connection, mode: str) -> IO[str]:
    """The same end as a file."""
    with end:
        return open(os.dup(end.fileno()), mode, encoding="utf-8")  # noqa: PTH123 - a descriptor, which is kept


def _run(module: str, words: tuple[str, ...], env: Mapping[str, str], ends: Mapping[int, Connection]) -> None:
    end_with_parent()
    for number, end in ends.items():
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 - multiprocessing has closed it
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
