"""What a network and a server do to a call: no reply twice, no reply of another, and never a count too many."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mm_metering.backends.counters import (
    START,
    Answer,
    Append,
    Batch,
    Done,
    Fenced,
    Load,
    NotLoaded,
    Reply,
    Take,
    Taken,
)
from mm_metering.backends.redis import RedisCounters, library
from mm_metering.backends.redis_nodes import MAX_CONNECTIONS
from mm_metering.backends.urls import open_counters
from mm_metering.core.facts import WIRE
from mm_metering.core.limits import Line, Slot, State
from mm_metering.errors import InvalidInput, StoreUnavailable
from tests.redis_server import RedisServer

SLOT = Slot("api@ds7a000", "api", maximum=100)
NOW_US = 1_705_320_000_000_000
SECRET = "sesame-42"


def take(tenant: str = "t", cost: int = 1) -> Take:
    return Take(tenant, "1.1", ((Line(SLOT, cost, cost),),), (b'["x"]',))


def batch(seq: int, *ops: Take | Load | Append, process: str = "p", generation: int = 1) -> Batch:
    return Batch(process, generation, seq, NOW_US, ops)


async def ready(counters: RedisCounters, *tenants: str) -> None:
    """Generation 1 with the tenants loaded by a process of its own."""
    assert await counters.open(0, seen=0, generation=1, grace_ms=0)
    loads = [Load(tenant, "1.1", START, {}, {}) for tenant in tenants]
    assert isinstance(await counters.apply(0, batch(1, *loads, process="loader")), Reply)


@pytest.fixture
async def counters(redis_server: RedisServer) -> AsyncIterator[RedisCounters]:
    counters = RedisCounters(redis_server.url, timeout_s=10)
    yield counters
    await counters.aclose()


class Proxy:
    """A socket in front of the server. It can swallow replies, hold them back, or make the server look old."""

    def __init__(self, server: RedisServer, path: Path) -> None:
        self.url = f"unix://{path}"
        self.connections = 0
        self.replies_to_lose = 0
        self.looks_old = False
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._server = server
        self._path = path
        self._tasks: list[asyncio.Task[None]] = []  # a loop holds its tasks weakly

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        async with await asyncio.start_unix_server(self._accept, self._path):
            yield self
            await asyncio.gather(*self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        up_reader, up_writer = await asyncio.open_unix_connection(self._server.socket)
        requests = asyncio.create_task(self._pump_requests(reader, up_writer))
        await self._pump_replies(up_reader, writer)
        for each in (writer, up_writer):
            each.close()
            with contextlib.suppress(OSError):
                await each.wait_closed()
        await requests

    async def _pump_requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
        sink.close()

    async def _pump_replies(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self.flowing.wait()
            if self.replies_to_lose:
                self.replies_to_lose -= 1
                return
            sink.write(re.sub(rb"redis_version:\d+", b"redis_version:6", data) if self.looks_old else data)


@pytest.fixture
async def proxy(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with Proxy(redis_server, tmp_path / "proxy.sock").running() as proxy:
        yield proxy


@pytest.fixture
async def proxied(proxy: Proxy) -> AsyncIterator[RedisCounters]:
    counters = RedisCounters(proxy.url, timeout_s=10)
    yield counters
    await counters.aclose()


# -- lost replies ------------------------------------------------------------------------------------------------------


async def test_a_lost_reply_is_asked_for_again_and_counts_once(proxy: Proxy, proxied: RedisCounters) -> None:
    await ready(proxied, "t")
    proxy.replies_to_lose = 1
    with pytest.raises(StoreUnavailable):
        await proxied.apply(0, batch(1, take(cost=5)))
    reply = await proxied.apply(0, batch(1, take(cost=5)))
    assert isinstance(reply, Reply)
    assert reply.results == (Taken(0, (5,), (State(5, 0, 0),)),)
    assert await proxied.counters(0, "t") == {SLOT.field: 5}


async def test_the_driver_never_sends_a_call_again(proxy: Proxy, proxied: RedisCounters) -> None:
    await ready(proxied, "t")
    before = proxy.connections
    for _ in range(3):
        proxy.replies_to_lose = 1
        with pytest.raises(StoreUnavailable):
            await proxied.read(0, after=START, limit=1)
    assert proxy.connections == before + 2


async def test_a_call_that_takes_too_long_ends_with_its_deadline(proxy: Proxy) -> None:
    hasty = RedisCounters(proxy.url, timeout_s=0.05)
    proxy.flowing.clear()
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        await hasty.read(0, after=START, limit=1)
    proxy.flowing.set()
    await hasty.aclose()


async def test_a_connection_that_hangs_at_the_password_is_closed(redis_server: RedisServer) -> None:
    """One that is forgotten would warn when it is collected, and warnings are errors."""
    counters = RedisCounters(redis_server.url.replace("unix://", f"unix://user:{SECRET}@"), timeout_s=0.05)
    with redis_server.stopped():
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                await counters.read(0, after=START, limit=1)
        gc.collect()
    await counters.aclose()


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_call_leaves_no_foreign_reply(proxied: RedisCounters, turns: int) -> None:
    """Cancelled after any number of turns of the loop, the next calls get their own replies."""
    await ready(proxied, "t", "other")

    async def answer(seq: int, tenant: str) -> Answer:
        return await proxied.apply(0, batch(seq, take(tenant), process=tenant))

    for seq in range(1, 8):
        cancelled = asyncio.create_task(answer(seq, "t"))
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled.cancel()
        reply = await answer(seq, "other")
        assert isinstance(reply, Reply)
        assert reply.results == (Taken(0, (1,), (State(seq, 0, 0),)),)
        with contextlib.suppress(asyncio.CancelledError):
            await cancelled
        assert isinstance(await answer(seq, "t"), Reply)
    assert await proxied.counters(0, "t") == {SLOT.field: 7}


async def test_a_call_cancelled_while_its_reply_is_on_the_way(proxy: Proxy, proxied: RedisCounters) -> None:
    await ready(proxied, "t")
    proxy.flowing.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await proxied.apply(0, batch(1, take()))
    proxy.flowing.set()
    assert await proxied.counters(0, "t") == {SLOT.field: 1}
    assert isinstance(await proxied.apply(0, batch(1, take())), Reply)
    assert await proxied.counters(0, "t") == {SLOT.field: 1}


async def test_many_calls_share_few_connections(proxy: Proxy, proxied: RedisCounters) -> None:
    await ready(proxied, *map(str, range(50)))
    replies = await asyncio.gather(*[proxied.apply(0, batch(1, take(str(n)), process=str(n))) for n in range(50)])
    assert all(isinstance(reply, Reply) and isinstance(reply.results[0], Taken) for reply in replies)
    assert proxy.connections <= MAX_CONNECTIONS


# -- identities --------------------------------------------------------------------------------------------------------


async def test_a_library_that_was_lost_is_another_identity(redis_server: RedisServer, counters: RedisCounters) -> None:
    await ready(counters, "t")
    redis_server.command("FUNCTION", "FLUSH")
    assert await counters.apply(0, batch(1, take())) == Fenced(1)


async def test_an_emptied_server_is_fenced(redis_server: RedisServer, counters: RedisCounters) -> None:
    await ready(counters, "t")
    redis_server.flush()
    assert await counters.apply(0, batch(1, take())) == Fenced(0)


async def test_a_second_process_finds_the_same_identity(redis_server: RedisServer, counters: RedisCounters) -> None:
    """Loading the library where it is loaded must not make another identity."""
    await ready(counters, "t")
    other = RedisCounters(redis_server.url, timeout_s=10)
    assert isinstance(await other.apply(0, batch(1, take())), Reply)
    await other._load_library(other._per_loop.here().lines[0])  # two processes that found it missing at once
    assert isinstance(await other.apply(0, batch(2, take())), Reply)
    await other.aclose()


async def test_a_restarted_server_is_fenced_whatever_it_remembers(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, appendonly=True)
    await asyncio.to_thread(server.start)
    counters = RedisCounters(server.url, timeout_s=10)
    try:
        await ready(counters, "t")
        await asyncio.to_thread(server.restart)
        assert await counters.apply(0, batch(1, take())) == Fenced(1)
        assert await counters.open(0, seen=1, generation=2, grace_ms=0)
        assert isinstance(await counters.apply(0, batch(1, generation=2)), Reply)
    finally:
        await counters.aclose()
        server.kill()


async def test_another_version_of_the_library_lives_beside_this_one(redis_server: RedisServer) -> None:
    """N and N-1 side by side: each has its own identity, and a generation that one opens serves both."""
    ours, theirs = RedisCounters(redis_server.url, timeout_s=10), RedisCounters(redis_server.url, timeout_s=10)
    name, source = library()
    theirs._library = library()._replace(name=f"{name}_next", source=source.replace(name, f"{name}_next"))
    await ready(ours, "t")
    assert await theirs.apply(0, batch(1, process="q")) == Fenced(1)
    assert await theirs.open(0, seen=1, generation=2, grace_ms=0)
    for turn, each, process in ((1, ours, "p"), (1, theirs, "q"), (2, ours, "p"), (2, theirs, "q")):
        assert isinstance(await each.apply(0, batch(turn, process=process, generation=2)), Reply)
    for each in (ours, theirs):
        await each.aclose()


def test_the_librarys_name_says_its_format_and_its_content() -> None:
    name, source = library()
    assert name.startswith(f"mm_metering_{WIRE}_")
    assert source.startswith(f"#!lua name={name}\n")
    assert f"local FORMAT = '{WIRE}'" in source


async def test_a_wrong_batch_changes_nothing(redis_server: RedisServer, counters: RedisCounters) -> None:
    """An error in an op comes before the first write of the whole batch."""
    await ready(counters, "t")
    broken = Load("new", "1.1", "no position", {}, {})
    with pytest.raises(StoreUnavailable):
        await counters.apply(0, batch(1, take(), Append((("t", b"[]"),)), broken))
    assert await counters.counters(0, "t") == {}
    assert (await counters.read(0, after=START, limit=1)).entries == ()
    assert isinstance(await counters.apply(0, batch(1, take())), Reply)


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_keys_of_idle_tenants_expire_but_not_under_a_test_clock(redis_server: RedisServer) -> None:
    for frozen, expected in ((False, b":3"), (True, b":-1")):
        redis_server.flush()
        counters = RedisCounters(redis_server.url, timeout_s=10, frozen=frozen)
        await ready(counters, "t")
        hold = Take("t", "1.1", ((Line(SLOT, 1, 1),),), (b'["h"]',), "h", NOW_US)
        await counters.apply(0, batch(1, hold, Append((("never-loaded", b"[]"),))))
        for key in ("c:t", "h:t", "c:never-loaded"):
            assert redis_server.command("PTTL", f"{{mm:0}}:{key}").startswith(expected), key
        assert redis_server.command("PTTL", "{mm:0}:m") == b":-1\r\n"
        await counters.aclose()


async def test_a_big_tenant_is_loaded_and_swept_whole(counters: RedisCounters) -> None:
    """More fields than one call of the script may have arguments."""
    await ready(counters)
    values = {f"ai/{n}@ds6k2o0": n for n in range(20_000)}
    assert isinstance(await counters.apply(0, batch(1, Load("t", "1.1", START, values, {}))), Reply)
    assert await counters.counters(0, "t") == values
    await counters.apply(0, batch(2, take()))
    assert await counters.counters(0, "t") == {SLOT.field: 1}


# -- loops -------------------------------------------------------------------------------------------------------------


async def test_each_event_loop_has_its_own_connections(redis_server: RedisServer, counters: RedisCounters) -> None:
    await ready(counters, "t")

    def portal() -> None:
        async def once() -> None:
            await counters.apply(0, batch(1, take(), process="portal"))
            await counters.aclose()

        asyncio.run(once())

    thread = threading.Thread(target=portal)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert await counters.counters(0, "t") == {SLOT.field: 1}


async def test_closing_reaches_the_connections_of_other_loops(redis_server: RedisServer) -> None:
    counters = RedisCounters(redis_server.url, timeout_s=10)
    started, done = threading.Event(), threading.Event()

    def portal() -> None:
        async def live() -> None:
            await counters.read(0, after=START, limit=1)
            started.set()
            await asyncio.to_thread(done.wait)

        asyncio.run(live())

    thread = threading.Thread(target=portal)
    thread.start()
    await asyncio.to_thread(started.wait)
    await counters.aclose()
    done.set()
    await asyncio.to_thread(thread.join)
    gc.collect()  # an open connection would warn here, and warnings are errors


async def test_closed_counters_may_be_used_again(counters: RedisCounters) -> None:
    await ready(counters, "t")
    await counters.aclose()
    assert isinstance(await counters.apply(0, batch(1, take())), Reply)


# -- messages ----------------------------------------------------------------------------------------------------------


async def test_no_server_is_said_without_the_password(unused_tcp_port: int) -> None:
    counters = RedisCounters(f"redis://user:{SECRET}@127.0.0.1:{unused_tcp_port}/3")
    with pytest.raises(StoreUnavailable) as found:
        await counters.apply(0, batch(1))
    assert f"Redis at 127.0.0.1:{unused_tcp_port}" in str(found.value)
    assert SECRET not in str(found.value)


async def test_a_wrong_password_is_said_without_it(redis_server: RedisServer) -> None:
    counters = RedisCounters(redis_server.url.replace("unix://", f"unix://user:{SECRET}@"))
    with pytest.raises(StoreUnavailable, match="invalid username-password pair") as found:
        await counters.apply(0, batch(1))
    assert SECRET not in str(found.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost",
        "postgres://u:sesame-42@h/x",
        f"redis+cluster://u:{SECRET}@h:port",
        "redis+cluster://",
        "redis+cluster://h,,i",
        "unix+cluster:///path",
        f"redis://u:{SECRET}@h:port",
        "redis://h?socket_timeout=x",
    ],
)
def test_a_url_that_is_none_of_ours_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(InvalidInput) as found:
        open_counters(url)
    assert SECRET not in str(found.value)


def test_an_unknown_option_in_the_url_is_refused() -> None:
    with pytest.raises(InvalidInput, match="colour"):
        open_counters("redis://localhost?colour=red")


def test_the_choices_are_named() -> None:
    with pytest.raises(InvalidInput, match="memory://, local://DIR, redis://"):
        open_counters("mysql://h")


async def test_a_server_that_is_too_old_is_refused_in_one_sentence(proxy: Proxy, proxied: RedisCounters) -> None:
    proxy.looks_old = True
    with pytest.raises(StoreUnavailable, match=r"is Redis 6\..*; it must be 7 or newer"):
        await proxied.read(0, after=START, limit=1)


@pytest.fixture
def evicting(redis_server: RedisServer) -> Iterator[RedisServer]:
    redis_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    yield redis_server
    redis_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_server_that_may_evict_is_warned_of_once(
    evicting: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    counters = RedisCounters(evicting.url, timeout_s=10)
    for _ in range(3):
        await counters.read(0, after=START, limit=1)
    await counters.aclose()
    assert [record.message.count("maxmemory-policy allkeys-lru") for record in caplog.records] == [1]


# -- keys that something else wrote over -------------------------------------------------------------------------------

HELD = take("t")._replace(hold="h", expires_us=NOW_US)


@pytest.mark.parametrize(
    ("op", "key", "lines"),
    [
        (take("t"), "{mm:0}:c:t", 2),
        (HELD, "{mm:0}:c:t", 2),
        (HELD, "{mm:0}:h:t", 2),
        (Append((("t", b'["x"]'),)), "{mm:0}:c:t", 3),
        (Load("t", "1.2", START, {}, {}), "{mm:0}:c:t", 2),
    ],
)
async def test_a_tenant_whose_key_is_no_hash_is_loaded_anew(
    redis_server: RedisServer, counters: RedisCounters, op: Take | Append | Load, key: str, lines: int
) -> None:
    """Its batch runs once and whole, and what was counted there before must be folded before it is loaded."""
    await ready(counters, "t", "u")
    stands = await counters.apply(0, batch(1, take("t"), take("u")))
    redis_server.command("DEL", key)
    redis_server.command("SET", key, "x")
    asked = batch(2, take("u"), op, take("u"))
    answer = await counters.apply(0, asked)
    assert await counters.apply(0, asked) == answer
    assert isinstance(stands, Reply)
    assert isinstance(answer, Reply)
    assert not isinstance(answer.results[1], Taken)
    assert [type(answer.results[n]) for n in (0, 2)] == [Taken, Taken]
    (entry,) = (await counters.read(0, after=stands.entry, limit=9)).entries
    assert (entry.position, len(entry.lines)) == (answer.entry, lines)
    assert await counters.counters(0, "u") == {SLOT.field: 3}
    for folded, result in ((stands.entry, NotLoaded("behind", answer.entry)), (answer.entry, Done(counted=True))):
        load = Load("t", "1.3", folded, {SLOT.field: 7}, {})
        loaded = await counters.apply(0, batch(3 + (folded == answer.entry), load))
        assert isinstance(loaded, Reply)
        assert loaded.results == (result,)
    assert await counters.counters(0, "t") == {SLOT.field: 7}
