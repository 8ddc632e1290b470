"""One attempt at a webhook against real receivers on loopback: whatever they do, it ends as an Answer, in its time and
its bytes."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping, Sequence
from random import Random

import pytest

from mm_metering.errors import MissingExtra
from mm_metering.webhooks.guard import Rules
from mm_metering.webhooks.sender import send
from tests.e2e.receivers import (
    BODY,
    OK,
    Receiver,
    Script,
    head,
    inside,
    post,
    reads_nothing,
    resets,
    says,
    says_for_ever,
)
from tests.tls_proxy import HOST


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
    "a very long status": (b"HTTP/1.1 20 OK" + b"x" * 9_000 + b"\r\n\r\n", None, "protocol: "),
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
    "a long body cut short": (head("Content-Length: 60000") + b"x" * 50_000, 200, "protocol: "),
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


async def test_an_answer_in_crumbs_is_left_after_a_thousand_of_them() -> None:
    """All 64 KiB of them would keep the event loop for a third of a second."""
    async with Receiver(says_for_ever(chunked(b""), b"1\r\nx\r\n" * 10_000)).listening() as receiver:
        answer = await post(receiver)
    assert (answer.status, answer.error) == (200, None)
    assert 900 < len(answer.excerpt) < 1024


async def test_any_answer_is_an_answer() -> None:
    """The answers above, each changed at random places."""
    random = Random(27)
    said = b""

    async def script(receiver: Receiver, reader: StreamReader, writer: StreamWriter) -> None:
        await says(said)(receiver, reader, writer)

    async with Receiver(script).listening() as receiver:
        for before in [answer[:500] for answer, _, _ in ANSWERS.values()] * 8:
            edited = bytearray(before)
            for _ in range(random.randint(1, 4)):
                at = random.randint(0, len(edited))
                edited[at : at + random.randint(0, 3)] = random.choices(b"\r\n:;,0 9f\x00\xff", k=random.randint(0, 3))
            said = bytes(edited)
            answer = await post(receiver, timeout_s=5)
            assert (answer.error is None) <= (answer.status is not None and 200 <= answer.status < 300)
            assert (answer.error or "").isprintable()
            assert not (answer.error or "").startswith("timeout")


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
