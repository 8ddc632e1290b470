"""One attempt at a webhook against real receivers on loopback: whatever they do, it ends as an Answer, in its time and
its bytes; and nothing inside is reached."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import sys
import tracemalloc
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mm_metering.errors import InvalidInput, MissingExtra
from mm_metering.webhooks.answers import Answer
from mm_metering.webhooks.guard import Rules
from mm_metering.webhooks.sender import send
from tests.tls_proxy import HOST, Authority, Certificate
from tests.webhook_urls import HOSTS, URLS

BODY = b'{"type":"invoice.finalized"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Script = Callable[["Receiver", StreamReader, StreamWriter], Awaitable[None]]


class Receiver:
    """A port on loopback whose script is what it does with a connection; it knows what came."""

    def __init__(self, script: Script) -> None:
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        self.sent = 0
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None, at: str = HOST) -> AsyncIterator[Receiver]:
        if tls:
            tls.sni_callback = lambda _, name, __: self.names.append(name)
        server = await asyncio.start_server(self._accept, at, 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.create_task(self._run(reader, writer)))

    async def _run(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._script(self, reader, writer)
        finally:
            writer.transport.abort()

    async def request(self, reader: StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head + await reader.readexactly(len(BODY)))

    async def write(self, writer: StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()
        self.sent += len(data)


def says(answer: bytes) -> Script:
    """Reads the request, answers that, and closes."""

    async def script(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
        await receiver.request(reader)
        await receiver.write(writer, answer)
        writer.close()
        await writer.wait_closed()

    return script


def says_for_ever(start: bytes, again: bytes, *, every_s: float = 0) -> Script:
    async def script(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
        await receiver.request(reader)
        await receiver.write(writer, start)
        while True:
            await receiver.write(writer, again)
            await asyncio.sleep(every_s)

    return script


async def reads_nothing(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def ends(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
    """Nothing more than to be connected to."""


async def resets(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
    await receiver.request(reader)
    at_once = (1).to_bytes(4, sys.byteorder) + bytes(4)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)


def inside(*receivers: Receiver, **rules: Any) -> Rules:
    """Rules under which the receivers may be called."""
    return Rules(
        allow_http=True, ports=tuple(each.port for each in receivers), allow_networks=("127.0.0.0/8",), **rules
    )


async def post(receiver: Receiver, **options: Any) -> Answer:
    url = f"http://{HOST}:{receiver.port}/hook?a=1"
    return await send(url, BODY, {"webhook-id": "msg_1"}, **{"rules": inside(receiver)} | options)


async def test_a_receiver_gets_the_very_request() -> None:
    async with Receiver(says(OK)).listening() as receiver:
        answer = await post(receiver)
    assert (answer.status, answer.error, answer.excerpt, answer.retry_after_s) == (200, None, "ok", None)
    head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    assert body == BODY
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /hook?a=1 HTTP/1.1"
    assert dict(line.lower().split(": ", 1) for line in lines) == {
        "host": f"{HOST}:{receiver.port}",
        "webhook-id": "msg_1",
        "content-length": str(len(BODY)),
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": "mm-metering-webhooks",
    }


def chunked(data: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode("latin-1")


ANSWERS: Mapping[str, tuple[bytes, int | None, str | None]] = {
    "204": (head(status="204 No Content"), 204, None),
    "201 of HTTP/1.0": (b"HTTP/1.0 201 Created\r\n\r\nmade", 201, None),
    "chunks": (chunked(b"2\r\nok\r\n0\r\n\r\n"), 200, None),
    "after a 100": (head(status="100 Continue") + OK, 200, None),
    "longer than is read": (head("Content-Length: 10000000000") + b"x" * 70_000, 200, None),
    "301": (head("Location: http://127.0.0.1/", "Content-Length: 0", status="301 Moved"), 301, "redirect: "),
    "307": (head("Location: /", "Content-Length: 0", status="307 Temporary Redirect"), 307, "redirect: "),
    "304": (head(status="304 Not Modified"), 304, "redirect: "),
    "400": (head("Content-Length: 0", status="400 Bad Request"), 400, "status: "),
    "410": (head("Content-Length: 0", status="410 Gone"), 410, "status: "),
    "503": (head("Content-Length: 0", status="503 Service Unavailable"), 503, "status: "),
    "999": (head("Content-Length: 0", status="999 x"), 999, "status: "),
    "nothing": (b"", None, "connection: "),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Le", None, "connection: "),
    "another protocol": (b"SSH-2.0-OpenSSH_9.9\r\n", None, "connection: "),
    "another protocol's lines": (b"220 mail\r\n500 unknown\r\n\r\n", None, "protocol: "),
    "bytes": (bytes(range(256)) * 8, None, "protocol: "),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", None, "protocol: "),
    "a very long status": (b"HTTP/1.1 200 OK" + b"\xff" * 9_000 + b"\n\x01\r\n\r\n", None, "protocol: "),
    "a long status": (b"HTTP/1.1 2000 OK\r\n\r\n", None, "protocol: "),
    "a negative length": (head("Content-Length: -1"), None, "protocol: "),
    "a length that is none": (head("Content-Length: x"), None, "protocol: "),
    "two lengths": (head("Content-Length: 1", "Content-Length: 2") + b"ab", None, "protocol: "),
    "a NUL in the head": (head("A: \x00"), None, "protocol: "),
    "a header without a name": (head(": x"), None, "protocol: "),
    "an upgrade": (head("Upgrade: x", status="101 Switching Protocols"), None, "protocol: "),
    "an encoding that is none": (head("Transfer-Encoding: gzip"), None, "protocol: "),
    "16 KiB of head": (head("A: " + "x" * (16_384 - 24)) + b"ok", 200, None),
    "more of head": (head("A: " + "x" * 20_500), None, "protocol: no answer stands in the first 16 KiB"),
    "a body cut short": (head("Content-Length: 10") + b"half", 200, "protocol: "),
    "a chunk cut short": (chunked(b"ff\r\nhalf"), 200, "protocol: "),
    "a chunk without a size": (chunked(b"zz\r\nab\r\n"), 200, "protocol: "),
    "a chunk of another size": (chunked(b"1\r\nab\r\n"), 200, "protocol: "),
    "a chunk of a huge size": (chunked(b"f" * 30 + b"\r\nab"), 200, "protocol: "),
}


@pytest.mark.parametrize(("said", "status", "error"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_an_answer_is_what_it_is(said: bytes, status: int | None, error: str | None) -> None:
    async with Receiver(says(said)).listening() as receiver:
        answer = await post(receiver)
    assert answer.status == status
    assert (answer.error or "").startswith(error or "x") is (error is not None)
    assert (answer.error is None) is (error is None)
    assert len(answer.excerpt) <= 1024
    assert len(answer.error or "") <= 200
    assert receiver.connections == 1
    assert answer.took_ms < 5_000


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [
        (b"a\x00b\r\n\x1b[31mc", "a b   [31mc"),
        ("ü\u202e\u2028<b>".encode(), "ü  <b>"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 5000, "x" * 1024),
    ],
)
async def test_an_excerpt_can_be_printed(body: bytes, excerpt: str) -> None:
    async with Receiver(says(head(f"Content-Length: {len(body)}") + body)).listening() as receiver:
        assert (await post(receiver)).excerpt == excerpt


async def test_what_is_compressed_is_left_so() -> None:
    said = head("Content-Encoding: gzip", "Content-Length: 3") + b"\x1f\x8b\x08"
    async with Receiver(says(said)).listening() as receiver:
        answer = await post(receiver)
    assert (answer.status, answer.error, answer.excerpt) == (200, None, "")


RETRIES = {
    ("Retry-After: 120",): 120,
    ("Retry-After: 0",): 0,
    ("Retry-After: 99999999999999999999",): 86_400,
    ("Retry-After: Fri, 27 Nov 2026 12:01:00 GMT", "Date: Fri, 27 Nov 2026 12:00:00 GMT"): 60,
    ("Retry-After: Fri, 27 Nov 2026 11:00:00 GMT", "Date: Fri, 27 Nov 2026 12:00:00 GMT"): 0,
    ("Retry-After: Fri, 27 Nov 2099 12:00:00 GMT", "Date: Fri, 27 Nov 2026 12:00:00 GMT"): 86_400,
    ("Retry-After: Fri, 27 Nov 2026 12:01:00 GMT",): None,
    ("Retry-After: Fri, 27 Nov 2026 12:01:00 -0000", "Date: Fri, 27 Nov 2026 12:00:00 GMT"): None,
    ("Retry-After: Fri, 99 Nov 2026 12:01:00 GMT", "Date: x"): None,
    ("Retry-After: -5",): None,
    ("Retry-After: 1.5",): None,
    ("Retry-After: \xb2",): None,
    ("Retry-After:",): None,
}


async def test_a_receiver_says_when_to_come_again() -> None:
    heads = iter([head(*lines, "Content-Length: 0", status="429 Slow Down") for lines in RETRIES])

    async def script(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
        await says(next(heads))(receiver, reader, writer)

    async with Receiver(script).listening() as receiver:
        assert [(await post(receiver)).retry_after_s for _ in RETRIES] == list(RETRIES.values())


HANGING: Mapping[str, tuple[Script, int | None]] = {
    "reads nothing": (reads_nothing, None),
    "says nothing": (says_for_ever(b"", b"", every_s=60), None),
    "dribbles its head": (says_for_ever(b"HTTP/1.1 200 OK\r\nA: ", b"x", every_s=0.02), None),
    "dribbles its body": (says_for_ever(head(), b"x", every_s=0.02), 200),
    "dribbles chunks": (says_for_ever(chunked(b""), b"1\r\nx\r\n", every_s=0.02), 200),
    "says 100 again and again": (says_for_ever(b"", head(status="100 Continue"), every_s=0.02), None),
}


@pytest.mark.parametrize(("script", "status"), HANGING.values(), ids=HANGING.keys())
async def test_a_receiver_that_hangs_is_left_at_the_deadline(script: Script, status: int | None) -> None:
    async with Receiver(script).listening() as receiver:
        answer = await post(receiver, timeout_s=0.2)
    assert answer.status == status
    assert answer.error == "timeout: the whole of it took more than 0.2 s; answer first, then work"
    assert 200 <= answer.took_ms < 5_000


FLOODS: Mapping[str, tuple[Script, int | None]] = {
    "10 GB declared": (says_for_ever(head("Content-Length: 10000000000"), b"x" * 65536), 200),
    "no end": (says_for_ever(head(), b"x" * 65536), 200),
    "one chunk": (says_for_ever(chunked(b"ffffffffff\r\n"), b"x" * 65536), 200),
    "many chunks": (says_for_ever(chunked(b""), b"1\r\nx\r\n" * 10_000), 200),
    "one chunk's extension": (says_for_ever(chunked(b"1;"), b"x" * 65536), 200),
    "trailers": (says_for_ever(chunked(b"0\r\n"), b"a: b\r\n" * 10_000), 200),
    "a head": (says_for_ever(head()[:-2], b"a: b\r\n" * 10_000), None),
    "one header": (says_for_ever(b"HTTP/1.1 200 OK\r\nA: ", b"x" * 65536), None),
    "a status line": (says_for_ever(b"HTTP/1.1 200 ", b"x" * 65536), None),
    "empty lines": (says_for_ever(b"", b"\r\n" * 10_000), None),
    "100 Continue": (says_for_ever(b"", head(status="100 Continue") * 1000), None),
}


@pytest.mark.parametrize(("script", "status"), FLOODS.values(), ids=FLOODS.keys())
async def test_a_receiver_that_floods_is_cut_off_in_little_memory(script: Script, status: int | None) -> None:
    """What is read of it stays under 80 KiB: what it could send is what the kernel's buffers take, and the deadline is
    not needed."""
    async with Receiver(script).listening() as receiver:
        gc.collect()
        tracemalloc.start()
        try:
            answer = await post(receiver)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert answer.status == status
    assert answer.took_ms < 5_000
    assert receiver.sent < 16 * 2**20
    assert peak < 3 * 2**20


async def test_a_connection_that_breaks_is_an_answer() -> None:
    async with Receiver(resets).listening() as receiver:
        broken = await post(receiver)
    refused = await post(receiver)  # it is not there any more
    assert broken.error == "connection: it failed (Connection reset by peer)"
    assert refused.error == "connection: it failed (Connection refused)"


async def test_the_next_address_of_a_name_is_dialled_where_one_takes_no_connection() -> None:
    async def look_up(host: str, port: int) -> Sequence[str]:
        return "127.0.0.9", "127.0.0.8", HOST

    async with Receiver(says(OK)).listening() as receiver:
        url = f"http://company.com:{receiver.port}/"
        answer = await send(url, BODY, {}, rules=inside(receiver), look_up=look_up)
    assert answer.error is None
    assert f"host: company.com:{receiver.port}\r\n".encode() in receiver.requests[0].lower()


async def test_a_name_without_an_address_is_an_answer() -> None:
    async def nothing(host: str, port: int) -> Sequence[str]:
        return ()

    rules = Rules(allow_networks=("127.0.0.0/8",))
    for look_up in (None, nothing):
        answer = await send("https://nobody.invalid/", BODY, {}, rules=rules, look_up=look_up)
        assert (answer.error or "").startswith("dns: the host cannot be resolved (")


@pytest.mark.parametrize("headers", [{"a": "b\r\nhost: c"}, {"a\r\n": "b"}, {"a": "ü"}, {"": "b"}, {"a b": "c"}])
async def test_a_header_that_http_does_not_allow_is_not_sent_and_not_said(headers: Mapping[str, str]) -> None:
    async with Receiver(says(OK)).listening() as receiver:
        answer = await send(f"http://{HOST}:{receiver.port}/", BODY, headers, rules=inside(receiver))
    assert answer.error == "request: a header holds what HTTP does not allow"
    assert receiver.requests == []


async def test_a_header_of_ours_cannot_be_replaced() -> None:
    theirs = {"Host": "localhost", "content-LENGTH": "0", "Connection": "keep-alive", "Accept-Encoding": "gzip"}
    async with Receiver(says(OK)).listening() as receiver:
        answer = await send(f"http://{HOST}:{receiver.port}/", BODY, theirs, rules=inside(receiver))
    assert answer.error is None
    assert f"host: {HOST}:{receiver.port}\r\n".encode() in receiver.requests[0]
    assert not any(value.encode() in receiver.requests[0] for value in ("localhost", "keep-alive", "gzip"))


async def test_redirects_and_proxies_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Receiver(ends).listening() as canary:
        there = f"http://{HOST}:{canary.port}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, there)
        for status in ("301 x", "302 x", "303 x", "307 x", "308 x", "200 OK", "201 Created"):
            said = head(f"Location: {there}/", f"Refresh: 0; url={there}/", "Content-Length: 0", status=status)
            async with Receiver(says(said)).listening() as receiver:
                await post(receiver, rules=inside(receiver, canary))
            assert receiver.connections == 1
    assert canary.connections == 0


def canary_socket() -> socket.socket:
    """Hears whatever address of this machine is dialled."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


