"""One request and its answer on an open connection, by h11; imported where one is sent, since it is in an extra."""

from __future__ import annotations

import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from typing import Final

import h11

from mm_metering.webhooks.answers import Heard
from mm_metering.webhooks.guard import Target

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_BYTES: Final = 64 * 1024
"""That are read of an answer, head and all; the rest is not waited for."""
MAX_STEPS: Final = 1024
"""Of h11 for an answer: one of one-byte chunks would keep the event loop for a third of a second."""
READ_BYTES: Final = 4096
MAX_REASON: Final = 100
"""Of h11's own words, which hold what it could not read."""
AGENT: Final = "mm-metering-webhooks"


async def exchange(
    reader: StreamReader, writer: StreamWriter, *, target: Target, headers: Mapping[str, str], body: bytes, heard: Heard
) -> str | None:
    """Sends the request and hears the answer out, or as much as is read of one. Returns what went wrong."""
    wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_BYTES)
    try:
        request = _request(wire, target, headers, body)
    except (h11.LocalProtocolError, UnicodeError):  # whose text holds the header, which may be a secret
        return "request: a header holds what HTTP does not allow"
    with contextlib.suppress(ConnectionError):  # a receiver may answer and close before it has read all
        writer.write(request)
        await writer.drain()
    try:
        return await _hear(reader, wire, heard)
    except h11.RemoteProtocolError as error:
        return f"protocol: the answer is not HTTP/1.1 ({str(error)[:MAX_REASON]})"


def _request(wire: h11.Connection, target: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    ours = {
        "host": target.authority,
        "content-length": str(len(body)),
        "accept-encoding": "identity",
        "connection": "close",
    }
    merged = {"user-agent": AGENT} | {name.lower(): value for name, value in headers.items()} | ours
    head = h11.Request(method="POST", target=target.path, headers=list(merged.items()))
    parts = (wire.send(head), wire.send(h11.Data(data=body)), wire.send(h11.EndOfMessage()))
    return b"".join(part or b"" for part in parts)


async def _hear(reader: StreamReader, wire: h11.Connection, heard: Heard) -> str | None:
    count, most = 0, MAX_HEAD_BYTES
    for _ in range(MAX_STEPS):
        match wire.next_event():
            case h11.NEED_DATA if count < most:
                data = await reader.read(READ_BYTES)
                if not data and heard.status is None:
                    return "connection: it was closed before a whole answer came"
                count += len(data)
                wire.receive_data(data)
            case h11.Response(status_code=status, headers=headers):
                heard.status, heard.headers, most = status, dict(headers), MAX_BYTES
            case h11.Data(data=data):
                heard.body += data
            case h11.InformationalResponse():
                pass
            case _:  # its end, or enough of it
                break
    return heard.verdict()
