"""Plays a tutorial: its files are written, its commands run, and what it says of their output is looked for there.

In a console block "$ " begins a command, and the lines after it are looked for in its output, in their order; … stands
for anything. A server or a worker runs in the background until the page ends or the page starts it again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from examples.mortgagematch.stage import end_with_parent
from tests.docs.pages import ROOT, Block, Page

STARTS_WITHIN_S: Final = 90.0
COMMAND_TAKES_S: Final = 50.0
ASKED_AGAIN_S: Final = 20.0
STOPS_WITHIN_S: Final = 10.0
KEPT_RUNNING: Final = ("uvicorn", "mm-metering worker", "mm-metering webhooks listen")
PORTS: Final = (8000, 8787)
"""Those of the pages. A run has free ones in their place."""
NOT_RUN: Final = ("pip install", "uv add")


class Step(NamedTuple):
    """A command, and the lines that the page shows after it."""

    command: str
    shown: tuple[str, ...]


def steps(block: Block) -> Iterator[Step]:
    command = ""
    shown: list[str] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if command:
                yield Step(command, tuple(shown))
            command, shown = line[2:], []
        elif line.strip():
            shown.append(line.strip())
    if command:
        yield Step(command, tuple(shown))


class Shell:
    """Runs the steps of one page in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {port: _free_port() for port in PORTS}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MM_METERING_")},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "160",
            "TZ": "UTC",
            "MM_METERING_DEADLINE_MS": "20000",  # the machine that tests may be busy with others
        }

    def play(self, page: Page) -> None:
        for block in page.blocks:
            if block.file:
                (self._folder / block.file).write_text(self._with_ports(block.text), "utf-8")
            elif block.kind == "console":
                self._play(block)

    def _play(self, block: Block) -> None:
        if block.text.startswith("$ "):
            for step in steps(block):
                self.run(step)
        else:
            self._wait_for_what_runs(block.text.splitlines())

    def run(self, step: Step) -> None:
        words = shlex.split(step.command, comments=True)
        if words[0] == "export":
            name = words[1].partition("=")[0]
            self._environment[name] = self._output(f"{step.command}\nprintenv {name}").strip()
        elif kept := next((each for each in KEPT_RUNNING if step.command.startswith(each)), ""):
            self._start(kept, step)
        elif not step.command.startswith(NOT_RUN):
            self._look_for(step)

    def close(self) -> None:
        for name in [*self._running]:
            self._stop(name)

    def _output(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", self._with_ports(command)],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_TAKES_S,
            check=False,
        )
        return done.stdout.decode()

    def _start(self, name: str, step: Step) -> None:
        self._stop(name)
        log = self._folder / f"{name.replace(' ', '-')}.log"
        command = self._with_ports(step.command.partition("  #")[0])
        if name == "uvicorn":
            command += f" --port {self._ports[8000]} --timeout-worker-healthcheck {STARTS_WITHIN_S:.0f}"
        with log.open("wb") as writes:
            self._running[name] = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self._folder,
                env=self._environment,
                stdout=writes,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - it calls nothing that takes a lock
            )
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not self._is_up(name, step, log.read_text()):
            assert self._running[name].poll() is None, f"{command} ended:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"{command}: not seen: {step.shown}\n{log.read_text()}"
            time.sleep(0.05)

    def _is_up(self, name: str, step: Step, said: str) -> bool:
        is_ready = name != "uvicorn" or "Application startup complete" in said  # one worker is enough
        return is_ready and _missing(step.shown, self._without_ports(said)) is None

    def _stop(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _look_for(self, step: Step) -> None:
        """A command of ours that only looks may be asked again, until what it looks for has come."""
        deadline = time.monotonic() + ASKED_AGAIN_S
        while True:
            output = self._without_ports(self._output(step.command))
            missing = _missing(step.shown, output)
            if missing is None:
                return
            looks = step.command.startswith("mm-metering") and time.monotonic() < deadline
            assert looks, f"$ {step.command}\nshould say: {missing}\nand said:\n{output}"

    def _wait_for_what_runs(self, shown: list[str]) -> None:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            said = self._without_ports("".join(each.read_text() for each in self._folder.glob("*.log")))
            if _missing(tuple(shown), said) is None:
                return
            assert time.monotonic() < deadline, f"not seen: {shown}\n{said}"
            time.sleep(0.05)

    def _with_ports(self, text: str) -> str:
        for theirs, ours in self._ports.items():
            text = re.sub(rf"(?<=[:= (]){theirs}\b", str(ours), text)
        return text

    def _without_ports(self, text: str) -> str:
        for theirs, ours in self._ports.items():
            text = text.replace(str(ours), str(theirs))
        return text


def _missing(shown: tuple[str, ...], output: str) -> str | None:
    """The first line that is not there, or not after the one before it. Runs of blanks are one blank."""
    rest = re.sub(r"[ \t]+", " ", output)
    for line in shown:
        pattern = ".*?".join(map(re.escape, re.split(r"\s*…\s*", re.sub(r"\s+", " ", line))))
        found = re.search(pattern, rest)
        if not found:
            return line
        rest = rest[found.end() :]
    return None


@contextlib.contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    opened = Shell(folder)
    try:
        yield opened
    finally:
        opened.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
