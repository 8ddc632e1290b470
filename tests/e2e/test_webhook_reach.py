"""Where a webhook can go: to the address that was checked, under the name that was verified, and nowhere else."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mm_metering.errors import InvalidInput
from mm_metering.webhooks.answers import Answer
from mm_metering.webhooks.guard import Rules
from mm_metering.webhooks.sender import send
from tests.e2e.receivers import BODY, OK, Receiver, ends, head, inside, post, reads_nothing, says
from tests.tls_proxy import HOST, Authority, Certificate
from tests.webhook_urls import HOSTS, URLS


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
