"""One request and its answer on an open connection, by h11; imported where one is sent, since it is in an extra."""

from __future__ import annotations

import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from typing import Final

import h11

from mm_metering.webhooks.answers import MAX_BODY_BYTES, Heard
from mm_metering.webhooks.guard import Target

MAX_HEAD_BYTES: Final = 16 * 1024
MAX_BYTES: Final = MAX_HEAD_BYTES + MAX_BODY_BYTES
"""That are read of an answer, whatever they are: nothing of h11's can grow past that."""
READ_BYTES: Final = 4096
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
        return f"protocol: the answer is no HTTP/1.1 ({error})"


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
    count = 0
    while count < MAX_BYTES and len(heard.body) < MAX_BODY_BYTES:
        match wire.next_event():
            case h11.NEED_DATA:
                data = await reader.read(READ_BYTES)
                count += len(data)
                if heard.status is None and not data:
                    return "connection: it was closed before an answer came"
                wire.receive_data(data)
            case h11.Response(status_code=status, headers=headers):
                heard.status, heard.headers = status, dict(headers)
            case h11.Data(data=data):
                heard.body += data
            case h11.InformationalResponse():
                pass
            case _:
                break
        if heard.status is None and count > MAX_HEAD_BYTES:
            return f"protocol: the answer's head has more than {MAX_HEAD_BYTES} bytes"
    return heard.verdict()
