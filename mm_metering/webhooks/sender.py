"""One attempt at one webhook: a POST over HTTP/1.1, to an address that has just passed the guard.

A bare connection and h11, not a client: those would have to be kept from redirects, proxies, cookies and decompression,
one by one. Whatever a receiver does is an Answer, never an exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import cache
from typing import Final

from mm_metering.errors import InvalidInput, MissingExtra, UrlRefused
from mm_metering.webhooks.answers import Answer, Heard
from mm_metering.webhooks.guard import LookUp, Rules, Target, check_url, resolve

TIMEOUT_S: Final = 15.0
CONNECT_S: Final = 5.0
"""For one address, with TLS."""
MAX_ADDRESSES: Final = 3
"""Of one host, tried in turn until one takes the connection."""

Streams = tuple[StreamReader, StreamWriter]


async def send(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    rules: Rules,
    timeout_s: float = TIMEOUT_S,
    tls: ssl.SSLContext | None = None,
    look_up: LookUp | None = None,
) -> Answer:
    """POSTs the body once. From the look-up of the host to the end of the answer it takes at most ``timeout_s``.

    headers  Host, Content-Length, Connection and Accept-Encoding are ours
    tls      what certificates are verified by, instead of the system's authorities
    look_up  how hosts are resolved, instead of the system's way

    Needs the extra ``server``.
    """
    _require_h11()
    from mm_metering.webhooks.exchange import exchange

    tls = _verifying(tls or _system_tls())
    loop = asyncio.get_running_loop()
    heard, started = Heard(), loop.time()
    try:
        async with asyncio.timeout(timeout_s):
            target = check_url(url, rules)
            addresses = await resolve(target, rules, look_up)
            async with _connection(target, addresses, tls) as (reader, writer):
                error = await exchange(reader, writer, target=target, headers=headers, body=body, heard=heard)
    except TimeoutError:
        error = f"timeout: the whole of it took more than {timeout_s:g} s; answer first, then work"
    except (UrlRefused, OSError) as failure:
        error = _sentence(failure)
    return heard.answer(error, took_ms=round((loop.time() - started) * 1000))


@contextlib.asynccontextmanager
async def _connection(target: Target, addresses: Sequence[str], tls: ssl.SSLContext) -> AsyncIterator[Streams]:
    """To the first of the addresses that takes one."""
    reader, writer = await _connected(target, addresses, tls if target.scheme == "https" else None)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # closing in good form would wait for the receiver


async def _connected(target: Target, addresses: Sequence[str], tls: ssl.SSLContext | None) -> Streams:
    """The name stays in SNI, and the certificate must be for it."""
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "it has no address")
    for address in addresses[:MAX_ADDRESSES]:
        try:
            async with asyncio.timeout(CONNECT_S):
                name = target.host if tls else None
                return await asyncio.open_connection(address, target.port, ssl=tls, server_hostname=name)
        except ssl.SSLError:
            raise
        except TimeoutError:
            failure = ConnectionError(errno.ETIMEDOUT, "")
        except OSError as error:
            failure = error
    raise failure


def _sentence(failure: UrlRefused | OSError) -> str:
    """Without an address: who chose the name need not learn it."""
    match failure:
        case UrlRefused():
            return str(failure)
        case socket.gaierror():
            return f"dns: the host cannot be resolved ({failure.strerror})"
        case ssl.SSLCertVerificationError():
            return f"certificate: it cannot be verified ({failure.verify_message})"
        case ssl.SSLError():
            return f"tls: no secure connection of TLS 1.2 or newer ({failure.reason or 'closed'})"
        case _:
            return f"connection: it failed ({os.strerror(failure.errno) if failure.errno else 'closed'})"


@cache
def _system_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _verifying(tls: ssl.SSLContext) -> ssl.SSLContext:
    is_strict = tls.check_hostname and tls.verify_mode is ssl.CERT_REQUIRED
    if not is_strict or tls.minimum_version < ssl.TLSVersion.TLSv1_2:
        raise InvalidInput("tls", "takes what is not verified, or older than TLS 1.2; use ssl.create_default_context()")
    return tls


def _require_h11() -> None:
    try:
        import h11  # noqa: F401
    except ImportError as error:
        raise MissingExtra("server", "sending webhooks") from error