async def test_nothing_inside_is_reached_by_any_url() -> None:
    """Not one connection, whatever the spelling, with the canary's own port allowed and names as this machine resolves
    them; with its network allowed there is one."""
    reached = 0

    def hears(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal reached
        reached += 1
        writer.transport.abort()

    async with await asyncio.start_server(hears, sock=canary_socket()) as canary:
        port = canary.sockets[0].getsockname()[1]
        urls = [
            f"{scheme}://{host}:{port}/" for scheme in ("http", "https") for hosts in HOSTS.values() for host in hosts
        ]
        urls += [url for each in URLS.values() for url in each if "company" not in url]
        strict = Rules(allow_http=True, ports=(port,))
        elsewhere = Rules(allow_http=True, ports=(port,), allow_networks=("10.99.0.0/16",))
        answers = [await send(url, BODY, {}, rules=strict) for url in urls]
        answers += [
            await send(f"http://{name}:{port}/", BODY, {}, rules=elsewhere) for name in ("localhost", "LOCALHOST")
        ]
        assert len(answers) >= 120
        assert [
            url for url, answer in zip(urls, answers, strict=False) if not (answer.error or "").startswith("url: ")
        ] == []
        assert reached == 0
        rules = Rules(allow_http=True, ports=(port,), allow_networks=("127.0.0.0/8", "::1/128"))
        await send(f"http://localhost:{port}/", BODY, {}, rules=rules)
        assert reached == 1


async def test_a_name_that_turns_inward_is_not_reached() -> None:
    """Where the receiver's address is public and 0.0.0.0, which leads to the same port, is not: each attempt resolves
    once, and what it then found is dialled or nothing is."""
    asked = 0
    places: list[tuple[str, ...]] = [(HOST,), ("0.0.0.0",), (HOST, "0.0.0.0"), ("0.0.0.0", HOST), ("::",), (HOST,)]

    async def look_up(host: str, port: int) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return places[asked - 1]

    async with Receiver(says(OK)).listening(at="0.0.0.0") as receiver:
        rules = Rules(allow_http=True, ports=(receiver.port,), allow_networks=(f"{HOST}/32",))
        url = f"http://company.com:{receiver.port}/"
        errors = [(await send(url, BODY, {}, rules=rules, look_up=look_up)).error for _ in places]
    refused = "url: leads to an address that is not public; use a host of which every address is public"
    assert errors == [None, refused, refused, refused, refused, None]
    assert (asked, receiver.connections) == (len(places), 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(files: Path) -> Authority:
    return Authority(files, "authority")


def serving(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)


async def test_over_tls_the_name_is_verified_and_kept(authority: Authority) -> None:
    async with Receiver(says(OK)).listening(serving(authority.sign("named", host="localhost"))) as receiver:
        url = f"https://LocalHost:{receiver.port}/x"
        rules = Rules(ports=(receiver.port,), allow_networks=("127.0.0.0/8", "::1/128"))
        answer = await send(url, BODY, {}, rules=rules, tls=trusting(authority))
    assert (answer.status, answer.error) == (200, None)
    assert receiver.names == ["localhost"]
    assert f"host: localhost:{receiver.port}\r\n".encode() in receiver.requests[0]


async def test_over_tls_an_address_is_verified_too(authority: Authority) -> None:
    async with Receiver(says(OK)).listening(serving(authority.sign("at"))) as receiver:
        answer = await post_tls(receiver, tls=trusting(authority))
    assert (answer.status, answer.error) == (200, None)
    assert receiver.names == [None]


async def post_tls(receiver: Receiver, **options: Any) -> Answer:
    return await send(f"https://{HOST}:{receiver.port}/", BODY, {}, rules=inside(receiver), **options)


async def test_a_certificate_that_does_not_hold_is_an_answer_and_nothing_is_sent(
    authority: Authority, files: Path
) -> None:
    wrong = {
        "IP address mismatch": authority.sign("elsewhere", address="127.0.0.2"),
        "certificate has expired": authority.sign("old", valid_for=timedelta(hours=-1)),
        "unable to get local issuer": Authority(files, "other").sign("unknown"),
    }
    for said, certificate in wrong.items():
        async with Receiver(says(OK)).listening(serving(certificate)) as receiver:
            answer = await post_tls(receiver, tls=trusting(authority))
        assert (answer.error or "").startswith(f"certificate: it cannot be verified ({said}")
        assert receiver.requests == []
    async with Receiver(says(OK)).listening(serving(authority.sign("private"))) as receiver:
        assert ((await post_tls(receiver)).error or "").startswith("certificate: ")
        by_name = await send(
            f"https://localhost:{receiver.port}/",
            BODY,
            {},
            rules=inside(receiver),
            tls=trusting(authority),
            look_up=here,
        )
    assert "Hostname mismatch" in (by_name.error or "")
    assert receiver.requests == []


async def here(host: str, port: int) -> Sequence[str]:
    return (HOST,)


async def test_a_port_that_speaks_no_tls_is_an_answer(authority: Authority) -> None:
    async def greets(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
        await receiver.write(writer, b"220 mail ready\r\n")
        await reader.read()

    async with Receiver(greets).listening() as receiver:
        assert ((await post_tls(receiver)).error or "").startswith("tls: no secure connection")
    async with Receiver(reads_nothing).listening() as receiver:
        assert ((await post_tls(receiver, timeout_s=0.2)).error or "").startswith("timeout: ")
    async with Receiver(ends).listening() as receiver:
        assert ((await post_tls(receiver)).error or "").startswith("connection: it failed (")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_a_context_that_takes_less_is_refused() -> None:
    old, blind, trustful = (ssl.create_default_context() for _ in range(3))
    old.minimum_version = ssl.TLSVersion.TLSv1_1
    blind.check_hostname = False
    trustful.check_hostname = False
    trustful.verify_mode = ssl.CERT_NONE
    for context in (old, blind, trustful):
        with pytest.raises(InvalidInput, match="tls: takes what is not verified"):
            await send("https://company.com/", BODY, {}, rules=Rules(), tls=context)


async def test_hung_attempts_hold_nobody_up() -> None:
    async with Receiver(reads_nothing).listening() as hung, Receiver(says(OK)).listening() as well:
        waiting = [asyncio.create_task(post(hung, timeout_s=5)) for _ in range(50)]
        answers = [await post(well) for _ in range(20)]
        for task in waiting:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert all(answer.error is None and answer.took_ms < 1_000 for answer in answers)


async def test_without_the_extra_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h11", None)
    with pytest.raises(MissingExtra, match=r"sending webhooks needs an extra: pip install \"mm-metering\[server\]\""):
        await send("https://company.com/", BODY, {}, rules=Rules())
